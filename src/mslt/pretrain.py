"""Multi-stage layerwise training (section 3.2). The baselines are other plans, not other code."""

import math
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from mslt.cache import PrefixCache
from mslt.checkpoint import State
from mslt.config import OPERATIONAL, Config
from mslt.console import Console
from mslt.data.store import SAMPLE, TokenStore
from mslt.growth import copied_from, freeze, grow, is_fixed
from mslt.job import Job, store_hash
from mslt.model import Encoder
from mslt.optim import Moment, Moments
from mslt.options import flatten
from mslt.plan import Stage
from mslt.run import Clock, Run
from mslt.trainer import Trainer, pick_precision


@dataclass(frozen=True)
class Done:
    """Where training stands after a step."""

    step: int
    index: int
    stage: Stage
    trainer: Trainer
    clock: Clock

    def state(self) -> State:
        """All that the next step, or a resumed run, needs. Shares memory with the training."""
        return State(self.step, self.trainer.model, self.trainer.moments(), self.clock.seconds)


def train(job: Job, state: State, run: Run, console: Console) -> Iterator[Done]:
    """The loop: yields after every step, so that the caller may stop, or interleave runs."""
    with job.prefix_cache(console.say) as cache:
        yield from train_with(cache, job, state, run, console)


def train_with(
    cache: PrefixCache | None, job: Job, state: State, run: Run, console: Console
) -> Iterator[Done]:
    """The loop, with what keeps the forward-only layers' output or without."""
    clock = Clock(state.seconds, job.world.device)
    for index, stage, steps in job.plan.remaining(state.step):
        model, moments = enter_stage(job, state, index)
        freeze(model, stage.learns_from, pair_head=job.config.instances.pair != "none")
        settings = job.settings(index)
        keep = cache.stage(index, model, settings.group) if cache else None
        trainer = Trainer(model, settings, moments, job.world, keep)
        console.enter(index, stage, steps)
        mark = (steps.start, clock.seconds)
        for step in steps:
            run.check()
            with clock.running():
                batch = job.instances.batch(step, stage.seq_len)
                metrics = trainer.step(step, batch, job.plan.lr(step))
            done = Done(step + 1, index, stage, trainer, clock)
            console.advance(step + 1)
            last = step + 1 == steps.stop
            if last or (step + 1) % job.config.log_every == 0:
                values = {name: float(value) for name, value in metrics.items()}
                refuse_nonfinite(values, step + 1)
                values |= _rates(job, done, mark)
                mark = (step + 1, clock.seconds)
                run.record("train", step + 1, values)
                console.train(step + 1, values)
            evaluates = last or _due(step + 1, job.config.eval_every)
            saves = last or _due(step + 1, job.config.save_every)
            if evaluates or saves:
                refuse_broken_weights(done)
            if evaluates:
                run.record("heldout", step + 1, heldout(job, done, console))
            if last:
                run.save_stage(index, job.plan, model, _summary(run, done))
            if saves:
                run.save(done.state())
            if last:
                run.wait()
            yield done
        state = done.state()


def enter_stage(job: Job, state: State, index: int) -> tuple[Encoder, Moments]:
    """Model and moments as a stage starts with them, or goes on with them after a resume."""
    stage, optimizer = job.plan.stages[index], job.config.optimizer
    model, moments = state.model, dict(state.moments)
    if model.depth != stage.depth:
        model = grow(state.model, to=stage.depth)
        if optimizer.copied_moments == "copied":
            for name, _ in model.named_parameters():
                source = copied_from(name, state.model.depth, stage.depth)
                if source in moments:
                    mean, square, updates = moments[source]
                    moments[name] = Moment(mean.clone(), square.clone(), updates)
    starts = state.step == job.plan.ends[index] - stage.steps
    if starts and index and optimizer.returning_moments == "fresh":
        before = job.plan.stages[index - 1].learns_from
        for name in list(moments):
            if is_fixed(name, before) and not is_fixed(name, stage.learns_from):
                del moments[name]
    return model, moments


def heldout(job: Job, done: Done, console: Console) -> dict[str, Any]:
    """Losses and accuracies on the held-out batches; the training clock stands still."""
    values: dict[str, Any] = dict(done.trainer.evaluate(job.heldout))
    refuse_nonfinite(values, done.step)
    console.heldout(done.step, values)
    if done.step > job.plan.steps // 4 and job.baseline - values["mlm_loss"] < 0.05:
        console.warn_once(
            f"step {done.step}: the held-out loss is not below that of the tokens' own "
            f"frequencies ({job.baseline:.3f}): nothing of their context is learned yet. A short "
            f"run needs more steps; one that stays at this loss needs a lower schedule.lr "
            f"(now {job.config.schedule.lr:g})."
        )
    return values | _place(done)


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _place(done: Done) -> dict[str, Any]:
    stage = done.stage
    return {
        "stage": done.index + 1,
        "depth": stage.depth,
        "learns_from": stage.learns_from,
        "seconds": done.clock.seconds,
    }


