"""The runs that a report is about, and what each run's folder says of them. Imports no torch."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

from mslt import cost, foreign, layout
from mslt.analysis.comparison import read_comparison
from mslt.config import Config
from mslt.forecast import Forecast
from mslt.plan import Plan, Stage

MOST_RUNS = 60  # of which a page can be read


@dataclass(frozen=True)
class Subject:
    """One run.

    Args:
        path: its folder.
        name: what the page calls it.
        group: what it shares with runs that differ in their seed alone.
        budget: what it has in common with all others, where they are one comparison's.
    """

    path: Path
    name: str
    group: str
    budget: layout.Budget = "recipe"

    @cached_property
    def config(self) -> Config:
        """As resolved."""
        return layout.read_config(self.path)

    @cached_property
    def plan(self) -> Plan:
        """Its stages."""
        return self.config.stages()

    @cached_property
    def facts(self) -> dict[str, Any]:
        """What run.json says."""
        return layout.read_facts(self.path)

    @cached_property
    def metrics(self) -> list[dict[str, Any]]:
        """Every line of metrics.jsonl."""
        return layout.read_metrics(self.path)

    def lines(self, kind: str) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl of one kind, first to last."""
        return [line for line in self.metrics if line["kind"] == kind]

    @cached_property
    def forecast(self) -> Forecast | None:
        """What was predicted before it began, if anything was."""
        return Forecast.of_run(self.facts, self.plan, str(self.path / layout.FACTS))

    @cached_property
    def step(self) -> int:
        """Optimisation steps that its lines tell of."""
        return max((line["step"] for line in self.metrics), default=0)

    @property
    def finished(self) -> bool:
        """Whether the last step was taken and evaluated."""
        return any(line["step"] == self.plan.steps for line in self.lines("heldout"))

    def tokens(self, step: int) -> int:
        """Tokens that it was trained on after a step, padding included."""
        begins = (0, *self.plan.ends)
        return sum(
            max(0, min(step - begin, stage.steps)) * self.config.batch_size * stage.seq_len
            for begin, stage in zip(begins, self.plan.stages)
        )

    @cached_property
    def stages(self) -> list["StageView"]:
        """Its stages, with what was measured of each."""
        return list(_stages(self))


@dataclass(frozen=True)
class StageView:
    """A stage of a run: what it was to do, and what it did.

    Args:
        number: counted from 1.
        stage: of the plan.
        begin: the step before its first.
        done: of its steps.
        seconds: of training for these; None before the first line about them.
        memory: most bytes in use; None where nothing was recorded.
        learning: numbers that learn in it.
        heldout: loss in nats at its end; None where it was not measured there.
        accuracy: of masked tokens, there.
        predicted: seconds of one step; None where nothing was predicted.
        batch_size: sequences per step.
    """

    number: int
    stage: Stage
    begin: int
    done: int
    seconds: float | None
    memory: int | None
    learning: int
    heldout: float | None
    accuracy: float | None
    predicted: float | None
    batch_size: int

    @property
    def tokens(self) -> int:
        """That were trained on in it, padding included."""
        return self.done * self.batch_size * self.stage.seq_len

    @property
    def step_seconds(self) -> float | None:
        """Training time of one step, on average."""
        return self.seconds / self.done if self.seconds and self.done else None


def _stages(run: Subject) -> Iterator[StageView]:
    heldout = {line["step"]: line for line in run.lines("heldout")}
    before, begin = 0.0, 0
    for index, (stage, end) in enumerate(zip(run.plan.stages, run.plan.ends)):
        lines = [m for m in run.metrics if begin < m["step"] <= end and m["kind"] in _TIMED]
        last = max(lines, key=lambda m: (m["step"], m["seconds"]), default=None)
        at_end = heldout.get(end)
        memory = [number(line, "memory") for line in lines]
        yield StageView(
            number=index + 1,
            stage=stage,
            begin=begin,
            done=last["step"] - begin if last else 0,
            seconds=last["seconds"] - before if last else None,
            memory=max((int(m) for m in memory if m is not None), default=None),
            learning=cost.learning_parameters(run.config.model, stage),
            heldout=at_end["mlm_loss"] if at_end else None,
            accuracy=at_end["mlm_accuracy"] if at_end else None,
            predicted=run.forecast.seconds[index] if run.forecast else None,
            batch_size=run.config.batch_size,
        )
        begin, before = end, last["seconds"] if last else before


_TIMED = ("train", "heldout")


def number(line: dict[str, Any], key: str) -> float | None:
    """A number of a line that others may have written, or None where it is none."""
    value = line.get(key)
    return value if foreign.fits(value, float) else None


def subjects(paths: Sequence[Path]) -> list[Subject]:
    """The runs of folders: runs, or comparisons, which hold several, in their order.

    Raises:
        ValueError: a folder holds neither, or a run is damaged, or there are too many.
    """
    folders: list[Path] = []
    budget: layout.Budget = "recipe"
    for path in paths:
        common, found = _runs_in(path)
        budget = common if len(paths) == 1 else budget
        folders += [each for each in found if each.resolve() not in {f.resolve() for f in folders}]
    if len(folders) > MOST_RUNS:
        raise ValueError(f"a report shows at most {MOST_RUNS} runs, not {len(folders)}")
    runs = [Subject(path, name, name, budget) for path, name in zip(folders, _names(folders))]
    for run in runs:  # read all now, so that what is damaged is named before work begins
        _ = run.facts, run.metrics, run.config.model
    return _grouped(runs)


def _runs_in(path: Path) -> tuple[layout.Budget, list[Path]]:
    """A run alone, or a comparison's budget and those of its runs that are there."""
    if (path / layout.CONFIG).is_file():
        return "recipe", [path]
    is_comparison = (path / layout.COMPARISON).is_file()
    budget, found = read_comparison(path) if is_comparison else ("recipe", [])
    if not found:
        raise ValueError(
            f"{path} holds neither a run (mslt pretrain) nor a comparison's runs (mslt compare)"
        )
    return budget, found


def _names(folders: Sequence[Path]) -> list[str]:
    """The folders' own names; with as much of the way to them as tells them apart."""
    paths = [folder.resolve().parts for folder in folders]
    for parts in count(1):
        names = ["/".join(path[-parts:]) for path in paths]
        if len(set(names)) == len(names) or parts > 20:
            return names
    raise AssertionError


def _grouped(runs: Sequence[Subject]) -> list[Subject]:
    """Runs of one name but for -seedN that have one config but for the seed are one group."""
    groups: dict[str, Config] = {}
    found = []
    for run in runs:
        name, config = re.sub("-seed[0-9]{1,18}$", "", run.name), replace(run.config, seed=0)
        same = groups.setdefault(name, config) == config
        found.append(replace(run, group=name if same else run.name))
    return found
