"""Where a run stands, and the view of it that a terminal shows. Imports no torch."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from mslt.config import Config
from mslt.files import gigabytes
from mslt.forecast import Forecast, work
from mslt.plan import Plan
from mslt.words import describe, duration

FULL, EMPTY, EDGE = "━", "─", "┼"  # of a bar; where a stage ends in that of the whole
PLAIN = str.maketrans(
    {FULL: "#", EMPTY: "-", EDGE: "|", "·": ";"}
)  # where a terminal has no others


@dataclass(frozen=True)
class Status:
    """What is known of a run while it runs, or after.

    Args:
        plan: its stages.
        step: optimisation steps done.
        loss: of the last logged batch, masked tokens, in nats.
        heldout: the last held-out loss.
        tokens_per_second: since the logged step before the last.
        memory: bytes at the most since the stage began.
        left: training seconds to the end of the stage, and of the run.
        ended: how it ended, if it did.
    """

    plan: Plan
    step: int
    loss: float | None = None
    heldout: float | None = None
    tokens_per_second: float | None = None
    memory: int | None = None
    left: tuple[float, float] | None = None
    ended: str = ""

    @property
    def index(self) -> int:
        """The stage it is in, counted from 0; the last one once it is finished."""
        return self.plan.index(min(self.step, self.plan.steps - 1))

    def later(self, seconds: float) -> "Status":
        """The same after some seconds of training without news."""
        if self.left is None:
            return self
        stage, run = (max(0.0, left - seconds) for left in self.left)
        return replace(self, left=(stage, run))


def view(status: Status, width: int) -> list[str]:
    """Three lines: the stage, the whole, and what was measured last.

    Args:
        status: of a run.
        width: columns of the terminal.
    """
    plan, index = status.plan, status.index
    stage, end = plan.stages[index], plan.ends[index]
    done = status.step - (end - stage.steps)
    lefts = status.left or (None, None)
    heads = (f"stage {index + 1} of {len(plan.stages)}", "the whole")
    counts = [f"{a:,}/{b:,}" for a, b in ((done, stage.steps), (status.step, plan.steps))]
    ends = ["" if left is None or status.ended else f"{duration(left)} left" for left in lefts]
    shares = (done / stage.steps, status.step / plan.steps)
    edges = ((), tuple(edge / plan.steps for edge in plan.ends[:-1]))
    left, middle, right = (max(map(len, column)) for column in (heads, counts, ends))
    room = width - left - middle - right - 13  # and percent, between two columns each
    lines = []
    for row in range(2):
        drawn = bar(shares[row], room, edges[row]) + "  " if room >= 8 else ""
        percent = f"{int(100 * shares[row]):3d} %"
        lines.append(
            f"{heads[row]:{left}}  {drawn}{percent}  {counts[row]:>{middle}}  {ends[row]:>{right}}"
        )
    lines.append(joined(facts(status), width))
    return [line[:width].rstrip() for line in lines]


def facts(status: Status) -> list[str]:
    """What was measured last, the most important first."""
    found = [status.ended] if status.ended else []
    if status.loss is not None:
        found.append(f"loss {status.loss:.3f}")
    if status.heldout is not None:
        found.append(f"held-out {status.heldout:.3f}")
    if status.tokens_per_second is not None:
        found.append(f"{status.tokens_per_second:,.0f} tokens/s")
    if status.memory:
        found.append(gigabytes(status.memory))
    return [*found, describe(status.plan.stages[status.index])]


def joined(parts: Sequence[str], width: int) -> str:
    """As many of some parts as fit a line."""
    line = parts[0]
    for part in parts[1:]:
        if len(line) + 3 + len(part) <= width:
            line += f" · {part}"
    return line


def bar(share: float, width: int, edges: Sequence[float] = ()) -> str:
    """A line that is full up to a share of it.

    Args:
        share: from 0 to 1.
        width: columns.
        edges: shares at which something ends.
    """
    full = int(share * width)
    drawn = [FULL] * full + [EMPTY] * (width - full)
    for edge in edges:
        drawn[min(int(edge * width), width - 1)] = EDGE
    return "".join(drawn)


class Remaining:
    """Training time that is left, by the plan's own rates.

    How the stages compare is known before; how fast this machine is now is seen in the stage that
    runs. Steps seen so far at other depths say nothing about those to come.

    Args:
        plan: the stages.
        costs: what a step takes in each of them, in any unit.
    """

    def __init__(self, plan: Plan, costs: Sequence[float]) -> None:
        self.plan = plan
        self.costs = costs
        self._index = 0
        self._mark: tuple[int, float] | None = None
        self._unit: float | None = None  # seconds of a unit of cost, as last seen

    @classmethod
    def of(cls, config: Config, plan: Plan, forecast: Forecast | None) -> "Remaining":
        """By a run's forecast, or else by the FLOPs of its stages."""
        return cls(
            plan, forecast.seconds if forecast else [work(config, stage) for stage in plan.stages]
        )

    def enter(self, index: int) -> None:
        """A stage begins, or goes on."""
        self._index, self._mark = index, None

    def see(self, step: int, seconds: float) -> None:
        """In this stage, `step` steps of the run have taken `seconds` in all."""
        if self._mark is None:
            # The first steps of a stage warm up: until more are seen, the rate is that before.
            self._unit = self._unit or seconds / self._spent(step)
            self._mark = (step, seconds)
        else:
            took = (seconds - self._mark[1]) / max(step - self._mark[0], 1)
            self._unit = took / self.costs[self._index]

    def after(self, step: int) -> tuple[float, float] | None:
        """Left after a step, to the end of the stage and of the run, at the rate seen last.

        Where a stage ends, the stage is the one that begins. None before anything was seen.
        """
        if self._unit is None:
            return None
        ends, spent = self.plan.ends, self._spent(step)
        index = self.plan.index(min(step, self.plan.steps - 1))
        stage, run = (self._spent(end) - spent for end in (ends[index], ends[-1]))
        return self._unit * stage, self._unit * run

    def _spent(self, step: int) -> float:
        """Cost of so many steps."""
        total, start = 0.0, 0
        for end, cost in zip(self.plan.ends, self.costs):
            total += cost * max(0, min(step, end) - start)
            start = end
        return total
