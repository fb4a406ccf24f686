"""What finished runs took and reached, by plan and over seeds. Reads run folders; imports no torch.

A plan's figure is the median over its runs, with the range. Two plans are compared seed by seed,
since runs of one seed have seen the same data: their difference is taken to be inside the noise
where it has not one sign for all seeds, or spreads by more than its own median. A score of a task
is the median over seeds of fine-tuning, and a difference no larger than their range may be noise
as well.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from mslt import cost, foreign, layout
from mslt.plan import Plan

SEEDS = "seeds"  # in scores.json: by column the score of each seed of fine-tuning

# The columns of the paper's tables. SQuAD's two scores count as their mean in an average (Table 1).
SQUAD = ("SQuAD1.1 F1", "SQuAD1.1 EM", "SQuAD2.0 F1", "SQuAD2.0 EM")
TASKS = ("MNLI", "QQP", "QNLI", "SST-2", "CoLA", "STS-B", "MRPC", "RTE", *SQUAD)


@dataclass(frozen=True)
class Spread:
    """One figure of several runs.

    Args:
        values: by run; at least one.
    """

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle, or the mean of the two in the middle."""
        return median(self.values)

    @property
    def low(self) -> float:
        """The least."""
        return min(self.values)

    @property
    def high(self) -> float:
        """The most."""
        return max(self.values)


def inside_noise(differences: Sequence[float]) -> bool | None:
    """Whether differences between two plans, by seed, may be none.

    Returns:
        None where one seed alone says nothing about noise.
    """
    if len(differences) < 2:
        return None
    spread = Spread(tuple(differences))
    one_sign = spread.low > 0 or spread.high < 0
    return not one_sign or abs(spread.median) < spread.high - spread.low


def inside_range(difference: float, sides: Iterable[Sequence[float | None]]) -> bool | None:
    """Whether two medians over seeds differ by no more than the seeds of either side do.

    Args:
        difference: between the medians.
        sides: values by seed, of each side; None where one could not be computed.

    Returns:
        None where a side has fewer than two values, which say nothing about noise.
    """
    known = [[value for value in side if value is not None] for side in sides]
    if any(len(side) < 2 for side in known):
        return None
    return abs(difference) <= max(max(side) - min(side) for side in known)


@dataclass(frozen=True)
class Result:
    """A finished run.

    Args:
        plan: its name.
        seed: of the run.
        stages: of its plan.
        tokens: it was trained on, padding included.
        seconds: of training.
        loss: held-out, of masked tokens, at the end, in nats.
        baseline: the same of the tokens' own frequencies.
        parameters: of the finished model.
        curve: (step, seconds, held-out loss) of every evaluation.
        shared: whether its layers share weights, as ALBERT's do.
        scores: of tasks that it was fine-tuned on, by the names of the paper's columns, in percent.
        score_seeds: the same by the seeds of fine-tuning, where they are known.
    """

    plan: str
    seed: int
    stages: Plan
    tokens: int
    seconds: float
    loss: float
    baseline: float
    parameters: int
    curve: tuple[tuple[int, float, float], ...]
    shared: bool = False
    scores: Mapping[str, float] = field(default_factory=dict)
    score_seeds: Mapping[str, Sequence[float | None]] = field(default_factory=dict)

    @property
    def is_whole(self) -> bool:
        """Whether it is the original training: all layers learn from beginning to end."""
        last = self.stages.stages[-1]
        return all((s.depth, s.learns_from) == (last.depth, 0) for s in self.stages.stages)

    @property
    def is_layerwise(self) -> bool:
        """Whether layers are fixed in some stage."""
        return any(stage.learns_from for stage in self.stages.stages)

    @property
    def is_retrained(self) -> bool:
        """Whether all layers learn together in the end."""
        return not self.stages.stages[-1].learns_from

    def seconds_to(self, loss: float) -> float | None:
        """Training time at the first evaluation with a held-out loss of at most this."""
        return next((seconds for _, seconds, reached in self.curve if reached <= loss), None)


