"""The method as data: a plan is a tuple of stages, and one loop reads them all. Imports no torch.

whole      the original training (Devlin et al. 2018): one stage, every layer learns
mslt       multi-stage layerwise training (section 3.2): add N/k layers, train only those
stacking   progressive stacking (Gong et al. 2019): double the depth, train everything
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate, pairwise

from mslt.schedule import Schedule


@dataclass(frozen=True)
class Stage:
    """One row of a plan.

    Args:
        depth: encoder layers that stand in this stage.
        learns_from: layers at the bottom that only run forward. Above 0, the embeddings and the
            output matrix tied to them are fixed as well (section 3.2).
        steps: optimisation steps.
        seq_len: tokens per sequence.
    """

    depth: int
    learns_from: int = 0
    steps: int = 1
    seq_len: int = 128

    def __post_init__(self) -> None:
        if self.depth < 1:
            raise ValueError(f"a stage needs at least one layer, not depth {self.depth}")
        if not 0 <= self.learns_from < self.depth:
            raise ValueError(
                f"learns_from must leave a layer to learn: {self.learns_from} of {self.depth}"
            )
        if self.steps < 1:
            raise ValueError(f"a stage needs at least one step, not {self.steps}")
        if self.seq_len < 8:
            raise ValueError(f"seq_len must be 8 or more, not {self.seq_len}")


@dataclass(frozen=True)
class Plan:
    """Stages in order, and the learning rate at each of their steps.

    Args:
        stages: one or more.
        schedule: the learning rate.
        start_depth: layers that have learned before the plan begins.

    Raises:
        ValueError: no stage, a depth that shrinks, one that more than doubles (a layer is grown
            from a copy of one that stands), or a stage that fixes layers which never learned.
    """

    stages: tuple[Stage, ...]
    schedule: Schedule = field(default_factory=Schedule)
    start_depth: int = 0

    def __post_init__(self) -> None:
        if not self.stages:
            raise ValueError("a plan needs at least one stage")
        depths = [stage.depth for stage in self.stages]
        for below, above in pairwise([self.start_depth or depths[0], *depths]):
            if not below <= above <= 2 * below:
                raise ValueError(f"a stage keeps or at most doubles the depth: {below} -> {above}")
        for stage, stood in zip(self.stages, [self.start_depth, *depths]):
            if stage.learns_from > stood:
                raise ValueError(
                    f"a stage of {stage.depth} layers fixes {stage.learns_from}, "
                    f"of which only {stood} have learned"
                )

    @property
    def steps(self) -> int:
        """Optimisation steps of all stages."""
        return sum(stage.steps for stage in self.stages)

    @property
    def ends(self) -> tuple[int, ...]:
        """The step at which each stage is over."""
        return tuple(accumulate(stage.steps for stage in self.stages))

    def index(self, step: int) -> int:
        """Which stage the step belongs to, counted from 0."""
        if not 0 <= step < self.steps:
            raise ValueError(f"step {step} is outside the plan's {self.steps} steps")
        return next(i for i, end in enumerate(self.ends) if step < end)

    def remaining(self, step: int) -> Iterator[tuple[int, Stage, range]]:
        """Stage index, stage and the steps still to do, from `step` on."""
        for i, (stage, end) in enumerate(zip(self.stages, self.ends)):
            if step < end:
                yield i, stage, range(max(step, end - stage.steps), end)

    def meaning(self, step: int) -> tuple[int, int, int, float]:
        """What a step does: depth, learns_from, seq_len and learning rate."""
        stage = self.stages[self.index(step)]
        return stage.depth, stage.learns_from, stage.seq_len, self.lr(step)

    def lr(self, step: int) -> float:
        """The learning rate of a step."""
        if not self.schedule.per_stage:
            return self.schedule.at(step, self.steps)
        i = self.index(step)
        start = self.ends[i] - self.stages[i].steps
        return self.schedule.at(step - start, self.stages[i].steps)


Row = tuple[int, int]  # (depth, learns_from)


def _rows_whole(depth: int, k: int, start: int) -> list[Row]:
    if start not in (0, depth):
        raise ValueError(
            f"plan.method whole trains all {depth} layers from the first step on: it cannot begin "
            f"at plan.start_depth {start}"
        )
    return [(depth, 0)]


def _rows_mslt(depth: int, k: int, start: int) -> list[Row]:
    if depth % k:
        raise ValueError(f"plan.k must divide the {depth} layers: {k} does not")
    depths = _from_start([depth // k * (i + 1) for i in range(k)], start)
    return [*zip(depths, [0, *depths]), (depth, 0)]


def _rows_stacking(depth: int, k: int, start: int) -> list[Row]:
    if k > depth or depth % 2 ** (k - 1):
        raise ValueError(f"{depth} layers cannot be reached by doubling {k - 1} times: plan.k")
    return [(d, 0) for d in _from_start([depth >> (k - 1 - i) for i in range(k)], start)]


def _from_start(depths: list[int], start: int) -> list[int]:
    """The depths of growing stages, without those that a model to start from has behind it."""
    if not start:
        return depths
    if not start < depths[-1]:
        raise ValueError(
            f"plan.start_depth is {start}, and so there is nothing to grow to {depths[-1]} layers: "
            f"choose plan.method whole, or a deeper model"
        )
    return [start, *(depth for depth in depths if depth > start)]


@dataclass(frozen=True)
class _Method:
    rows: Callable[[int, int, int], list[Row]]
    k: int
    shares: Callable[[int, float], list[float]]
    retrain: float = 0.0


# Gong et al. (2019) give BERT-Base 50k, 70k and 280k steps at 3, 6 and 12 layers.
_STACKING_SHARES = {1: [1.0], 2: [0.3, 0.7], 3: [0.125, 0.175, 0.7]}

_MOST_SHARE = 1e12  # so that their sum is no infinity

METHODS = {
    "whole": _Method(_rows_whole, 1, lambda k, retrain: [1.0]),
    "mslt": _Method(
        _rows_mslt, 4, lambda k, retrain: [(1 - retrain) / k] * k + [retrain], retrain=0.2
    ),
    "stacking": _Method(
        _rows_stacking,
        3,
        lambda k, retrain: _STACKING_SHARES.get(k) or [0.3 / (k - 1)] * (k - 1) + [0.7],
    ),
}


def build_plan(
    method: str,
    depth: int,
    steps: int,
    *,
    k: int | None = None,
    retrain: float | None = None,
    shares: Sequence[float] | None = None,
    seq_len: int = 128,
    long_share: float = 0.0,
    long_seq_len: int | None = None,
    schedule: Schedule | None = None,
    start_depth: int | None = None,
) -> Plan:
    """A plan of `method` that reaches `depth` layers in `steps` steps.

    Args:
        method: a key of `METHODS`.
        depth: layers of the finished model (N).
        steps: optimisation steps over all stages.
        k: stages in which the model grows; the default is 4 for `mslt`, 3 for `stacking`.
        retrain: share of the steps in which `mslt` retrains everything at the end (default 0.2;
            0 is Table 4's "without retraining").
        shares: relative length of each stage, the retrain stage included, instead of the default.
        seq_len: tokens per sequence.
        long_share: share of the steps, at the end, that use `long_seq_len` (0.1 for SQuAD, 4.2).
        long_seq_len: tokens per sequence in that part (default 512).
        schedule: the learning rate.
        start_depth: layers of a trained model to start from; the plan goes on from there.

    Raises:
        ValueError: naming the key, where the numbers do not make a plan.
    """
    if method not in METHODS:
        raise ValueError(f"plan.method must be one of {', '.join(METHODS)}, not {method!r}")
    _refuse_without_effect(method, k, retrain, shares, long_share, long_seq_len)
    row = METHODS[method]
    share = row.retrain if retrain is None else retrain
    k = row.k if k is None else k
    for key, value in {"plan.retrain": share, "plan.long_share": long_share}.items():
        if not 0 <= value < 1:
            raise ValueError(f"{key} must be in [0, 1), not {value}")
    for key, count in {"plan.k": k, "plan.start_depth": start_depth}.items():
        if count is not None and count < 1:
            raise ValueError(f"{key} must be 1 or more, not {count}")
    rows = row.rows(depth, k, start_depth or 0)
    if shares is None:
        weights = row.shares(len({d for d, _ in rows}), share)
    else:
        weights = _given_shares(shares, len(rows), started=start_depth is not None)
    stages = [
        Stage(depth=d, learns_from=f, steps=n, seq_len=seq_len)
        for (d, f), n, w in zip(rows, _split(steps, weights), weights)
        if w > 0
    ]
    if stages[-1].depth != depth:
        raise ValueError("plan.shares leaves no stage of full depth")
    if long_share:
        stages = _lengthen(stages, round(steps * (1 - long_share)), long_seq_len or 512)
    return Plan(tuple(stages), schedule or Schedule(), start_depth or 0)


def _refuse_without_effect(
    method: str,
    k: int | None,
    retrain: float | None,
    shares: Sequence[float] | None,
    long_share: float,
    long_seq_len: int | None,
) -> None:
    """Raise ValueError for an option that is given and would change nothing."""
    if k is not None and method == "whole":
        raise ValueError("plan.k has no effect on the method whole")
    if shares is not None and method == "whole":
        raise ValueError("plan.shares has no effect on the method whole, which has one stage")
    if retrain is not None and method != "mslt":
        raise ValueError(f"plan.retrain has no effect on the method {method}")
    if retrain is not None and shares is not None:
        raise ValueError("plan.retrain has no effect beside plan.shares, whose last entry it is")
    if long_seq_len is not None and not long_share:
        raise ValueError("plan.long_seq_len has no effect without plan.long_share")


def _given_shares(shares: Sequence[float], stages: int, *, started: bool) -> list[float]:
    if len(shares) != stages:
        raise ValueError(f"plan.shares needs {stages} entries, not {len(shares)}")
    *growing, last = shares
    if started and growing and growing[0] == 0:
        growing = growing[1:]  # a trained model may grow at once
    if not (all(0 < share < _MOST_SHARE for share in growing) and 0 <= last < _MOST_SHARE):
        raise ValueError(
            "plan.shares must be above 0, the last, of retraining, 0 or more, and all below "
            f"{_MOST_SHARE:g}: {list(shares)}"
        )
    return list(shares)


def _split(steps: int, weights: Sequence[float]) -> list[int]:
    """Whole numbers in proportion to the weights that add up to `steps` exactly."""
    *parts, total = accumulate(weights)  # not sum(), which rounds otherwise from Python 3.12 on
    ends = [round(steps * part / total) for part in [*parts, total]]
    counts = [b - a for a, b in pairwise([0, *ends])]
    if any(n < 1 for n, w in zip(counts, weights) if w > 0):
        raise ValueError(f"{steps} steps are too few for {len(counts)} stages: {counts}")
    return counts


def _lengthen(stages: Sequence[Stage], start: int, seq_len: int) -> list[Stage]:
    """The same stages with every step from `start` on at another sequence length.

    Raises:
        ValueError: no step, or none in which the embeddings of the added positions learn.
    """
    result, begin = [], 0
    for stage in stages:
        end = begin + stage.steps
        short, long = max(0, min(end, start) - begin), max(0, end - max(begin, start))
        if short:
            result.append(replace(stage, steps=short))
        if long:
            result.append(replace(stage, steps=long, seq_len=seq_len))
        begin = end
    if all(stage.seq_len == seq_len for stage in stages):
        raise ValueError(f"plan.long_seq_len has no effect: plan.seq_len is {seq_len} already")
    if not any(stage.seq_len == seq_len and not stage.learns_from for stage in result):
        raise ValueError(
            f"plan.long_share leaves no step of length {seq_len} in which the embeddings learn, "
            f"and with them the added positions"
        )
    return result
