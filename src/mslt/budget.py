"""The same training time for several plans (section 4.3): how many steps of each it takes."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import median

from mslt import layout
from mslt.analysis.results import finished
from mslt.config import OPERATIONAL, Config
from mslt.data.store import TokenStore
from mslt.job import Job
from mslt.options import flatten
from mslt.plan import Plan
from mslt.rehearsal import stretches
from mslt.world import World

PROBES, PROBE_STEPS = 5, 8  # how often each stage is timed, and for how many steps

Rates = Sequence[float]  # seconds per step, by stage


def in_equal_time(configs: Mapping[str, Config], rates: Mapping[str, Rates]) -> dict[str, Config]:
    """The same plans with as many steps as take the time of the fastest.

    Learning rates end where the steps end.

    Args:
        configs: by name.
        rates: by name, of each stage of the plan.

    Raises:
        ValueError: the time is too short for every stage of a plan to have a step.
    """
    totals = {name: seconds(config.stages(), rates[name]) for name, config in configs.items()}
    least = min(totals.values())
    made = {}
    for name, config in configs.items():
        try:
            made[name] = replace(config, steps=max(1, round(config.steps * least / totals[name])))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return made


def seconds(plan: Plan, rates: Rates) -> float:
    """Training time of a plan by the seconds per step of its stages."""
    return sum(stage.steps * rate for stage, rate in zip(plan.stages, rates, strict=True))


def timed(
    configs: Mapping[str, Config], store: TokenStore, world: World, folder: Path
) -> dict[str, list[float]]:
    """Seconds per step of each stage of each plan, here and now, on models that are thrown away.

    Plans take turns. On a machine that is busy with other things this is rough, since short steps
    are interrupted less often than long ones.

    Args:
        configs: by name.
        store: the text.
        world: where it runs.
        folder: what is written meanwhile.
    """
    jobs = {name: Job.prepare(config, store, world=world) for name, config in configs.items()}
    took: dict[str, list[list[float]]] = {name: [] for name in jobs}
    for _ in range(PROBES):
        for name, job in jobs.items():
            took[name].append([s.seconds for s in stretches(job, store, folder, PROBE_STEPS)])
    return {
        # The slowest process sets the pace, and all have to reckon with the same.
        name: [world.most(round(median(times) * 1e9)) / 1e9 for times in zip(*rounds)]
        for name, rounds in took.items()
    }


def timed_by(configs: Mapping[str, Config], before: Path) -> dict[str, list[float]]:
    """Seconds per step of each stage of each plan, as a comparison of the same plans took them.

    Args:
        configs: by name.
        before: its folder. Medians over its finished runs are taken.

    Raises:
        ValueError: it has no finished run of a plan of that name, or one that differs in more than
            steps, seed and what decides nothing about the model.
    """
    rates = {}
    for name, config in configs.items():
        runs = sorted(layout.compared_run(before, name, 0).parent.glob(f"{name}-seed*"))
        found = [(run, result) for run in runs if (result := finished(run))]
        if not found:
            raise ValueError(f"{before} has no finished run of {name} that could tell its time")
        for run, _ in found:
            _refuse_other(name, config, run)
        each = []
        for _, result in found:
            at = {step: taken for step, taken, _ in result.curve}
            ends = [0, *result.stages.ends]
            marks = [0.0, *(at[end] for end in result.stages.ends)]
            pieces = zip(ends, ends[1:], marks, marks[1:])
            each.append([(taken - since) / (end - begin) for begin, end, since, taken in pieces])
        rates[name] = [median(times) for times in zip(*each)]
    return rates


def _refuse_other(name: str, config: Config, run: Path) -> None:
    """Raise ValueError where a run would not take as long for a step."""
    free = {*OPERATIONAL, "steps", "seed", "model.vocab_size"}
    before, now = flatten(layout.read_config(run).to_dict()), flatten(config.to_dict())
    for key in now:
        if key not in free and now[key] != before[key]:
            raise ValueError(f"{key} is {now[key]} in {name}, but {before[key]} in {run}")
