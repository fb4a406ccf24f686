"""GLUE's files in their official layout: tab-separated, no quotes, one heading line.

A row that is not as its heading says is refused by file and line. Imports no torch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mslt.finetune.tasks import Sentences, Submitted
from mslt.foreign import printable

HUB = "hf:"  # begins the name of a data set on the hub, in the place of a folder
# What the hub's copy calls columns of texts that the official files call otherwise, by task. All
# its answers are called label.
_ON_THE_HUB = {
    "mnli": {"sentence1": "premise", "sentence2": "hypothesis"},  # of AX as well
    "mrpc": {"#1 String": "sentence1", "#2 String": "sentence2"},
}
_HUB_SPLIT = {"dev": "validation"}
_TOLD = 5  # rows that were passed over are told of one by one, as many at most


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


def read(folder: str | Path, task: Sentences, split: str, *, skip: bool = False) -> list[Example]:
    """The examples of a set that has answers.

    Args:
        folder: GLUE's, with a folder for each task; or `hf:NAME`, a data set on the hub.
        task: the task.
        split: train, dev, dev_matched, ...
        skip: pass over rows that are damaged, and tell of them, instead of refusing the file.

    Raises:
        ValueError: naming file and line where a row is damaged, or what is not there.
    """
    return _examples(_rows(folder, task, split), task, f"{folder}, {split}", skip=skip)


def read_test(folder: str | Path, task: Sentences, test: Submitted) -> list[Example]:
    """The examples of a test set, which have no answers.

    Raises:
        ValueError: as `read`; or its rows are not those that a submission answers.
    """
    found = _examples(_rows(folder, task, test.split, test), task, f"{folder}, {test.file}")
    if [example.index for example in found] != [str(i) for i in range(test.rows)]:
        raise ValueError(
            f"{folder}: {test.file}'s test set has {len(found):,} rows where the official one has "
            f"{test.rows:,}, numbered from 0"
        )
    return found


def check(folder: str | Path, task: Sentences, *, skip: bool = False) -> None:
    """Read the sets that have answers once, and tell of those that have more or fewer rows than
    the official ones: a file that was cut after a whole row looks like any other.

    Raises:
        ValueError: as `read`.
    """
    splits = ("train", *task.dev)
    where = [str(file) for file in files(folder, task)] or [f"{folder}, {s}" for s in splits]
    for split, name, official in zip(splits, where, task.rows, strict=True):
        found = len(read(folder, task, split, skip=skip))
        if found != official:
            told = f"{found:,} rows, and {task.title}'s official set {official:,}"
            print(f"mslt: {printable(name)} has {told}", flush=True)


def files(folder: str | Path, task: Sentences) -> list[Path]:
    """The files of a task's sets with answers; none where they are on the hub."""
    if _is_hub(folder):
        return []
    return [Path(folder) / task.folder / f"{split}.tsv" for split in ("train", *task.dev)]


@dataclass(frozen=True)
class _Row:
    """Cells by their headings; `wrong` says what is damaged in the row."""

    where: str
    cells: dict[str, str]
    wrong: str = ""


def _examples(
    rows: Iterator[_Row], task: Sentences, where: str, *, skip: bool | None = None
) -> list[Example]:
    """What is in the rows; with skip None, a test set's, none may be passed over."""
    found, bad = [], list[str]()
    for number, row in enumerate(rows):
        try:
            found.append(_example(row, task, number))
        except ValueError as error:
            if not skip:
                hint = "" if skip is None else "; --bad_rows skip passes over such rows"
                raise ValueError(f"{error}{hint}") from None
            bad.append(str(error))
    for text in bad[:_TOLD]:
        print(f"mslt: {printable(text)}: passed over", flush=True)
    if bad:
        print(f"mslt: {where}: {len(bad):,} damaged rows were passed over", flush=True)
    if not found:
        raise ValueError(f"{where}: {task.title} has no rows there")
    return found


def _example(row: _Row, task: Sentences, number: int) -> Example:
    if row.wrong:
        raise ValueError(f"{row.where}: {row.wrong}")
    text = tuple(row.cells[name] for name in task.fields)
    if not any(text):
        raise ValueError(f"{row.where}: the row has no text")
    label = _label(row.cells[task.label], task, row.where) if task.label in row.cells else None
    return Example(text, label, row.cells.get("index", row.cells.get("id", str(number))))


def _label(text: str, task: Sentences, where: str) -> float:
    try:
        return task.answer(text)
    except ValueError as error:
        raise ValueError(f"{where}: {task.label} is {error}") from None


def _is_hub(folder: str | Path) -> bool:
    return str(folder).startswith(HUB)


