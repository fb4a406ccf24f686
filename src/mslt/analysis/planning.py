"""What plans will take, stage by stage, beside each other. Imports no torch."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from mslt.analysis.estimate import (
    WIRE,
    Estimate,
    Machine,
    bound_seconds,
    expected_memory,
    step_seconds,
    way,
)
from mslt.config import Config, PlanConfig
from mslt.cost import learning_parameters, step_cost
from mslt.forecast import Forecast, slots
from mslt.plan import METHODS, Plan
from mslt.room import run_bytes

RETRAIN = (0.0, 0.1, 0.2, 0.35, 0.5)  # shares of the steps that a search tries
FIRST = (1.0, 4.0)  # times as many steps in the first stage as in each other that grows


@dataclass(frozen=True)
class Outlook:
    """What a plan will take.

    Args:
        name: of the plan, or of the recipe.
        config: the run.
        plan: its stages.
        rows: of each stage: what it is, and what a step of it takes.
        evaluation: seconds of one held-out evaluation; None where nothing is known of it.
        by: what says so.
    """

    name: str
    config: Config
    plan: Plan
    rows: list[dict[str, Any]]
    evaluation: float | None
    by: str

    def total(self, key: str) -> float:
        """A figure of one step, over all steps."""
        return sum(row["steps"] * row[key] for row in self.rows)

    @property
    def bounded(self) -> bool:
        """Whether it would take less, by more than rounding, if forward-only layers were free."""
        return self.total("bound") < 0.999 * self.total("seconds")

    @property
    def evaluations(self) -> int:
        """How often the run is evaluated."""
        every = self.config.eval_every
        return len(self.rows) + (self.plan.steps // every if every else 0)

    def forecast(self) -> Forecast:
        """What a run keeps of it."""
        return Forecast(self.by, tuple(row["seconds"] for row in self.rows), self.evaluation)

    def to_dict(self) -> dict[str, Any]:
        """All of it, for a script; `mslt pretrain --forecast` reads it too."""
        return {
            "name": self.name,
            "batch_size": self.config.batch_size,
            "steps": self.plan.steps,
            "seconds": self.total("seconds"),
            "bound_seconds": self.total("bound"),
            "flops": self.total("flops"),
            "sent": self.total("sent"),
            "memory": max(row["memory"] for row in self.rows),
            "disk": run_bytes(self.config),
            "evaluations": self.evaluations,
            "stages": self.rows,
            "forecast": self.forecast().to_dict(),
        }


@dataclass(frozen=True)
class Prospect:
    """Where plans are to run, and what is known of it.

    Args:
        estimate: knows what a step takes.
        machine: on which.
        micro_batch: sequences that go through the model at once, by their length.
        half: whether layers compute in bf16.
        memory: bytes at the peak that were measured, by way.
        evaluation: seconds of one held-out evaluation; None where nothing is known of it.
    """

    estimate: Estimate
    machine: Machine
    micro_batch: Callable[[int], int]
    half: bool
    memory: Mapping[tuple[int, int, int], int | None]
    evaluation: float | None = None

    def outlook(self, name: str, config: Config) -> Outlook:
        """What a run will take there."""
        plan = config.stages()
        rows = [self._row(config, plan, index) for index in range(len(plan.stages))]
        return Outlook(name, config, plan, rows, self.evaluation, self.estimate.by)

    def _row(self, config: Config, plan: Plan, index: int) -> dict[str, Any]:
        stage = plan.stages[index]
        learning = learning_parameters(config.model, stage)
        micro = self.micro_batch(stage.seq_len)
        expected = expected_memory(config, plan, index, micro, self.half)
        cost = step_cost(config.model, stage, config.batch_size, slots(config, stage))
        return {
            "depth": stage.depth,
            "learns_from": stage.learns_from,
            "steps": stage.steps,
            "seq_len": stage.seq_len,
            "tokens": stage.steps * config.batch_size * stage.seq_len,
            "learning": learning,
            "flops": cost.total(),
            "seconds": step_seconds(self.estimate, config, stage),
            "bound": bound_seconds(self.estimate, stage),
            "reduced": learning * WIRE[config.reduce],
            "sent": self.machine.sent(config, stage),
            "memory": self.memory.get(way(stage)) or expected,
        }


def by_method(config: Config, method: str, **plan: Any) -> Config:
    """The same run by another method; its stages are that method's usual ones unless given.

    Raises:
        ValueError: that method has no plan for so many layers, or steps.
    """
    lengths = ("seq_len", "long_share", "long_seq_len")
    kept = {name: getattr(config.plan, name) for name in lengths}
    return replace(config, plan=PlanConfig(method=method, **kept, **plan))  # type: ignore[arg-type]


def beside(name: str, config: Config) -> dict[str, Config]:
    """A run, and the same by each other method that has a plan for its layers."""
    found = {name: config}
    for method in METHODS:
        if method == config.plan.method:
            continue
        for k in (None, 2):  # where the usual number of stages does not fit, two may
            try:
                found[method] = by_method(config, method, k=k)
                break
            except ValueError:
                continue
    return found


@dataclass(frozen=True)
class Split:
    """A way to split the steps of MSLT.

    Args:
        k: stages in which the model grows.
        shares: per cent of the steps of the first stage, of each other that grows, of retraining.
        outlook: what it will take.
    """

    k: int
    shares: tuple[float, float, float]
    outlook: Outlook

    @property
    def options(self) -> str:
        """What says so to `mslt pretrain`."""
        return self.outlook.name


def search(config: Config, prospect: Prospect) -> list[Split]:
    """Ways to split the steps of MSLT, by predicted time, the fastest first.

    They differ in how many stages there are, in how much longer the first one is, the only one
    beside the retraining in which the embeddings learn, and in the share of the retraining.
    """
    layers, found = config.model.num_hidden_layers, []
    for k in (k for k in range(2, layers + 1) if layers % k == 0):
        for retrain, first in product(RETRAIN, FIRST):
            other = round(100 * (1 - retrain) / (k - 1 + first), 1)
            begins, ends = round(100 - 100 * retrain - (k - 1) * other, 1), round(100 * retrain, 1)
            shares = [begins, *[other] * (k - 1), ends]
            words = f"--plan.k {k} --plan.shares {','.join(f'{share:g}' for share in shares)}"
            try:
                run = by_method(config, "mslt", k=k, shares=shares)
            except ValueError:
                continue  # too few steps for so many stages
            found.append(Split(k, (begins, other, ends), prospect.outlook(words, run)))
    return sorted(found, key=lambda split: split.outlook.total("seconds"))
