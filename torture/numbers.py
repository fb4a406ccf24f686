"""Broken numbers and spikes, met by a run of one process or of several that are in step."""

import argparse
import json
import math
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

import mslt.objective as objective
from mslt.cli import main
from mslt.layout import read_metrics
from torture.children import run_together
from torture.faults import nothing, wrap
from torture.kill import outcome, prepare

STAGE = 45  # steps of each stage that grows: more than the guard wants to see before it judges
STEP = 40  # the step, counted from 0, that is made bad; and the first of a stage:
BOUNDARY = STAGE
RUN = (
    "--steps 100 --plan.k 2 --plan.shares [45,45,10] --save_every 50 --batch_size 4 "
    "--micro_batch 2 --eval_every 0 --eval_batches 1 --log_every 1 --device cpu --precision fp32 "
    "--plan.seq_len 32 --model.hidden_size 16 --model.num_hidden_layers 2 "
    "--model.num_attention_heads 2 --model.initializer_range 0.5 --schedule.warmup_steps 3"
)  # initial weights so large that the loss is as noisy as that of real text

Loss = Callable[[Tensor], Tensor]  # what becomes of a micro-batch's masked-token loss


def _nan(loss: Tensor) -> Tensor:
    return loss * math.nan


def _inf_gradient(loss: Tensor) -> Tensor:
    """The same loss, whose gradient is infinite."""
    loss.register_hook(lambda gradient: gradient * math.inf)
    return loss * 1.0


def _times(factor: float) -> Loss:
    return lambda loss: loss * factor


@dataclass(frozen=True)
class Case:
    """Something that happens to the numbers of one step.

    Args:
        name: what.
        harm: done to the losses.
        rank: in which process; None for all.
        step: in which step, counted from 0.
        skipped: whether that step must be passed over; no other may be.
    """

    name: str
    harm: Loss
    rank: int | None = None
    step: int = STEP
    skipped: bool = True


def cases(processes: int, lines: Sequence[Mapping[str, Any]]) -> list[Case]:
    """The table.

    Args:
        processes: of the run.
        lines: metrics of an unbroken run, from which the spikes are made to measure.
    """
    last = processes - 1
    return [
        Case("NaN on one rank", _nan, last),
        Case("Inf gradient on one rank", _inf_gradient, last),
        Case("NaN on every rank", _nan),
        Case("a spike of 10.5 sigma", _times(factor(lines, 10.5))),
        Case("a loss of 9.5 sigma", _times(factor(lines, 9.5)), skipped=False),
        Case(
            "a spike of 10.5 sigma at a boundary",
            _times(factor(lines, 10.5)),
            None,
            BOUNDARY,
            False,
        ),
    ]


def usual(lines: Sequence[Mapping[str, Any]]) -> tuple[float, float]:
    """Median of the losses before STEP, and 1.4826 times the median distance from it, in nats.

    The latter is the standard deviation of normal noise, however far off a few may be.
    """
    losses = [line["mlm_loss"] + line["pair_loss"] for line in lines][:STEP]
    middle = statistics.median(losses)
    return middle, 1.4826 * statistics.median(abs(loss - middle) for loss in losses)


def factor(lines: Sequence[Mapping[str, Any]], sigmas: float) -> float:
    """What makes the masked-token loss of STEP lie that far above the median."""
    middle, sigma = usual(lines)
    now = lines[STEP]
    return float((middle + sigmas * sigma - now["pair_loss"]) / now["mlm_loss"])


@dataclass(frozen=True)
class Ground:
    """Where the runs are made.

    Args:
        folder: of the text's store and of the runs.
        processes: of each run.
    """

    folder: Path
    processes: int

    def run(self, name: str, case: Case | None = None) -> Path:
        """Train, with or without something happening. The run's folder.

        Raises:
            RuntimeError: the run failed.
        """
        place = self.folder / name
        place.mkdir()
        store = self.folder / "store"

        def work(rank: int) -> int:
            if case and case.rank in (None, rank):
                _inject(case)
            words = f"pretrain bert_base_mslt --data {store} --out {place / 'run'} {RUN}"
            return main(words.split())

        if any(run_together(work, self.processes, place / "log")):
            raise RuntimeError((place / "log").read_text()[-2000:])
        return place / "run"


def _inject(case: Case) -> None:
    """From now on let it happen to this process."""
    losses, steps = objective.losses, [-1]

    def harmed(*args: Any, **options: Any) -> tuple[Tensor, Tensor]:
        mlm, pair = losses(*args, **options)
        return (case.harm(mlm) if steps[-1] == case.step else mlm), pair

    objective.losses = harmed
    wrap("mslt.trainer.Trainer.step", lambda _, step, *rest: steps.append(step), nothing)


def complaints(case: Case, run: Path) -> list[str]:
    """What is wrong with a run to which something happened."""
    lines = read_metrics(run)
    skipped = [line["step"] for line in lines if line["kind"] == "skipped"]
    wanted = [case.step + 1] if case.skipped else []
    found = [] if skipped == wanted else [f"passed over {skipped}, not {wanted}"]
    if [line for line in lines if line["kind"] == "back"]:
        found.append("went back")
    return found


def campaign(ground: Ground, only: str) -> dict[str, Any]:
    """Run every case, say what goes wrong, and sum up."""
    prepare(ground.folder)
    unbroken = [line for line in read_metrics(ground.run("unbroken")) if line["kind"] == "train"]
    table = [case for case in cases(ground.processes, unbroken) if only in case.name]
    skipped, failed = {}, 0
    weights = []
    for number, case in enumerate(table):
        run = ground.run(str(number), case)
        wrong = complaints(case, run)
        if case.skipped:
            weights.append({k: v for k, v in outcome(run).items() if k.endswith("tensors")})
            if weights[-1] != weights[0]:
                wrong.append("ends with other weights than those to whom the same step was lost")
        for text in wrong:
            print(f"numbers: {case.name}: {text}", flush=True)
        failed += bool(wrong)
        skipped[case.name] = sum(line["kind"] == "skipped" for line in read_metrics(run))
        print(f"\rnumbers: {number + 1} of {len(table)}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return {
        "campaign": "numbers",
        "processes": ground.processes,
        "cases": len(table),
        "failed": failed,
        "steps_skipped": skipped,
        "sigma_nats": round(usual(unbroken)[1], 3),
    }


def command(words: Sequence[str] | None = None) -> int:
    """What `python -m torture.numbers` does; 1 where a case failed."""
    parser = argparse.ArgumentParser(prog="python -m torture.numbers")
    parser.add_argument("--processes", type=int, default=1, help="of each run")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    given = parser.parse_args(words)
    with tempfile.TemporaryDirectory(prefix="torture-numbers-") as place:
        summary = campaign(Ground(Path(place), given.processes), given.only)
    print(json.dumps(summary), flush=True)
    return int(summary["failed"] > 0)


if __name__ == "__main__":
    sys.exit(command())
