"""Every kind of step that some plans have, timed for a few steps on the machine at hand.

It is a rehearsal (`mslt.rehearsal`) of a plan in which each of these kinds is a stage.
"""

import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from statistics import mean, median
from tempfile import TemporaryDirectory

import torch

from mslt.analysis.estimate import Machine, Measured, Way, all_ways, way
from mslt.analysis.planning import Prospect
from mslt.analysis.scale import Accelerator
from mslt.config import Config
from mslt.data.store import TokenStore
from mslt.devices import pick_device, pick_precision
from mslt.job import Job, fitting_micro_batch, pick_micro_batches
from mslt.plan import Plan
from mslt.rehearsal import Stretch, seconds_to_evaluate, stretches
from mslt.words import describe, metric

FIRST = 4  # steps of each kind that show how many more there is time for
FEWEST, MOST = 6, 40  # steps of each kind in a round
SECONDS = 10.0  # of a round of all kinds, as far as these allow
ROUNDS = 2  # so that what else the machine does falls on all kinds alike
QUIET = 0.1  # by which rounds may differ before it is said
SHARE = 0.6  # of a bare matrix product's rate that training reaches (docs/log.md: 69 % of fp32)
GPU_MEMORY = 80e9  # bytes
UPDATE = 10e9  # bytes/s of an optimizer's update, where nothing is known of the memory


@dataclass(frozen=True)
class _Kind:
    """What was timed of a kind of step, round by round."""

    seconds: list[float]
    prefix: list[float]
    memory: list[int | None]


def measured(config: Config, store: TokenStore, plans: list[Plan], machine: Machine) -> Prospect:
    """Time every kind of step that some plans have, and predict from that.

    Args:
        config: the run.
        store: its text.
        plans: the stages of interest.
        machine: on which it is to run; the share of one of its devices is timed here.

    Raises:
        ValueError: store, config and machine do not fit together, or memory does not suffice.
        OSError: the disk for temporary files is full or not writable.
    """
    alone = replace(config, batch_size=machine.sequences(config))
    job = Job.prepare(alone, store)
    union = all_ways(*plans)
    micro = pick_micro_batches(alone, union, {}, job.world)
    job = replace(job, plan=union, micro_batches=micro)
    kinds: dict[Way, _Kind] = defaultdict(lambda: _Kind([], [], []))
    evaluation = 0.0
    with TemporaryDirectory(prefix="mslt-plan-") as folder:

        def go(steps: int) -> Iterator[tuple[_Kind, Stretch]]:
            long = replace(job, plan=_with_steps(union, steps))
            for stretch in stretches(long, store, Path(folder) / "trial", steps):
                stage = union.stages[stretch.index]
                _say(f"  {describe(stage)}: {metric(stretch.seconds, 's')} a step")
                yield kinds[way(stage)], stretch

        _say(f"a first look, {FIRST} steps of each of {len(union.stages)} kinds:")
        probe = sum(stretch.seconds for _, stretch in go(FIRST))
        steps = min(MOST, max(FEWEST, ceil(SECONDS / probe)))
        _say(f"{ROUNDS} x {steps} steps of each:")
        for kind, stretch in (pair for _ in range(ROUNDS) for pair in go(steps)):
            kind.seconds.append(stretch.seconds)
            kind.prefix.append(stretch.prefix)
            kind.memory.append(stretch.memory)
            if stretch.index == len(union.stages) - 1:
                evaluation = seconds_to_evaluate(job, stretch.done)
    if (apart := _apart(plans, kinds)) > QUIET:
        _say(
            f"this machine is not quiet: by one round a plan takes {apart:.0%} longer than by "
            f"another, so that totals may be off by {apart / 2:.0%}"
        )
    took = {key: (mean(kind.seconds), median(kind.prefix)) for key, kind in kinds.items()}
    memory = {key: max(filter(None, kind.memory), default=None) for key, kind in kinds.items()}
    by = f"{ROUNDS} x {steps} steps of each kind, timed here"
    lengths = dict(zip([stage.seq_len for stage in union.stages], micro))
    return Prospect(
        estimate=Measured(config, machine, took, by),
        machine=machine,
        micro_batch=lengths.__getitem__,
        half=job.precision == "bf16",
        memory=memory,
        evaluation=evaluation,
    )


def _apart(plans: list[Plan], kinds: Mapping[Way, _Kind]) -> float:
    """By how much the rounds differ about the total of the plan about which they differ most."""

    def total(plan: Plan, number: int) -> float:
        return sum(stage.steps * kinds[way(stage)].seconds[number] for stage in plan.stages)

    totals = [[total(plan, number) for number in range(ROUNDS)] for plan in plans]
    return max(max(each) / min(each) for each in totals) - 1


def _with_steps(plan: Plan, steps: int) -> Plan:
    return replace(plan, stages=tuple(replace(stage, steps=steps) for stage in plan.stages))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def device_here(config: Config) -> tuple[Accelerator, str]:
    """The rate that training is assumed to reach here, and where that is from, in words.

    A share of what a bare matrix product reaches in half a second.

    Raises:
        ValueError: the config asks for a device or a precision that is not there.
    """
    device = pick_device(config.device)
    precision = pick_precision(config.precision, device)
    rate = _matrix_product(device, torch.bfloat16 if precision == "bf16" else torch.float32)
    words = (
        f"arithmetic at {SHARE:.0%} of the {metric(rate, 'FLOP/s')} that a matrix product of "
        f"{precision} makes here"
    )
    return Accelerator(flops=SHARE * rate, memory=UPDATE), words


def _matrix_product(device: str, dtype: torch.dtype) -> float:
    """FLOP/s of a large one."""
    size = 8192 if device.startswith("cuda") else 1024
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    rates: list[float] = []
    end = time.perf_counter() + 0.5
    while time.perf_counter() < end or len(rates) < 3:
        start = time.perf_counter()
        torch.mm(a, b)
        if device.startswith("cuda"):
            torch.cuda.synchronize(device)
        rates.append(2.0 * size**3 / (time.perf_counter() - start))
    return median(rates[1:])


def micro_batches(config: Config, machine: Machine) -> Callable[[int], int]:
    """Sequences that would go through the model at once, by their length.

    Args:
        config: the run.
        machine: of GPUs with so much memory as an H100 has, or else the machine at hand.
    """
    share = replace(config, batch_size=machine.sequences(config))
    if machine.accelerated:
        return lambda length: fitting_micro_batch(share, length, "cuda", free=GPU_MEMORY)
    device = pick_device(config.device)
    return lambda length: fitting_micro_batch(share, length, device)
