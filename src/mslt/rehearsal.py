"""A long run in a minute: two steps on each side of every boundary between stages.

What would fail at step 200,000, for want of memory, of room on the disk, or in growing, fails
before the run begins. The rehearsal is the run's own loop on a plan of a few steps, in a folder
that is removed; it takes nothing from the run and leaves nothing to it.
"""

import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from statistics import median

import torch

from mslt.console import Console
from mslt.data.store import TokenStore
from mslt.files import gigabytes
from mslt.forecast import Forecast
from mslt.job import Job
from mslt.machine import forget_peak, now, peak
from mslt.phases import Phases
from mslt.pretrain import Done, train
from mslt.room import run_bytes
from mslt.run import Run
from mslt.schedule import Schedule
from mslt.words import describe, duration

TIMED = 3  # steps of each stage, the last of which tells the forward-only layers' part
LONG = 10_000  # steps from which on a run is rehearsed unasked, which costs it 0.2 % at most


@dataclass(frozen=True)
class Stretch:
    """A stage as it was rehearsed.

    Args:
        index: of the stage, counted from 0.
        seconds: of one step.
        prefix: seconds of it in the forward-only layers.
        memory: bytes at the most, of the process or on its GPU; None where that is not known.
        done: its last step.
    """

    index: int
    seconds: float
    prefix: float
    memory: int | None
    done: Done


def rehearse(job: Job, store: TokenStore, out: Path) -> Forecast:
    """Take a few steps of every stage on a model that is thrown away, and tell what they took.

    Args:
        job: the run.
        store: its text.
        out: the folder that it will have; the rehearsal's stands beside it meanwhile.

    Returns:
        What the run is expected to take.

    Raises:
        ValueError: a stage does not fit into memory.
        OSError: the disk is full or not writable.
    """
    say = Console(job.plan, job.config.batch_size, quiet=not job.world.main).say
    steps = warm_up(job.world.device) + TIMED
    say(f"rehearsal, {steps} steps of each stage on a model that is thrown away:")
    seconds, stretch = list[float](), None
    for stretch in stretches(job, store, out.absolute().with_name(f".{out.name}.rehearsal")):
        stage = job.plan.stages[stretch.index]
        seconds.append(stretch.seconds)
        memory = "" if stretch.memory is None else f", {gigabytes(stretch.memory)} of memory"
        say(
            f"  stage {stretch.index + 1}: {describe(stage)}: {stretch.seconds:.3g} s a step"
            f"{memory}; {stage.steps:,} steps: {duration(stretch.seconds * stage.steps)}"
        )
    assert stretch is not None
    evaluation = seconds_to_evaluate(job, stretch.done)
    forecast = Forecast(f"{steps} steps of each stage before it", tuple(seconds), evaluation)
    say(_foretold(job, out, forecast.training(job.plan), evaluation))
    return forecast


def warm_up(device: str) -> int:
    """Steps of a stage that take longer than others: the first; on a GPU, which records, three."""
    return 3 if device.startswith("cuda") else 1


def stretches(
    job: Job, store: TokenStore, folder: Path, steps: int | None = None
) -> Iterator[Stretch]:
    """Every stage of a job in turn, by a few steps on a model that is thrown away.

    Args:
        job: a run, or any plan that can be trained.
        store: its text.
        folder: what it writes meanwhile; removed at the end.
        steps: of each stage; by default as many as it takes.

    Raises:
        ValueError: a stage does not fit into memory.
        OSError: the disk is full or not writable.
    """
    short = _shortened(job, steps or warm_up(job.world.device) + TIMED)

    def new() -> Run:
        shutil.rmtree(folder, ignore_errors=True)
        return Run.create(folder, short.config, short.facts(store), store.path / "tokenizer")

    try:
        yield from _stretches(job, short, Run.shared(job.world, folder, short.config, new))
    finally:
        if job.world.main:
            shutil.rmtree(folder, ignore_errors=True)


def _stretches(job: Job, short: Job, run: Run) -> Iterator[Stretch]:
    console = Console(short.plan, job.config.batch_size, quiet=True)
    device, took, before, index = job.world.device, list[float](), 0.0, 0
    forget_peak(device)
    try:
        for done in train(short, short.first_state(), run, console):
            took.append(done.clock.seconds - before)
            before, index, end = done.clock.seconds, done.index, short.plan.ends[done.index]
            if done.step == end - 1:  # to time a phase is to wait for the device
                done.trainer.time(Phases(lambda: now(device)))
            if done.step == end:
                usual = median(took[warm_up(device) : -1] or took[-1:])
                prefix = done.trainer.phases.seconds.get("prefix", 0.0)
                yield Stretch(index, usual, prefix, peak(device), done)
                took, index = [], index + 1
                forget_peak(device)
    except (torch.OutOfMemoryError, MemoryError) as error:
        stage = job.plan.stages[index]
        raise ValueError(
            f"stage {index + 1} ({describe(stage)}) does not fit into memory with a micro_batch "
            f"of {job.micro_batches[index]}: choose a lower one ({error})"
        ) from None


def _shortened(job: Job, steps: int) -> Job:
    """The same with a few steps of each stage, at a rate that moves next to nothing."""
    stages = tuple(replace(stage, steps=min(steps, stage.steps)) for stage in job.plan.stages)
    config = replace(job.config, keep=1, save_every=10**9, eval_every=0, prefix_cache=None)
    config = replace(config, tensorboard=False, track=None)
    schedule = Schedule(lr=1e-6, warmup_steps=0, shape="constant")
    return replace(job, config=config, plan=replace(job.plan, stages=stages, schedule=schedule))


def seconds_to_evaluate(job: Job, done: Done) -> float:
    """Of one held-out evaluation."""
    start = time.perf_counter()
    done.trainer.evaluate(job.heldout)
    return time.perf_counter() - start


def _foretold(job: Job, out: Path, training: float, evaluation: float) -> str:
    """When the run would end, and what it takes of the disk."""
    every = job.config.eval_every
    times = len(job.plan.stages) + (job.plan.steps // every if every else 0)
    end = datetime.now() + timedelta(seconds=training + times * evaluation)
    parent = next(folder for folder in out.absolute().parents if folder.exists())
    return (
        f"  {duration(training)} of training and {duration(times * evaluation)} of evaluation: "
        f"it would end on {end:%Y-%m-%d at %H:%M}\n"
        f"  {gigabytes(run_bytes(job.config))} of disk at most, of "
        f"{gigabytes(shutil.disk_usage(parent).free)} that are free"
    )
