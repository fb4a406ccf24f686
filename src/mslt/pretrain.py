"""Multi-stage layerwise training (section 3.2). The baselines are other plans, not other code."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from mslt.cache import PrefixCache
from mslt.checkpoint import State
from mslt.console import Console
from mslt.forecast import extrapolated
from mslt.growth import copied_from, freeze, grow, is_fixed
from mslt.guard import Diverged, Guard, Watch
from mslt.job import Job
from mslt.machine import forget_peak, peak
from mslt.model import Encoder
from mslt.optim import Moment, Moments
from mslt.plan import Stage
from mslt.replicas import checksums, hand_out, structure
from mslt.run import Clock, Run
from mslt.trainer import Trainer


@dataclass(frozen=True)
class Done:
    """Where training stands after a step."""

    step: int
    index: int
    stage: Stage
    trainer: Trainer
    clock: Clock
    watch: Watch

    def state(self) -> State:
        """All that the next step, or a resumed run, needs. Shares memory with the training."""
        trainer, seconds = self.trainer, self.clock.seconds
        return State(self.step, trainer.model, trainer.moments(), seconds, self.watch)


def train(job: Job, state: State, run: Run, console: Console) -> Iterator[Done]:
    """The loop: yields after every step, so that the caller may stop, or interleave runs.

    Of several processes each goes through it, with its own part of every batch; the main one writes
    the run's folder.

    Where training diverges, it goes back once to the last checkpoint from before the trouble and
    passes over the data on which it came about.

    Raises:
        Diverged: it did so again.
        OSError: the disk is full or not writable; what was saved before is as it was.
    """
    clock = Clock(state.seconds, job.world.device)
    with job.prefix_cache(console.say) as cache:
        while True:
            stages, before = _stages(job, state, run, console, clock, cache), state.watch
            del state  # so that memory holds one model and no other
            try:
                yield from stages
                return
            except Diverged as error:
                trouble = error.with_traceback(None)
            if before.passed_over:
                more = _where(job, trouble, before)
                raise Diverged(trouble.reason, trouble.step, trouble.sound, more)
            state = _gone_back(job, run, console, trouble)


def _stages(
    job: Job, state: State, run: Run, console: Console, clock: Clock, cache: PrefixCache | None
) -> Iterator[Done]:
    guard = Guard(state.watch, spikes=job.config.skip_spikes)
    foretold = state.step > 0 or run.forecast(job.plan) is not None
    for index, stage, steps in job.plan.remaining(state.step):
        model, moments = enter_stage(job, state, index)
        freeze(model, stage.learns_from, pair_head=job.config.instances.pair != "none")
        job.world.agree(structure(model))
        settings = job.settings(index)
        keep = cache.stage(index, model, settings.group) if cache else None
        trainer = Trainer(model, settings, moments, job.world, keep)
        console.enter(index, stage, steps)
        forget_peak(job.world.device)
        if len(steps) == stage.steps:
            guard.enter_stage()
        batches = job.batches(index)
        mark = (steps.start, clock.seconds)
        for step in steps:
            run.check()
            job.world.phases.step = step + 1
            with clock.running():
                place = step + guard.watch.passed_over
                upcoming = partial(batches, place + 1) if step + 1 < steps.stop else None
                metrics = trainer.step(
                    step, batches(place), job.plan.lr(step), guard.accept, upcoming
                )
            done = Done(step + 1, index, stage, trainer, clock, guard.watch)
            console.advance(step + 1)
            last = step + 1 == steps.stop
            if guard.reason:
                _passed_over(run, console, done, guard)
            elif last or (step + 1) % job.config.log_every == 0:
                values = {name: float(value) for name, value in metrics.items()}
                values |= _rates(job, done, mark)
                if not foretold and mark[0] > steps.start:  # its first steps warm up
                    foretold = _foretell(job, run, done, mark)
                mark = (step + 1, clock.seconds)
                run.record("train", step + 1, values)
                console.train(step + 1, values)
            evaluates = last or _due(step + 1, job.config.eval_every)
            saves = last or _due(step + 1, job.config.save_every)
            if evaluates or saves:
                refuse_broken_weights(done)
            if evaluates:
                measured = heldout(job, done, console)
                run.record("heldout", step + 1, measured)
            with job.world.phases("saving"):
                if last:
                    run.save_stage(index, job.plan, model, _summary(done, measured))
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
    repeat = model.config.repeat
    if model.depth != stage.depth:
        model = grow(state.model, to=stage.depth)
        if optimizer.copied_moments == "copied":
            for name, _ in model.named_parameters():
                source = copied_from(name, state.model.depth, stage.depth, repeat)
                if source in moments:
                    mean, square, updates = moments[source]
                    moments[name] = Moment(mean.clone(), square.clone(), updates)
    starts = state.step == job.plan.ends[index] - stage.steps
    if starts and index and optimizer.returning_moments == "fresh":
        before = job.plan.stages[index - 1].learns_from
        for name in list(moments):
            if is_fixed(name, before, repeat) and not is_fixed(name, stage.learns_from, repeat):
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
    """Where a logged step stands, tokens per second since the one before it, memory and traffic.

    The memory is the most that was in use since the stage began, or was gone on with; the traffic,
    bytes of gradients that this process hands over in a step to be summed up over all.
    """
    step, seconds = mark
    tokens = (done.step - step) * job.config.batch_size * done.stage.seq_len
    return {
        "lr": job.plan.lr(done.step - 1),
        "seq_len": done.stage.seq_len,
        "tokens_per_second": tokens / max(done.clock.seconds - seconds, 1e-9),
        "memory": peak(job.world.device),
        "reduced_bytes": done.trainer.reducer.bytes,
        **_place(done),
    }


def _foretell(job: Job, run: Run, done: Done, mark: tuple[int, float]) -> bool:
    """Let run.json keep what some steps of a stage say of all, to be compared in the end."""
    step, seconds = mark
    each = (done.clock.seconds - seconds) / (done.step - step)
    by = f"its own steps {step + 1} to {done.step}"
    run.foretell(extrapolated(job.config, job.plan, each, by, done.index))
    return True


def _summary(done: Done, measured: dict[str, Any]) -> dict[str, Any]:
    """What a stage's folder remembers: where it ended and how well."""
    heldout = {"kind": "heldout", "step": done.step, **measured}
    return {"step": done.step, "seconds": done.clock.seconds, "heldout": heldout}


