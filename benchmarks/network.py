"""What multi-stage training saves on two processes whose gradients travel over a slow link.

    python benchmarks/network.py [--ratios 2 3 4 6 9 | --rates MBIT ...] [--delay MS] [--loopback]

Two processes, each in a network namespace of its own with one core to compute on, train every
stage of every plan by turns, block by block, over a cable whose rate is limited (needs root, `ip`
and `tc`; nothing outlasts the processes). The first pass has no limit; the others have rates that
are to bring r, all of the whole model's step but its forward pass over the forward pass, to the
values of --ratios, or the rates that are given. r is then measured at each.

Ratios are seconds of the whole model over seconds of the plan, steps weighted by the plan's. Beside
them stands the `model`, what the layers' passes alone let expect: 10 (1 + r) / (7 + 4 r) for MSLT
with k = 4 and 20 % retraining; and it `refined`: the whole model's measured parts, spread over the
stages by the cost model (FLOPs of forward and backward pass, numbers that travel). `ahead` is MSLT
with look-ahead, where the forward-only layers of the next step run while gradients travel.
--loopback does without namespaces and limits. The last line is one JSON object.
"""

import argparse
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from math import inf
from typing import Any

import link
from common import finish
from linked import PHASES, SHAPES, Blocks, Figures, Pair, Shape, Way, plans, ways

from mslt.analysis.formats import aligned
from mslt.analysis.scale import Parts, Rates, mean_seconds, simple_ratio, simple_ratio_ahead
from mslt.cost import learning_parameters
from mslt.plan import Plan, Stage
from mslt.run import machine


