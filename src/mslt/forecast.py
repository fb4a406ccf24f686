"""How long the steps of a run will take: known before, kept in its run.json, compared after.

A forecast is seconds per step for every stage of a plan, and what it was derived from: steps that
were timed, or arithmetic. Imports no torch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mslt import foreign
from mslt.config import Config
from mslt.cost import step_cost
from mslt.data.masking import prediction_slots
from mslt.plan import Plan, Stage

FAST = 2.0  # times as fast forward-only layers are reckoned where they compute in fewer bits

_SCHEMA: dict[str, Any] = {"by": str, "seconds": list[float], "evaluation": float | None}
_ROW: dict[str, Any] = {"depth": int, "learns_from": int, "steps": int, "seq_len": int}


@dataclass(frozen=True)
class Forecast:
    """What the steps of a plan are expected to take.

    Args:
        by: what says so, in words.
        seconds: of one step, for each stage.
        evaluation: seconds of one held-out evaluation; None where nothing is known of it.
    """

    by: str
    seconds: tuple[float, ...]
    evaluation: float | None = None

    def training(self, plan: Plan) -> float:
        """Seconds of all steps of a plan."""
        return sum(each * stage.steps for each, stage in zip(self.seconds, plan.stages))

    def to_dict(self) -> dict[str, Any]:
        """As run.json has it."""
        return asdict(self) | {"seconds": list(self.seconds)}

    @classmethod
    def of_run(
        cls, facts: Mapping[str, Any], plan: Plan, where: str = "run.json"
    ) -> "Forecast | None":
        """What run.json remembers; None where there is nothing, or it was made for other stages.

        Raises:
            ValueError: it is damaged.
        """
        values = facts.get("forecast")
        if values is None:
            return None
        foreign.require(values, _SCHEMA, f"forecast in {where}")
        if len(values["seconds"]) != len(plan.stages) or min(values["seconds"]) <= 0:
            return None
        return cls(values["by"], tuple(values["seconds"]), values["evaluation"])

    @classmethod
    def read(cls, path: Path, config: Config) -> "Forecast":
        """What `mslt plan --json` wrote of a run.

        Args:
            path: the file.
            config: the run.

        Raises:
            ValueError: it is damaged, or was made for another run.
            OSError: it cannot be read.
        """
        found = foreign.read_json_object(path)
        foreign.require(found, {"forecast": _SCHEMA, "stages": list, "batch_size": int}, str(path))
        plan = config.stages()
        for row in found["stages"]:
            foreign.require(row, _ROW, f"stages in {path}")
        rows = [{key: row[key] for key in _ROW} for row in found["stages"]]
        if rows != [asdict(stage) for stage in plan.stages]:
            raise ValueError(f"{path} was made for other stages than those of this run")
        if found["batch_size"] != config.batch_size:
            raise ValueError(f"{path} was made for a batch_size of {found['batch_size']}")
        forecast = cls.of_run(found, plan, str(path))
        if forecast is None:
            raise ValueError(f"{path} is damaged: its forecast does not cover its stages")
        return forecast


def slots(config: Config, stage: Stage) -> int:
    """Predictions per sequence."""
    return prediction_slots(config.instances.mask_prob, stage.seq_len)


def prefix_speed(config: Config) -> float:
    """How many times as fast as the others the forward-only layers are reckoned."""
    return 1.0 if config.prefix in ("exact", "fp32") else FAST


def work(config: Config, stage: Stage) -> float:
    """FLOPs that a step takes as long as: fewer than it has where forward-only layers are fast.

    Args:
        config: of the run, its vocabulary known.
        stage: of its plan.
    """
    cost = step_cost(config.model, stage, config.batch_size, slots(config, stage))
    return cost.total(prefix_speed(config))


def extrapolated(config: Config, plan: Plan, seconds: float, by: str, index: int = 0) -> Forecast:
    """A forecast from what a step of one stage takes, by the FLOPs of the others."""
    costs = [work(config, stage) for stage in plan.stages]
    return Forecast(by, tuple(seconds * cost / costs[index] for cost in costs))


def stage_seconds(plan: Plan, heldout: Sequence[Mapping[str, Any]]) -> list[float]:
    """Training time of the stages that have ended, by the evaluations at their ends."""
    at = {line["step"]: line["seconds"] for line in heldout}
    found, before = [], 0.0
    for end in plan.ends:
        if end not in at:
            break
        found.append(at[end] - before)
        before = at[end]
    return found


def outcome(
    facts: Mapping[str, Any], plan: Plan, heldout: Sequence[Mapping[str, Any]]
) -> str | None:
    """A run against its forecast, in a line; None where it is not finished, or has none.

    Args:
        facts: its run.json.
        plan: its stages.
        heldout: its evaluations.
    """
    forecast, took = Forecast.of_run(facts, plan), stage_seconds(plan, heldout)
    if forecast is None or len(took) < len(plan.stages):
        return None
    return verdict(forecast, plan, took)


def verdict(forecast: Forecast, plan: Plan, took: Sequence[float]) -> str:
    """A finished run against its forecast, in a line.

    Args:
        forecast: for its plan.
        plan: its stages.
        took: training seconds of each.
    """
    expected = [each * stage.steps for each, stage in zip(forecast.seconds, plan.stages)]
    total = sum(took) / sum(expected) - 1
    text = f"predicted {sum(expected):,.1f} s of training by {forecast.by}: took {_off(total)}"
    if len(took) > 1:
        ratios = [mine / theirs - 1 for mine, theirs in zip(took, expected)]
        worst = max(range(len(ratios)), key=lambda i: abs(ratios[i]))
        text += f"; furthest off in stage {worst + 1}, {_off(ratios[worst])}"
    return text


def _off(share: float) -> str:
    return f"{abs(share):.1%} {'more' if share >= 0 else 'less'}"
