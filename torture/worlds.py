"""The same instances at every step, whatever the number of processes, and however it changes."""

import argparse
import json
import os
import shutil
import sys
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mslt.cli import main
from mslt.layout import read_metrics
from mslt.plan import METHODS
from torture.children import Kill, run_together
from torture.faults import POINTS, nothing, wrap
from torture.kill import prepare

RUN = (
    "--steps 20 --save_every 3 --batch_size 8 --micro_batch 2 --eval_every 0 --eval_batches 1 "
    "--log_every 1 --device cpu --precision fp32 --plan.seq_len 32 --model.hidden_size 16 "
    "--model.num_hidden_layers 4 --model.num_attention_heads 2 --schedule.warmup_steps 3"
)
WORLDS = ((1,), (2,), (4,), (2, 4), (4, 1), (1, 2), (4, 2, 1))  # processes, and then others
KILLED_AT = 8  # the step after which they are others
TOLERANCE = 1e-5  # of a loss, by which sums in another order may differ

Step = list[list[int]]  # number and content's CRC-32 of each instance of a step


def train(folder: Path, method: str, sizes: Sequence[int]) -> tuple[list[dict[int, Step]], Path]:
    """A run in one world after the other: what each saw at every step that all of it made.

    Raises:
        RuntimeError: one did not end as it was to.
    """
    place = folder / "trial"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    seen = []
    mid_step = next(point for point in POINTS if point.name == "mid-step")
    for number, size in enumerate(sizes):
        words = ["pretrain", f"bert_base_{method}", "--data", str(folder / "store"), *RUN.split()]
        if number:
            words = ["pretrain", "--resume"]
        kill = None
        if number + 1 < len(sizes):
            kill = Kill(size - 1, mid_step, KILLED_AT - 3 * number)

        def work(rank: int, words: Sequence[str] = words) -> int:
            _note(place / f"{rank}")
            return main([*words, "--out", str(place / "run")])

        statuses = run_together(work, size, place / "log", kill)
        if any(statuses) != bool(kill):
            raise RuntimeError((place / "log").read_text()[-2000:])
        seen.append(_gathered(place, size))
    return seen, place / "run"


def _note(file: Path) -> None:
    """From now on write down what this process trains on."""
    file.write_text("")
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND)

    def step(_: Any, number: int, batch: Any, *rest: Any) -> None:
        parts = zip(batch.ids, batch.input_ids, batch.masked_ids, batch.masked_positions)
        rows = [
            [int(one), zlib.crc32(b"".join(part.tobytes() for part in parts))]
            for one, *parts in parts
        ]
        os.write(descriptor, f"{json.dumps([number, rows])}\n".encode())

    wrap("mslt.trainer.Trainer.step", step, nothing)


def _gathered(place: Path, size: int) -> dict[int, Step]:
    """What the processes of a world saw, in the order of their ranks, at steps that all made."""
    texts = [(place / f"{rank}").read_text().splitlines() for rank in range(size)]
    parts = [dict(json.loads(line) for line in lines) for lines in texts]
    steps = set.intersection(*(set(part) for part in parts))
    return {step: [row for part in parts for row in part[step]] for step in sorted(steps)}


def losses(run: Path) -> list[float]:
    """Of every step, summed."""
    lines = [line for line in read_metrics(run) if line["kind"] == "train"]
    return [line["mlm_loss"] + line["pair_loss"] for line in lines]


def campaign(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Train in every world by every plan, say what differs, and sum up."""
    prepare(folder)
    failed, compared, farthest = 0, 0, 0.0
    for method in given.plans:
        expected: dict[int, Step] = {}
        usual: list[float] = []
        for sizes in WORLDS:
            seen, run = train(folder, method, sizes)
            found = losses(run)
            if not expected:
                [expected], usual = seen, found
            odd = [step for part in seen for step in part if part[step] != expected[step]]
            off = max(abs(a / b - 1) for a, b in zip(found, usual, strict=True))
            farthest = max(farthest, off)
            compared += sum(map(len, seen))
            if odd or off > TOLERANCE or len(expected) != 20:
                failed += 1
                print(f"worlds: {method} {sizes}: steps {odd} differ, losses by {off:.1e}")
            print(f"\rworlds: {method} {sizes}      ", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return {
        "campaign": "worlds",
        "plans": len(given.plans),
        "worlds": len(WORLDS),
        "steps_compared": compared,
        "failed": failed,
        "largest_difference_of_a_loss": float(f"{farthest:.1e}"),
    }


def command(words: Sequence[str] | None = None) -> int:
    """What `python -m torture.worlds` does; 1 where a world differed."""
    parser = argparse.ArgumentParser(prog="python -m torture.worlds")
    parser.add_argument("--plans", nargs="+", default=list(METHODS), choices=list(METHODS))
    given = parser.parse_args(words)
    with tempfile.TemporaryDirectory(prefix="torture-worlds-") as place:
        summary = campaign(Path(place), given)
    print(json.dumps(summary), flush=True)
    return int(summary["failed"] > 0)


if __name__ == "__main__":
    sys.exit(command())
