"""SQuAD's questions. Imports no torch.

The official JSON of both versions (Rajpurkar et al. 2016 and 2018). An entry that is not as it
should be is refused by file, article and question.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mslt.finetune.glue import HUB, load_from_hub
from mslt.finetune.tasks import Questions
from mslt.foreign import printable, read_json_object


@dataclass(frozen=True)
class Answer:
    """A text, and the character of the context where it begins."""

    text: str
    start: int


@dataclass(frozen=True)
class Question:
    """A question on a text; one without answers has none in it.

    Questions on one paragraph share one string of `context`.
    """

    id: str
    text: str
    context: str
    answers: tuple[Answer, ...]


def files(folder: str | Path, task: Questions) -> list[Path]:
    """A task's files; none where they are on the hub."""
    if str(folder).startswith(HUB):
        return []
    return [Path(folder) / name for name in (task.train, task.dev)]


def read_set(
    folder: str | Path, task: Questions, split: str, most: int | None = None
) -> list[Question]:
    """The questions of a task's set.

    Args:
        folder: with the official files; or `hf:NAME`, a data set on the hub.
        task: the task.
        split: train or dev.
        most: how many, the first ones; None for all.

    Raises:
        ValueError: the file is not there, is damaged, or is of the other version.
    """
    if str(folder).startswith(HUB):
        where = f"{folder}, {split}"
        questions = _on_the_hub(str(folder)[len(HUB) :], {"dev": "validation"}.get(split, split))
    else:
        path = Path(folder) / (task.train if split == "train" else task.dev)
        if not path.is_file():
            raise ValueError(f"{path} does not exist: --squad_dir is the folder of SQuAD's files")
        where, questions = str(path), read(path)
    if task.unanswerable != any(not question.answers for question in questions):
        has = "no question" if task.unanswerable else "a question"
        raise ValueError(f"{where} is not of {task.title}: it has {has} without an answer")
    return questions[:most]


def read(path: Path) -> list[Question]:
    """The questions of a file in the official format, of either version.

    Raises:
        ValueError: naming file, article and question where an entry is damaged.
        OSError: it cannot be read.
    """
    articles = _get(read_json_object(path), "data", list, str(path))
    questions = [
        question
        for number, article in enumerate(articles)
        for question in _of(article, number, path)
    ]
    return _whole(questions, str(path))


def _of(article: Any, number: int, path: Path) -> Iterator[Question]:
    """The questions of one article."""
    where = f"{path}: article {number + 1}"
    if isinstance(article, dict) and isinstance(article.get("title"), str):
        where += f" ({printable(article['title'][:60])})"
    for paragraph in _get(article, "paragraphs", list, where):
        context = _get(paragraph, "context", str, where)
        for entry in _get(paragraph, "qas", list, where):
            name = _get(entry, "id", str, where)
            here = f"{where}, question {printable(name[:60])}"
            answers = [
                _answer(
                    _get(a, "text", str, here), _get(a, "answer_start", int, here), context, here
                )
                for a in _get(entry, "answers", list, here)
            ]
            if entry.get("is_impossible") not in (None, not answers):
                raise ValueError(f"{here}: is_impossible contradicts its answers")
            text = _get(entry, "question", str, here)
            yield Question(name, text, context, tuple(answers))


def _get(holder: Any, key: str, kind: type, where: str) -> Any:
    if not isinstance(holder, dict):
        raise ValueError(f"{where}: an entry is no object of JSON where one with {key} should be")
    value = holder.get(key)
    if not isinstance(value, kind) or isinstance(value, bool):
        wanted = {list: "a list", str: "a text", int: "a whole number"}[kind]
        raise ValueError(
            f"{where}: {key} is {'not there' if key not in holder else f'not {wanted}'}"
        )
    return value


def _answer(text: str, start: int, context: str, where: str) -> Answer:
    if not text or start < 0 or context[start : start + len(text)] != text:
        shown = printable(repr(text[:60]))
        raise ValueError(f"{where}: the answer {shown} is not at character {start} of its context")
    return Answer(text, start)


def _whole(questions: list[Question], where: str) -> list[Question]:
    if not questions:
        raise ValueError(f"{where} has no question")
    seen = set()
    for question in questions:
        if question.id in seen:
            raise ValueError(f"{where}: question {printable(question.id[:60])} is there twice")
        seen.add(question.id)
    return questions


def _on_the_hub(name: str, split: str) -> list[Question]:
    """The hub's rows; they are flat, a row for each question."""
    questions, contexts = [], dict[str, str]()
    for row in load_from_hub(name, split):
        context = contexts.setdefault(row["context"], row["context"])
        where = f"{name}, {split}, question {printable(row['id'])}"
        pairs = zip(row["answers"]["text"], row["answers"]["answer_start"])
        answers = tuple(_answer(text, start, context, where) for text, start in pairs)
        questions.append(Question(row["id"], row["question"], context, answers))
    return _whole(questions, f"{name}, {split}")
