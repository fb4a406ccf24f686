"""The tasks as a table: what their files hold, and how an answer is judged. Imports no torch.

GLUE (Wang et al. 2018) by its own file names and column headings; the protocol is that of section
4.2: batches of 32, four learning rates, 3 epochs and 10 for STS-B and RTE, five seeds.
"""

from dataclasses import dataclass

LEARNING_RATES = (5e-5, 4e-5, 3e-5, 2e-5)
SEEDS = 5

_COLA = ("source", "label", "mark", "sentence")  # its files but for the test's have no heading


@dataclass(frozen=True)
class Task:
    """One row of the table.

    Args:
        name: as the command line has it.
        title: as the paper's tables have it.
        folder: of its files, in GLUE's folder.
        fields: headings of one sentence or two.
        label: heading of the answer.
        labels: what an answer may be, first to last; none for a number.
        metrics: of `mslt.finetune.metrics`; the first is the task's score.
        dev: names of the dev sets; the task's score is the mean over them.
        test: name of the test set of each submitted file.
        train: name of the training set.
        epochs: over the training set (section 4.2).
        headings: of the files that have no line of them.
    """

    name: str
    title: str
    folder: str
    fields: tuple[str, ...]
    label: str
    labels: tuple[str, ...]
    metrics: tuple[str, ...]
    dev: tuple[str, ...] = ("dev",)
    test: tuple[tuple[str, str], ...] = ()
    train: str = "train"
    epochs: int = 3
    headings: tuple[str, ...] | None = None


_BINARY = ("0", "1")
_ENTAILS = ("entailment", "not_entailment")

TASKS = {
    task.name: task
    for task in (
        Task(
            "cola",
            "CoLA",
            "CoLA",
            ("sentence",),
            "label",
            _BINARY,
            ("matthews",),
            test=(("CoLA", "test"),),
            headings=_COLA,
        ),
        Task(
            "sst2",
            "SST-2",
            "SST-2",
            ("sentence",),
            "label",
            _BINARY,
            ("accuracy",),
            test=(("SST-2", "test"),),
        ),
        Task(
            "mrpc",
            "MRPC",
            "MRPC",
            ("#1 String", "#2 String"),
            "Quality",
            _BINARY,
            ("f1", "accuracy"),
            test=(("MRPC", "test"),),
        ),
        Task(
            "stsb",
            "STS-B",
            "STS-B",
            ("sentence1", "sentence2"),
            "score",
            (),
            ("spearman", "pearson"),
            test=(("STS-B", "test"),),
            epochs=10,
        ),
        Task(
            "qqp",
            "QQP",
            "QQP",
            ("question1", "question2"),
            "is_duplicate",
            _BINARY,
            ("f1", "accuracy"),
            test=(("QQP", "test"),),
        ),
        Task(
            "mnli",
            "MNLI",
            "MNLI",
            ("sentence1", "sentence2"),
            "gold_label",
            ("contradiction", "entailment", "neutral"),
            ("accuracy",),
            dev=("dev_matched", "dev_mismatched"),
            test=(("MNLI-m", "test_matched"), ("MNLI-mm", "test_mismatched")),
        ),
        Task(
            "qnli",
            "QNLI",
            "QNLI",
            ("question", "sentence"),
            "label",
            _ENTAILS,
            ("accuracy",),
            test=(("QNLI", "test"),),
        ),
        Task(
            "rte",
            "RTE",
            "RTE",
            ("sentence1", "sentence2"),
            "label",
            _ENTAILS,
            ("accuracy",),
            test=(("RTE", "test"),),
            epochs=10,
        ),
        Task(
            "wnli",
            "WNLI",
            "WNLI",
            ("sentence1", "sentence2"),
            "label",
            _BINARY,
            ("accuracy",),
            test=(("WNLI", "test"),),
        ),
    )
}


def find(name: str) -> Task:
    """A task by its name.

    Raises:
        ValueError: there is none of this name.
    """
    if name not in TASKS:
        raise ValueError(f"tasks: there is no task {name}; there are {', '.join(TASKS)}")
    return TASKS[name]
