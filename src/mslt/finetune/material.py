"""What a task is to a model: tokens to learn from, and a judgement of what it then says."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from tokenizers import Tokenizer

from mslt.files import sha256
from mslt.finetune import glue, squad
from mslt.finetune.examples import Encoded, encode
from mslt.finetune.loop import answers, predict
from mslt.finetune.metrics import judge
from mslt.finetune.model import TaskModel
from mslt.finetune.squad_material import OfQuestions
from mslt.finetune.tasks import Questions, Sentences, Task

Scores = dict[str, float | None]


@dataclass(frozen=True)
class Folders:
    """Where the data are, and what of them is read.

    Args:
        glue: GLUE's folder, or `hf:NAME`.
        squad: SQuAD's folder, or `hf:NAME`.
        skip: pass over damaged rows of GLUE's training and dev sets.
        most: examples to train on, the first ones; None for all.
        length: tokens of an example, at most; None for the task's own.
        stride: of SQuAD: tokens from one window's beginning to the next; None for the task's own
            or, with another length, for a third of that.
        threshold: of SQuAD 2.0: the probability of no answer above which nothing is said; None for
            the one with the best F1 on dev.
    """

    glue: str | None = None
    squad: str | None = None
    skip: bool = False
    most: int | None = None
    length: int | None = None
    stride: int | None = None
    threshold: float | None = None

    def of(self, task: Task) -> str:
        """Where a task's data are.

        Raises:
            ValueError: it was not said.
        """
        where, option = (
            (self.glue, "glue_dir") if isinstance(task, Sentences) else (self.squad, "squad_dir")
        )
        if where is None:
            raise ValueError(f"--{option} is missing: {task.name} needs it")
        return where

    def print_of(self, task: Task) -> str:
        """A hash of the files that a task is learned from and judged by; or the name on the hub."""
        where = self.of(task)
        if isinstance(task, Sentences):
            files = glue.files(where, task)
        else:
            assert isinstance(task, Questions)
            files = squad.files(where, task)
        return " ".join(sha256(file)[:16] for file in files) or where


class Material(Protocol):
    """A task's data as one model's tokens.

    Args:
        train: what is learned from.
        classes: of the model's head: answers of a sentence, 1 for a number; None for spans.
        labels: their names.
    """

    train: Encoded
    classes: int | None
    labels: tuple[str, ...]

    def judge(self, model: TaskModel, device: str) -> tuple[Scores, dict[str, bytes]]:
        """Scores by metric, in percent, and files that hold what the model says."""


def load(task: Task, folders: Folders, tokenizer: Tokenizer) -> Material:
    """A task's data.

    Raises:
        ValueError: they are damaged, or not there.
    """
    if isinstance(task, Sentences):
        return _OfSentences(task, folders, tokenizer)
    assert isinstance(task, Questions)
    return OfQuestions(
        task,
        folders.of(task),
        tokenizer,
        most=folders.most,
        length=folders.length,
        stride=folders.stride,
        threshold=folders.threshold,
    )


def check(task: Task, folders: Folders) -> None:
    """Read a task's data once, for what is wrong in them.

    Raises:
        ValueError: naming file and line.
    """
    where = folders.of(task)
    if isinstance(task, Sentences):
        glue.check(where, task, skip=folders.skip)
    else:
        assert isinstance(task, Questions)
        for split in ("train", "dev"):
            squad.read_set(where, task, split)


class _OfSentences:
    def __init__(self, task: Sentences, folders: Folders, tokenizer: Tokenizer) -> None:
        self._task, where = task, folders.of(task)
        length = folders.length or task.length

        def read(split: str, most: int | None = None) -> Encoded:
            return encode(
                glue.read(where, task, split, skip=folders.skip)[:most], tokenizer, length
            )

        self.train = read("train", folders.most)
        self.labels: tuple[str, ...] = task.labels
        self.classes: int | None = len(task.labels) or 1
        self._dev = {split: read(split) for split in task.dev}

    def judge(self, model: TaskModel, device: str) -> tuple[Scores, dict[str, bytes]]:
        names = self._task.metrics
        found = {
            split: judge(names, encoded.labels, answers(predict(model, encoded, device)))
            for split, encoded in self._dev.items()
        }
        scores: Scores = {name: _mean([s[name] for s in found.values()]) for name in names}
        if len(found) > 1:
            scores |= {f"{split} {n}": v for split, s in found.items() for n, v in s.items()}
        return scores, {}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if len(known) == len(values) else None