def _rates(job: Job, done: Done, mark: tuple[int, float]) -> dict[str, Any]:
    """Where a logged step stands, and tokens per second since the one before it."""
    step, seconds = mark
    tokens = (done.step - step) * job.config.batch_size * done.stage.seq_len
    return {
        "lr": job.plan.lr(done.step - 1),
        "seq_len": done.stage.seq_len,
        "tokens_per_second": tokens / max(done.clock.seconds - seconds, 1e-9),
        **_place(done),
    }


def _summary(run: Run, done: Done) -> dict[str, Any]:
    """What a stage's folder remembers: where it ended and how well."""
    return {"step": done.step, "seconds": done.clock.seconds, "heldout": run.heldout()[-1]}


def refuse_broken_weights(done: Done) -> None:
    """Stop before weights that are not finite are measured or kept.

    Raises:
        ValueError: training has diverged.
    """
    if not torch.isfinite(done.trainer.optimizer.weights).all():
        refuse_nonfinite({"a weight": math.nan}, done.step)


def refuse_nonfinite(values: dict[str, float], step: int) -> None:
    """Stop before a broken number reaches a checkpoint.

    Raises:
        ValueError: naming the value.
    """
    for name, value in values.items():
        if not math.isfinite(value):
            raise ValueError(
                f"{name} is {value} at step {step}: training has diverged. Lower schedule.lr or "
                f"lengthen schedule.warmup_steps; the last checkpoint is from before"
            )


class Stop:
    """Turns the first Ctrl-C or SIGTERM into a request; a second one stops at once."""

    def __init__(self) -> None:
        self.signal = 0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Stop":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, _: FrameType | None) -> None:
        self.signal = number
        self.__exit__()


def pretrain(
    config: Config, data: Path, out: Path, *, resume: bool = False, verify: bool = False
) -> int:
    """Pre-train by a config on a token store, into a run's folder.

    Args:
        config: the run; of a resumed one, the same as it was started with.
        data: the token store.
        out: the run's folder: new, or with `resume` the one to go on in.
        resume: go on from the newest good checkpoint.
        verify: compare all of the store with its hashes, not a sample.

    Returns:
        0 when the plan is finished; 130 or 143 when a signal stopped it after a saved step.

    Raises:
        ValueError: what was given does not fit together, or training has diverged.
    """
    store = TokenStore.open(data)
    compared = store.verify(None if verify else SAMPLE)
    if compared < store.bytes:
        print(
            f"mslt: {compared / 1e9:.1f} of the store's {store.bytes / 1e9:.1f} GB were compared "
            "with their hashes; --verify compares all",
            flush=True,
        )
    if resume:
        run = Run.open(out)
        with run.lock():
            return follow(*reopen(config, store, run), run)
    job = Job.prepare(config, store)
    with job.prefix_cache(print):
        pass  # a folder that cannot be used is refused before there is a run
    run = Run.create(out, job.config, job.facts(store), store.path / "tokenizer")
    with run.lock():
        return follow(job, job.first_state(), run)


def follow(job: Job, state: State, run: Run) -> int:
    """Train to the plan's end, or to the first signal. The exit status, as `pretrain` has it."""
    with Console(job.plan, job.config.batch_size, state.step) as console, Stop() as stop:
        console.header(job.config, {**run.facts(), "device": job.world.device}, run.path)
        for done in train(job, state, run, console):
            if stop.signal and done.step < job.plan.steps:
                refuse_broken_weights(done)
                run.save(done.state())
                console.say(
                    f"stopped after step {done.step} and saved; go on with:\n"
                    f"  mslt pretrain --resume --out {run.path}"
                )
                run.close()
                return 128 + stop.signal
        console.footer(run, run.path)
    run.close()
    return 0


def reopen(config: Config, store: TokenStore, run: Run) -> tuple[Job, State]:
    """What a run that is locked goes on with, and the state to go on from.

    Raises:
        ValueError: naming what is not as it was when the run began.
    """
    facts = run.facts()
    job = Job.prepare(config, store, facts)
    now = flatten(job.config.to_dict())
    for name, before in flatten(run.config.to_dict()).items():
        if now[name] != before and name not in OPERATIONAL:
            raise ValueError(
                f"{name} is {now[name]}, but the run in {run.path} was started with {before}"
            )
    if (job.config.prefix_cache is None) != (run.config.prefix_cache is None):
        raise ValueError(
            f"prefix_cache is {job.config.prefix_cache}, but the run in {run.path} was started "
            f"with {run.config.prefix_cache}: a folder may give way to another, not to none"
        )
    if facts["store_sha256"] != store_hash(store):
        raise ValueError(
            f"the store {store.path} is not the one that the run in {run.path} began with"
        )
    if job.precision == "bf16" and pick_precision("auto", job.world.device) == "fp32":
        print("mslt: the run began in bf16 and goes on in it, which is slow here", flush=True)
    run.metrics()  # refuses a damaged file before anything is set aside
    state = run.latest() or job.first_state()
    run.rewind(state.step)
    if state.step < job.plan.steps:
        run.go_on(job.config, state.step, job.world.device)
    state.model.to(job.world.device)
    return job, state