def _passed_over(run: Run, console: Console, done: Done, guard: Guard) -> None:
    """Say that a step was refused; with too many in a row, stop going on like this."""
    run.record("skipped", done.step, {"reason": guard.reason, **_place(done)})
    console.say(f"step {done.step:,} is passed over: {guard.reason}; the weights are as before")
    if guard.lost:
        raise Diverged(guard.reason, done.step, done.step - guard.watch.refused)


def _gone_back(job: Job, run: Run, console: Console, trouble: Diverged) -> State:
    """The last good state from before the trouble, to go on from with the data behind it."""
    found = job.world.first_alone(lambda: run.back_to(trouble.sound) or job.first_state())
    state = hand_out(job.world, found, job.config.model)
    assert state is not None
    over = trouble.step - state.step
    run.rewind(state.step)
    values = {"reason": trouble.reason, "from": trouble.step, "passed_over": over}
    run.record("back", state.step, values)
    console.say(
        f"{trouble.reason} at step {trouble.step:,}: training has diverged; going back, once, to "
        f"step {state.step:,} and passing over the {over:,} batches behind it"
    )
    return replace(state, watch=replace(state.watch, refused=0, passed_over=over))


def _where(job: Job, trouble: Diverged, watch: Watch) -> str:
    """Which data it was, once going back has not helped."""
    batch = trouble.step - 1 + watch.passed_over
    first = batch * job.config.batch_size
    return (
        f" again, after it had gone back once; the last batch was number {batch:,}, instances "
        f"{first:,} to {first + job.config.batch_size - 1:,}"
    )


def refuse_broken_weights(done: Done) -> None:
    """Stop before weights that are not finite, or not the same in all processes, are kept.

    Raises:
        Diverged: some are not finite.
        ValueError: naming a tensor that differs.
    """
    done.trainer.world.agree(checksums(done.trainer.model))
    if not torch.isfinite(done.trainer.optimizer.weights).all():
        refuse_nonfinite({"a weight": math.nan}, done.step)


def refuse_nonfinite(values: dict[str, float], step: int) -> None:
    """Stop before a broken number reaches a checkpoint.

    Raises:
        Diverged: naming the value.
    """
    for name, value in values.items():
        if not math.isfinite(value):
            raise Diverged(f"{name} is {value}", step, step - 1)
