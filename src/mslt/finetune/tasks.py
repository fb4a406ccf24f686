"""The tasks as a table: what their files hold, how an answer is judged, and the protocol.

GLUE (Wang et al. 2018) by its own file names and column headings, SQuAD (Rajpurkar et al. 2016 and
2018). The protocol is that of section 4.2: batches of 32, four learning rates, 3 epochs and 10 for
STS-B and RTE, five seeds; SQuAD has batches and a rate of its own. Imports no torch.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from mslt.foreign import printable

LEARNING_RATES = (5e-5, 4e-5, 3e-5, 2e-5)
SEEDS = 5
LOWEST, HIGHEST = 0.0, 5.0  # of STS-B's ratings


@dataclass(frozen=True, kw_only=True)
class Task:
    """A row of the table.

    Args:
        name: as the command line has it.
        title: as the paper's tables have it.
        metrics: of its scores; learning rates are chosen by the first.
        epochs: over the training set.
        batch_size: examples of a step.
        lrs: learning rates to choose from.
        length: tokens of an example, at most.
    """

    name: str
    title: str
    metrics: tuple[str, ...]
    epochs: int = 3
    batch_size: int = 32
    lrs: tuple[float, ...] = LEARNING_RATES
    length: int = 128

    @property
    def columns(self) -> Mapping[str, str]:
        """Columns of the paper's tables, and the metric that each shows."""
        return {self.title: self.metrics[0]}


@dataclass(frozen=True, kw_only=True)
class Sentences(Task):
    """A task of GLUE: one sentence or two, and an answer.

    Args:
        folder: of its files, in GLUE's folder.
        fields: headings of one sentence or two.
        label: heading of the answer.
        labels: what an answer may be, by its number; none for a number from 0 to 5.
        dev: names of the dev sets; a score is the mean over them.
        rows: of the official training set, and of each dev set.
        test: of each file that is submitted, where its examples are, and how many.
        headings: of the files that have no line of them: all but test sets.
    """

    folder: str
    fields: tuple[str, ...]
    label: str
    labels: tuple[str, ...]
    rows: tuple[int, ...]
    dev: tuple[str, ...] = ("dev",)
    test: tuple["Submitted", ...]
    headings: tuple[str, ...] | None = None

    def answer(self, text: str) -> float:
        """The number of a label; or a rating, which is digits, with a point or without.

        Raises:
            ValueError: it is no answer of this task; the message says what it is instead.
        """
        if text in self.labels:
            return float(self.labels.index(text))
        value = float(text) if re.fullmatch(r"[0-9]+(\.[0-9]+)?", text, re.ASCII) else -1.0
        if not self.labels and LOWEST <= value <= HIGHEST:
            return value
        wanted = " or ".join(self.labels) or f"a number from {LOWEST:g} to {HIGHEST:g}"
        raise ValueError(f"{printable(repr(text[:40]))}, not {wanted}")


@dataclass(frozen=True)
class Submitted:
    """A file of a submission.

    Args:
        file: its name in the zip, without the ending.
        rows: examples that it answers.
        split: name of the test set, among the task's files.
        path: of the test set in GLUE's folder, where it is not among the task's files.
    """

    file: str
    rows: int
    split: str = "test"
    path: str | None = None


@dataclass(frozen=True, kw_only=True)
class Questions(Task):
    """SQuAD: an answer to a question is a span of a text.

    Args:
        train: name of the training file.
        dev: name of the dev file.
        unanswerable: whether some questions have no answer.
        lrs: learning rates to choose from.
        length: tokens of a question with a window of its text.
        stride: tokens from the beginning of one window to the next.
    """

    train: str
    dev: str
    unanswerable: bool
    length: int = 384
    stride: int = 128

    @property
    def columns(self) -> Mapping[str, str]:
        """F1 and exact matches have a column each."""
        return {f"{self.title} F1": "f1", f"{self.title} EM": "exact"}


_BINARY = ("0", "1")
_ENTAILS = ("entailment", "not_entailment")