class Pass:
    """What was measured at one rate.

    Args:
        shape: what was trained.
        mbit: the cable's rate.
        blocks: figures of every kind of step, block by block.
    """

    def __init__(self, shape: Shape, mbit: float, blocks: Blocks) -> None:
        self.shape = shape
        self.mbit = mbit
        kinds = ways(shape)
        self._blocks = [dict(zip(kinds, block)) for block in blocks]
        model = shape.model
        self.whole = self.parts(Way(model.num_hidden_layers))
        stage = plans(shape)["whole"].stages[0]
        self._rates = Rates.of(self.whole, model, stage, shape.sequences, shape.slots)

    def parts(self, way: Way) -> Parts:
        """Median seconds of the parts of a kind of step, gradients on their way while it waits."""
        middle = {
            name: statistics.median(block[way][name] for block in self._blocks) for name in PHASES
        }
        return Parts(
            middle["prefix"],
            middle["forward"],
            middle["backward"],
            update=middle["optimizer"],
            traffic=middle["reduce"],
        )

    def ratios(self, method: str, look_ahead: bool = False) -> list[float]:
        """Seconds of the whole model over those of a plan, block by block."""
        plan, whole = plans(self.shape)[method], plans(self.shape)["whole"]

        def mean(plan: Plan, block: dict[Way, Figures]) -> float:
            return mean_seconds(plan, lambda stage: block[Way.of(stage, look_ahead)]["step"])

        return [mean(whole, block) / mean(plan, block) for block in self._blocks]

    def refined(self, method: str, look_ahead: bool = False) -> float:
        """The same by the whole model's parts and the cost model."""
        shape = self.shape

        def seconds(stage: Stage) -> float:
            parts = self._rates.parts(shape.model, stage, shape.sequences, shape.slots)
            return parts.seconds(look_ahead)

        plan = plans(shape)[method]
        return mean_seconds(plans(shape)["whole"], seconds) / mean_seconds(plan, seconds)

    def result(self) -> dict[str, Any]:
        """What the JSON line says of it."""
        r, simple = self.whole.r, simple_ratio(self.whole.r)
        waited = self.whole.traffic / self.whole.forward
        mslt, ahead = self.ratios("mslt"), self.ratios("mslt", look_ahead=True)
        return {
            "mbit": None if self.mbit == inf else round(self.mbit, 1),
            "r": round(r, 3),
            "simple": round(simple, 3),
            "simple_ahead": round(simple_ratio_ahead(r, waited), 3),
            "stacking": spread(self.ratios("stacking")),
            "stacking_refined": round(self.refined("stacking"), 3),
            "mslt": spread(mslt),
            "mslt_refined": round(self.refined("mslt"), 3),
            "mslt_ahead": spread(ahead),
            "mslt_ahead_refined": round(self.refined("mslt", look_ahead=True), 3),
            "of_simple": round(statistics.median(mslt) / simple, 3),
            "ahead_of_simple": round(statistics.median(ahead) / simple, 3),
            "gain_of_look_ahead": spread([b / a for a, b in zip(mslt, ahead)]),
            "seconds": {str(way): self.seconds(way) for way in ways(self.shape)},
        }

    def seconds(self, way: Way) -> dict[str, float]:
        """Median seconds of a kind of step and of its parts."""
        names = ("step", *PHASES)
        return {n: round(statistics.median(b[way][n] for b in self._blocks), 5) for n in names}


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and most."""
    named = {"median": statistics.median(values), "least": min(values), "most": max(values)}
    return {name: round(value, 3) for name, value in named.items()}


def rate_for(r: float, free: Parts, numbers: int) -> float:
    """Mbit/s at which the traffic brings r to a value.

    Each of two processes sends every gradient once, in four bytes.

    Args:
        r: wanted.
        free: the whole model's parts without a limit.
        numbers: that learn.

    Raises:
        ValueError: r is that high without any traffic.
    """
    seconds = r * free.forward - free.backward - free.update
    if seconds <= 0:
        least = (free.backward + free.update) / free.forward
        raise ValueError(f"--ratios {r:g}: r is {least:.2f} without any traffic")
    return 4 * numbers * 8 / seconds / 1e6


def table(results: Sequence[dict[str, Any]]) -> str:
    """A row per rate."""
    lines = [
        (
            *("Mbit/s", "r", "stacking", "refined", "MSLT", "least", "most", "model", "refined"),
            *("ahead", "least", "most", "model", "refined"),
        )
    ]
    for one in results:
        ahead, mslt = one["mslt_ahead"], one["mslt"]
        figures = (
            *(one["r"], one["stacking"]["median"], one["stacking_refined"], *mslt.values()),
            *(one["simple"], one["mslt_refined"], *ahead.values()),
            *(one["simple_ahead"], one["mslt_ahead_refined"]),
        )
        rate = "no limit" if one["mbit"] is None else f"{one['mbit']:.0f}"
        lines.append((rate, *(f"{figure:.2f}" for figure in figures)))
    return aligned(lines)


def measure(given: argparse.Namespace) -> Iterator[Pass]:
    """One pass after the other, the first without a limit to the rate."""
    shape = SHAPES[given.shape]
    pair = Pair(given.shape, given.loopback)
    try:
        if pair.link:
            pair.link.limit(delay=given.delay)
        pair.measure(1, 1)  # the first steps of all take longer
        free = Pass(shape, inf, pair.measure(given.blocks, given.steps))
        yield free
        if pair.link is None:
            return
        numbers = learning_parameters(shape.model, Stage(shape.model.num_hidden_layers))
        for mbit in given.rates or [rate_for(r, free.whole, numbers) for r in given.ratios]:
            pair.link.limit(mbit, given.delay)
            yield Pass(shape, mbit, pair.measure(given.blocks, given.steps))
    finally:
        pair.stop()


def options() -> argparse.ArgumentParser:
    """What the command line knows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shape", choices=list(SHAPES), default="small")
    parser.add_argument("--ratios", type=float, nargs="+", default=[2, 3, 4, 6, 9], metavar="R")
    parser.add_argument("--rates", type=float, nargs="+", metavar="MBIT", help="instead of ratios")
    parser.add_argument(
        "--delay", type=float, default=0.0, metavar="MS", help="from end to end; needs netem"
    )
    parser.add_argument("--blocks", type=int, default=5, help="blocks at each rate (default 5)")
    parser.add_argument("--steps", type=int, default=1, help="steps of a block (default 1)")
    parser.add_argument("--loopback", action="store_true", help="without namespaces and limits")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Read the options and measure."""
    given = options().parse_args(arguments)
    if not given.loopback and (reason := link.refusal()):
        sys.exit(f"network.py: {reason}; --loopback measures without a limit to the rate")
    results = []
    try:
        for one in measure(given):
            results.append(one.result())
            print(f"r = {results[-1]['r']:.2f} is done", flush=True)
    except ValueError as error:
        sys.exit(f"network.py: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
    print(table(results))
    shape = SHAPES[given.shape]
    here = machine()
    here["hardware"]["threads"] = 1  # of each process
    asked = {"shape": given.shape, "blocks": given.blocks, "steps": given.steps}
    finish({"passes": results, **asked, "delay": given.delay, **asdict(shape), **here})


if __name__ == "__main__":
    main()
