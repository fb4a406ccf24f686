"""GLUE's files in their official layout: tab-separated, no quotes, one heading line.

A row that is not as its heading says is refused by file and line. Imports no torch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from mslt.finetune.tasks import Task
from mslt.foreign import printable

HUB = "hf:"  # begins the name of a data set on the hub, in the place of a folder
# What the hub's copy calls columns that the official files call otherwise.
_ON_THE_HUB = {
    "#1 String": "sentence1",
    "#2 String": "sentence2",
    "Quality": "label",
    "is_duplicate": "label",
    "gold_label": "label",
    "score": "label",
}
_HUB_SPLIT = {"dev": "validation"}


@dataclass(frozen=True)
class Example:
    """One row of a task.

    Args:
        text: a sentence, or two.
        label: the number of the answer among the task's labels, or the answer where that is a
            number; None in a test set.
        index: what a submission calls the row.
    """

    text: tuple[str, ...]
    label: float | None
    index: str


def read(folder: str | Path, task: Task, split: str, *, labelled: bool = True) -> list[Example]:
    """The examples of one of a task's sets.

    Args:
        folder: GLUE's, with a folder for each task; or `hf:NAME`, a data set on the hub.
        task: the task.
        split: train, dev, dev_matched, test, ...
        labelled: whether rows have answers, as those of test sets have not.

    Raises:
        ValueError: naming file and line where a row is damaged, or what is not there.
    """
    if str(folder).startswith(HUB):
        rows = _on_the_hub(str(folder)[len(HUB) :], task, split)
    else:
        rows = _in_file(Path(folder) / task.folder / f"{split}.tsv", task, labelled)
    examples = []
    for number, (where, row) in enumerate(rows):
        text = tuple(row[name] for name in task.fields)
        label = _label(row[task.label], task, where) if labelled else None
        examples.append(Example(text, label, row.get("index", row.get("id", str(number)))))
    if not examples:
        raise ValueError(f"{folder}: {task.title}'s {split} set is empty")
    return examples


def _in_file(file: Path, task: Task, labelled: bool) -> Iterator[tuple[str, dict[str, str]]]:
    """File and line, and the row by its headings."""
    if not file.is_file():
        raise ValueError(f"{file} does not exist: --glue_dir is the folder of GLUE's task folders")
    with file.open("rb") as lines:
        headings, first = task.headings, 1
        if headings is None or not labelled:
            headings, first = tuple(_cells(next(lines, b""), f"{file}:1")), 2
            needs = (*task.fields, task.label) if labelled else task.fields
            for name in needs:
                if name not in headings:
                    raise ValueError(f"{file}:1: there is no column {name!r} in its heading")
        for number, line in enumerate(lines, first):
            where = f"{file}:{number}"
            cells = _cells(line, where)
            if cells == [""]:
                continue  # a blank line at the end
            if len(cells) != len(headings):
                raise ValueError(
                    f"{where}: the row has {len(cells)} columns, not the {len(headings)} of "
                    f"{', '.join(headings)}"
                )
            yield where, dict(zip(headings, cells))


def _cells(line: bytes, where: str) -> list[str]:
    try:
        text = line.decode("utf-8-sig")  # MRPC's heading begins with a byte-order mark
    except UnicodeDecodeError:
        raise ValueError(f"{where}: the row is not UTF-8") from None
    return [cell.strip() for cell in text.rstrip("\r\n").split("\t")]


def _label(text: str, task: Task, where: str) -> float:
    if task.labels:
        if text not in task.labels:
            shown = printable(repr(text[:40]))
            raise ValueError(f"{where}: {task.label} is {shown}, not {' or '.join(task.labels)}")
        return float(task.labels.index(text))
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not isfinite(value):
        raise ValueError(f"{where}: {task.label} is {printable(repr(text[:40]))}, not a number")
    return value


def _on_the_hub(name: str, task: Task, split: str) -> Iterator[tuple[str, dict[str, str]]]:
    """The hub's rows under the official headings."""
    try:
        import datasets
    except ImportError:
        raise ValueError("hf: needs datasets: pip install 'mslt[hub]'") from None
    part, _, rest = split.partition("_")
    there = "_".join(filter(None, [_HUB_SPLIT.get(part, part), rest]))
    rows = datasets.load_dataset(name, task.name, split=there)
    names = rows.features[_ON_THE_HUB.get(task.label, task.label)]
    for number, row in enumerate(rows):
        where = f"{name}, {there}, row {number}"
        found = {key: str(row[_ON_THE_HUB.get(key, key)]) for key in task.fields}
        answer = row[_ON_THE_HUB.get(task.label, task.label)]
        if task.labels and answer is not None and answer >= 0:
            # The hub numbers answers in an order of its own, by names that are the official ones.
            told = names.names[answer]
            answer = told if told in task.labels else task.labels[answer]
        yield where, found | {task.label: str(answer), "index": str(row.get("idx", number))}