def plan_and_seed(run: Path) -> tuple[str, int | None]:
    """What the name of a run's folder says: NAME-seedS."""
    found = re.fullmatch("(.+)-seed([0-9]{1,18})", run.name)
    return (found[1], int(found[2])) if found else (run.name, None)


def finished(run: Path) -> Result | None:
    """The result of a run's folder; None where its plan has not come to an end.

    Raises:
        ValueError: it holds no run, or a damaged one.
    """
    config = layout.read_config(run)
    plan = config.stages()
    curve = tuple(
        (line["step"], line["seconds"], line["mlm_loss"])
        for line in layout.read_metrics(run)
        if line["kind"] == "heldout"
    )
    if not curve or curve[-1][0] != plan.steps:
        return None
    name, _ = plan_and_seed(run)
    scores, score_seeds = scores_of(run)
    return Result(
        plan=name,
        seed=config.seed,
        stages=plan,
        tokens=tokens_at(plan, config.batch_size, plan.steps),
        seconds=curve[-1][1],
        loss=curve[-1][2],
        baseline=layout.read_facts(run)["baseline_mlm_loss"],
        parameters=cost.parameters(config.model, config.model.num_hidden_layers),
        curve=curve,
        shared=config.model.num_hidden_groups > 0,
        scores=scores,
        score_seeds=score_seeds,
    )


def scores_of(run: Path) -> tuple[dict[str, float], dict[str, list[float | None]]]:
    """What a run's model scored on tasks that it was fine-tuned on; nothing where it was not.

    Returns:
        By column of the paper's tables: scores in percent, and where several seeds of fine-tuning
        are known, which stand under SEEDS, the score of each, of which the first is the median.

    Raises:
        ValueError: the file is damaged, names no task of the paper, or a score is none in percent.
    """
    file = run / layout.SCORES
    if not file.exists():
        return {}, {}
    scores = foreign.read_json_object(file)
    seeds = scores.pop(SEEDS, {})
    if not isinstance(seeds, dict) or not all(isinstance(found, list) for found in seeds.values()):
        raise ValueError(f"{file}: {SEEDS} must hold a list of scores for each column")
    listed = [(task, score) for task, found in seeds.items() for score in found]
    for task, score in [*scores.items(), *((t, s) for t, s in listed if s is not None)]:
        if task not in TASKS:
            raise ValueError(
                f"{file}: {task} is no column of the paper's tables: {', '.join(TASKS)}"
            )
        if (
            not foreign.fits(score, float) or not -100 <= score <= 100
        ):  # a correlation may be below 0
            raise ValueError(f"{file}: {task} must be a score in percent, not {score!r}")
    for task, found in seeds.items():
        middle = median(-math.inf if score is None else score for score in found or [None])
        if task not in scores or abs(scores[task] - middle) > 0.1:
            raise ValueError(f"{file}: {task} is not the median of its {SEEDS}, {middle:.1f}")
    return scores, seeds


def tokens_at(plan: Plan, batch_size: int, step: int) -> int:
    """Tokens that a run has been trained on after a step, padding included."""
    begin, tokens = 0, 0
    for stage, end in zip(plan.stages, plan.ends):
        tokens += max(0, min(step, end) - begin) * batch_size * stage.seq_len
        begin = end
    return tokens


def by_plan(results: Iterable[Result]) -> dict[str, list[Result]]:
    """The results of each plan, by seed; plans in the order in which they come."""
    plans: dict[str, list[Result]] = {}
    for result in results:
        plans.setdefault(result.plan, []).append(result)
    return {name: sorted(found, key=lambda r: r.seed) for name, found in plans.items()}


def reference(plans: Mapping[str, Sequence[Result]]) -> str:
    """Which plan the others are compared with: the first that trains the whole model, or the first.

    Raises:
        ValueError: there is none.
    """
    if not plans:
        raise ValueError("no run has come to its end: there is nothing to compare")
    return next((name for name, found in plans.items() if found[0].is_whole), next(iter(plans)))
