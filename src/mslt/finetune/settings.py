"""What a grid of fine-tunings is told. Imports no torch."""

from dataclasses import dataclass, field, fields
from math import inf
from typing import Any, Literal

from mslt.finetune.tasks import SEEDS, TASKS, Task, find


@dataclass(frozen=True)
class FinetuneConfig:
    """Fine-tuning; what is not given is the paper's protocol (section 4.2), task by task.

    Args:
        tasks: which of mnli, qqp, qnli, sst2, cola, stsb, mrpc, rte, wnli, squad1.1, squad2.0.
        glue_dir: GLUE's folder with a folder for each task, or hf:nyu-mll/glue.
        squad_dir: folder of SQuAD's JSON files, or hf:rajpurkar/squad and hf:rajpurkar/squad_v2.
        lrs: learning rates to choose from by the median on dev (default: the task's; GLUE's are
            5e-5, 4e-5, 3e-5 and 2e-5). Small models need higher ones: 1e-4 to 5e-4.
        seeds: how many, of the new head, the order and the dropout.
        epochs: over the training set (default: the task's; 3 for GLUE, 10 for STS-B and RTE).
        batch_size: examples of a step (default: the task's; 32 for GLUE).
        max_length: tokens of an example (default: the task's; 128 for GLUE).
        stride: of SQuAD: tokens that a window of a long text begins after the one before
            (default: 128; with --max_length a third of that).
        max_train: use only the first so many examples of a training set.
        threshold: of SQuAD 2.0: the probability of no answer, from 0 to 1, above which none is said
            (default: the one with the best F1 on dev).
        bad_rows: what a damaged row of a training or dev set does: refuse stops, skip counts.
        random_weights: begin with random weights in the model's shape, to compare with.
        device: auto (a GPU where there is one), cpu, cuda or cuda:N.
        precision: auto takes bf16 where the device is fast at it, fp32 elsewhere.
        workers: cells that are trained at once, each in a process with its share of the cores, or
            on a GPU of its own.
    """

    tasks: list[str] = field(default_factory=list)
    glue_dir: str | None = None
    squad_dir: str | None = None
    lrs: list[float] | None = None
    seeds: int = SEEDS
    epochs: int | None = None
    batch_size: int | None = None
    max_length: int | None = None
    stride: int | None = None
    max_train: int | None = None
    threshold: float | None = None
    bad_rows: Literal["refuse", "skip"] = "refuse"
    random_weights: bool = False
    device: str = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    workers: int = 1

    def __post_init__(self) -> None:
        if not self.tasks:
            raise ValueError(f"tasks is missing; there are {', '.join(TASKS)}")
        for name in self.tasks:
            find(name)
        if len(set(self.tasks)) < len(self.tasks):
            raise ValueError("tasks names one twice")
        for lr in self.lrs or []:
            if not 0 < lr < inf:
                raise ValueError(f"lrs must be above 0, not {lr}")
        for key in ("seeds", "epochs", "batch_size", "stride", "max_train", "workers"):
            value = getattr(self, key)
            if value is not None and value < 1:
                raise ValueError(f"{key} must be 1 or more, not {value}")
        if self.max_length is not None and self.max_length < 8:
            raise ValueError(f"max_length must be 8 or more, not {self.max_length}")
        if self.stride is not None and not any(name.startswith("squad") for name in self.tasks):
            raise ValueError("stride has no effect without a task of SQuAD")
        if self.threshold is not None and "squad2.0" not in self.tasks:
            raise ValueError("threshold has no effect without the task squad2.0")
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold must be from 0 to 1, not {self.threshold}")

    def cells(self) -> list["Cell"]:
        """Every training of the grid: all seeds of a task's rate one after the other."""
        return [
            Cell(name, lr, seed)
            for name in self.tasks
            for lr in self.lrs or find(name).lrs
            for seed in range(self.seeds)
        ]

    def deciding(self) -> dict[str, Any]:
        """What decides a cell's result beside its place in the grid, by option."""
        free = ("tasks", "lrs", "seeds", "workers", "device", "glue_dir", "squad_dir")
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in free}


@dataclass(frozen=True)
class Cell:
    """One training: a task, a learning rate and a seed."""

    task: str
    lr: float
    seed: int

    @property
    def name(self) -> str:
        """Of its folder."""
        return f"{self.task}-lr{self.lr:g}-seed{self.seed}"

    @property
    def row(self) -> Task:
        """Its task."""
        return find(self.task)
