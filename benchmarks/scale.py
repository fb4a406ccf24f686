"""BERT-Large on clusters that are not at hand: a calculation, not a measurement.

    python benchmarks/scale.py [--tflops 396] [--terabytes 2.7] [--bytes 4] [--json]

What `mslt.analysis.scale` makes of the cost model's FLOPs, the sustained speed of a GPU and the
rate of a network: seconds of the whole model's step and of its parts, and how many times as fast
stacking and MSLT are, with and without look-ahead. The defaults are assumptions for an H100, which
docs/scale.md names. Prints the table of docs/scale.md, or with --json one line.
"""

import argparse
import json
from collections.abc import Iterator
from typing import Any

from mslt.analysis.scale import (
    H100,
    NETWORKS,
    Accelerator,
    Network,
    cluster,
    mean_seconds,
    simple_ratio,
)
from mslt.config import ModelConfig
from mslt.plan import Stage, build_plan

LARGE = ModelConfig(vocab_size=30_522, hidden_size=1024, num_hidden_layers=24)
SLOTS = 20  # predictions of a sequence of 128 tokens
RANKS = 32, 1024
SEQUENCES = 32, 256  # of a step on each GPU, in one pass
HEADINGS = (
    *("network", "GPUs", "sequences per GPU", "whole: ms per step", "not hidden traffic", "r"),
    *("stacking", "MSLT", "with look-ahead", "by r alone"),
)


def row(
    gpu: Accelerator, network: Network, ranks: int, sequences: int, width: int
) -> dict[str, Any]:
    """What is calculated of one cluster."""
    rates = cluster(gpu, network, ranks, width)

    def mean(method: str, look_ahead: bool = False) -> float:
        plan = build_plan(method, LARGE.num_hidden_layers, 1000)
        return mean_seconds(
            plan, lambda stage: rates.parts(LARGE, stage, sequences, SLOTS).seconds(look_ahead)
        )

    whole = rates.parts(LARGE, Stage(LARGE.num_hidden_layers), sequences, SLOTS)
    return {
        "network": network.name,
        "ranks": ranks,
        "sequences": sequences,
        "milliseconds": 1e3 * whole.seconds(),
        "exposed_milliseconds": 1e3 * whole.exposed,
        "r": whole.r,
        "stacking": whole.seconds() / mean("stacking"),
        "mslt": whole.seconds() / mean("mslt"),
        "mslt_ahead": whole.seconds() / mean("mslt", look_ahead=True),
        "simple": simple_ratio(whole.r),
    }


def rows(gpu: Accelerator = H100, width: int = 4) -> Iterator[dict[str, Any]]:
    """What is calculated of every cluster."""
    for sequences in SEQUENCES:
        for ranks in RANKS:
            for network in NETWORKS:
                yield row(gpu, network, ranks, sequences, width)


def table(found: Iterator[dict[str, Any]]) -> str:
    """The rows in Markdown."""
    lines = ["| " + " | ".join(HEADINGS) + " |", "|---" * len(HEADINGS) + "|"]
    for one in found:
        name, ranks, sequences, whole, exposed, r, *ratios = one.values()
        cells = [
            name,
            f"{ranks:,}",
            f"{sequences}",
            f"{whole:.0f}",
            f"{exposed:.0f} ms",
            f"{r:.1f}",
        ]
        lines.append("| " + " | ".join([*cells, *(f"{ratio:.2f}x" for ratio in ratios)]) + " |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Read the options and calculate."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--tflops", type=float, default=H100.flops / 1e12, help="that training sustains"
    )
    parser.add_argument(
        "--terabytes", type=float, default=H100.memory / 1e12, help="a second, of memory"
    )
    parser.add_argument("--bytes", type=int, choices=[2, 4], default=4, help="of a gradient")
    parser.add_argument("--json", action="store_true", help="a line of JSON instead of the table")
    given = parser.parse_args(arguments)
    found = rows(Accelerator(given.tflops * 1e12, given.terabytes * 1e12), given.bytes)
    print(json.dumps(list(found)) if given.json else table(found))


if __name__ == "__main__":
    main()