_TABLE: tuple[Task, ...] = (
    Sentences(
        name="mnli",
        title="MNLI",
        folder="MNLI",
        fields=("sentence1", "sentence2"),
        label="gold_label",
        labels=("contradiction", "entailment", "neutral"),
        metrics=("accuracy",),
        rows=(392_702, 9815, 9832),
        dev=("dev_matched", "dev_mismatched"),
        test=(
            Submitted("MNLI-m", 9796, "test_matched"),
            Submitted("MNLI-mm", 9847, "test_mismatched"),
            Submitted("AX", 1104, "ax", "diagnostic/diagnostic.tsv"),
        ),
    ),
    Sentences(
        name="qqp",
        title="QQP",
        folder="QQP",
        fields=("question1", "question2"),
        label="is_duplicate",
        labels=_BINARY,
        metrics=("f1", "accuracy"),
        rows=(363_846, 40_430),
        test=(Submitted("QQP", 390_965),),
    ),
    Sentences(
        name="qnli",
        title="QNLI",
        folder="QNLI",
        fields=("question", "sentence"),
        label="label",
        labels=_ENTAILS,
        metrics=("accuracy",),
        rows=(104_743, 5463),
        test=(Submitted("QNLI", 5463),),
    ),
    Sentences(
        name="sst2",
        title="SST-2",
        folder="SST-2",
        fields=("sentence",),
        label="label",
        labels=_BINARY,
        metrics=("accuracy",),
        rows=(67_349, 872),
        test=(Submitted("SST-2", 1821),),
    ),
    Sentences(
        name="cola",
        title="CoLA",
        folder="CoLA",
        fields=("sentence",),
        label="label",
        labels=_BINARY,
        metrics=("matthews",),
        rows=(8551, 1043),
        test=(Submitted("CoLA", 1063),),
        headings=("source", "label", "mark", "sentence"),
    ),
    Sentences(
        name="stsb",
        title="STS-B",
        folder="STS-B",
        fields=("sentence1", "sentence2"),
        label="score",
        labels=(),
        metrics=("spearman", "pearson"),
        rows=(5749, 1500),
        test=(Submitted("STS-B", 1379),),
        epochs=10,
    ),
    Sentences(
        name="mrpc",
        title="MRPC",
        folder="MRPC",
        fields=("#1 String", "#2 String"),
        label="Quality",
        labels=_BINARY,
        metrics=("f1", "accuracy"),
        rows=(3668, 408),
        test=(Submitted("MRPC", 1725),),
    ),
    Sentences(
        name="rte",
        title="RTE",
        folder="RTE",
        fields=("sentence1", "sentence2"),
        label="label",
        labels=_ENTAILS,
        metrics=("accuracy",),
        rows=(2490, 277),
        test=(Submitted("RTE", 3000),),
        epochs=10,
    ),
    Sentences(
        name="wnli",
        title="WNLI",
        folder="WNLI",
        fields=("sentence1", "sentence2"),
        label="label",
        labels=_BINARY,
        metrics=("accuracy",),
        rows=(635, 71),
        test=(Submitted("WNLI", 146),),
    ),
    Questions(
        name="squad1.1",
        title="SQuAD1.1",
        metrics=("f1", "exact"),
        train="train-v1.1.json",
        dev="dev-v1.1.json",
        unanswerable=False,
        epochs=2,
        batch_size=12,
        lrs=(3e-5,),
    ),
    Questions(
        name="squad2.0",
        title="SQuAD2.0",
        metrics=("f1", "exact"),
        train="train-v2.0.json",
        dev="dev-v2.0.json",
        unanswerable=True,
        epochs=2,
        batch_size=48,
        lrs=(5e-5,),
    ),
)
TASKS: Mapping[str, Task] = {task.name: task for task in _TABLE}
GLUE: Mapping[str, Sentences] = {t.name: t for t in _TABLE if isinstance(t, Sentences)}


def find(name: str) -> Task:
    """A task by its name.

    Raises:
        ValueError: there is none of this name.
    """
    if name not in TASKS:
        raise ValueError(f"tasks: there is no task {name}; there are {', '.join(TASKS)}")
    return TASKS[name]