def _rows(
    folder: str | Path, task: Sentences, split: str, test: Submitted | None = None
) -> Iterator[_Row]:
    if _is_hub(folder):
        return _on_the_hub(str(folder)[len(HUB) :], task, split, test)
    inside = (test and test.path) or f"{task.folder}/{split}.tsv"
    return _in_file(Path(folder) / inside, task, labelled=test is None)


def _in_file(file: Path, task: Sentences, labelled: bool) -> Iterator[_Row]:
    if not file.is_file():
        raise ValueError(f"{file} does not exist: --glue_dir is the folder of GLUE's task folders")
    needs = (*task.fields, task.label) if labelled else task.fields
    with file.open("rb") as lines:
        headings, first = task.headings, 1
        if headings is None or not labelled:
            headings, first = tuple(_cells(next(lines, b""), f"{file}:1")), 2
            for name in needs:
                if name not in headings:
                    raise ValueError(f"{file}:1: there is no column {name!r} in its heading")
        blank = list[str]()  # lines, of which those at the end are no rows
        for number, line in enumerate(lines, first):
            where = f"{file}:{number}"
            if not line.strip():
                blank.append(where)
                continue
            yield from (_Row(before, {}, "the row is blank") for before in blank)
            blank.clear()
            try:
                cells = _cells(line, where)
            except ValueError:
                yield _Row(where, {}, "the row is not UTF-8")
                continue
            found = dict(zip(headings, cells))
            wrong = "" if len(cells) == len(headings) else _columns(len(cells), headings)
            yield _Row(where, found if labelled else _without(found, task.label), wrong)


def _columns(count: int, headings: tuple[str, ...]) -> str:
    return f"the row has {count} columns, not the {len(headings)} of {', '.join(headings)}"


def _without(cells: dict[str, str], name: str) -> dict[str, str]:
    return {key: cell for key, cell in cells.items() if key != name}


def _cells(line: bytes, where: str) -> list[str]:
    try:
        text = line.decode("utf-8-sig")  # MRPC's heading begins with a byte-order mark
    except UnicodeDecodeError:
        raise ValueError(f"{where}: the row is not UTF-8") from None
    return [cell.strip() for cell in text.rstrip("\r\n").split("\t")]


def _on_the_hub(name: str, task: Sentences, split: str, test: Submitted | None) -> Iterator[_Row]:
    """The hub's rows under the official headings."""
    config, kind, rest = task.name, *split.partition("_")[::2]
    if test and test.path:
        config, kind = split, "test"  # the hub has AX as a task of its own
    there = "_".join(filter(None, [_HUB_SPLIT.get(kind, kind), rest]))
    rows, where = load_from_hub(name, there, config), f"{HUB}{name}, {config}, {there}"
    columns = {key: _ON_THE_HUB.get(task.name, {}).get(key, key) for key in task.fields}
    if test is None:
        columns[task.label] = "label"
    for column in columns.values():
        if column not in rows.column_names:
            has = printable(", ".join(rows.column_names))
            raise ValueError(f"{where}: there is no column {column!r}; there are {has}")
    names = _names(rows.features["label"], task, where) if test is None and task.labels else ()
    for number, row in enumerate(rows):
        found = {key: str(row[column]).strip() for key, column in columns.items()}
        lacking = [column for column in columns.values() if row[column] is None]
        if not lacking and names and 0 <= row["label"] < len(names):
            found[task.label] = names[row["label"]]
        wrong = f"there is nothing in column {lacking[0]!r}" if lacking else ""
        yield _Row(f"{where}, row {number}", found | {"index": str(number)}, wrong)


def _names(column: Any, task: Sentences, where: str) -> tuple[str, ...]:
    """The official names of the hub's answers, which it numbers in an order of its own.

    Raises:
        ValueError: it is not said what its numbers mean.
    """
    names = tuple(getattr(column, "names", ()))  # a column of plain numbers has none
    if set(names) == set(task.labels):
        return names
    if len(names) == len(task.labels) == 2 and set(task.labels) == {"0", "1"}:
        return task.labels  # not_equivalent is 0, equivalent is 1
    has = printable(", ".join(names)) or "no names"
    raise ValueError(f"{where}: label has {has}, not {', '.join(task.labels)}")


def load_from_hub(name: str, split: str, config: str | None = None) -> Any:
    """A data set by the `datasets` library.

    Raises:
        ValueError: the library is not installed, or it finds no such data set.
    """
    try:
        import datasets
    except ImportError:
        raise ValueError("hf: needs datasets: pip install 'mslt[hub]'") from None
    try:
        return datasets.load_dataset(name, config, split=split)
    except Exception as error:  # of the network, of files, of names: its own kinds are many
        which = f"{name}, {config}, {split}" if config else f"{name}, {split}"
        raise ValueError(f"hf:{which}: {printable(str(error))}") from None
