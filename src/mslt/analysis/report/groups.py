"""Runs of one plan that differ in their seed alone, seen together: medians. Imports no torch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from mslt.analysis.report.subjects import StageView, Subject


@dataclass(frozen=True)
class Group:
    """A plan's runs.

    Args:
        name: of the plan, or of its only run.
        runs: one for each seed; at least one.
    """

    name: str
    runs: tuple[Subject, ...]

    @property
    def first(self) -> Subject:
        """Whose plan and config stand for all: they differ in the seed."""
        return self.runs[0]

    @property
    def is_whole(self) -> bool:
        """Whether it is the original training: all layers learn from beginning to end."""
        stages = self.first.plan.stages
        return all((s.depth, s.learns_from) == (stages[-1].depth, 0) for s in stages)

    def middle(self, index: int, value: Callable[[StageView], float | None]) -> float | None:
        """The median over runs of a figure of a stage; None where no run has it."""
        found = [value(run.stages[index]) for run in self.runs]
        known = [each for each in found if each is not None]
        return median(known) if known else None

    def stages(self) -> list[dict[str, Any]]:
        """For each stage what it is, and the medians of what was measured."""
        rows = []
        for index, view in enumerate(self.first.stages):
            done = [run.stages[index].done for run in self.runs]
            rows.append(
                {
                    "number": view.number,
                    "depth": view.stage.depth,
                    "fixed": view.stage.learns_from,
                    "length": view.stage.seq_len,
                    "steps": view.stage.steps,
                    "begin": view.begin,
                    "done": max(done),
                    "tokens": max(run.stages[index].tokens for run in self.runs),
                    "learning": view.learning,
                    "seconds": self.middle(index, lambda s: s.seconds),
                    "step_seconds": self.middle(index, lambda s: s.step_seconds),
                    "memory": self.middle(index, lambda s: s.memory),
                    "heldout": self.middle(index, lambda s: s.heldout),
                    "accuracy": self.middle(index, lambda s: s.accuracy),
                    "predicted": self.middle(index, lambda s: s.predicted),
                }
            )
        return rows


def grouped(runs: Sequence[Subject]) -> list[Group]:
    """Runs by group, in the order in which they come; seeds in theirs."""
    names = list(dict.fromkeys(run.group for run in runs))
    return [
        Group(
            name,
            tuple(sorted((r for r in runs if r.group == name), key=lambda r: r.config.seed)),
        )
        for name in names
    ]
