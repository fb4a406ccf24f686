"""Beginning a run, going on with it, and stopping it: what surrounds the loop."""

from collections.abc import Collection
from pathlib import Path

from mslt import rehearsal
from mslt.checkpoint import State
from mslt.config import Config
from mslt.console import Console
from mslt.data.store import SAMPLE, TokenStore
from mslt.job import Job
from mslt.pretrain import Done, refuse_broken_weights, train
from mslt.resume import reopen
from mslt.run import Run
from mslt.signals import Signals


def pretrain(
    config: Config,
    data: Path,
    out: Path,
    *,
    resume: bool = False,
    allow_change: Collection[str] = (),
    verify: bool = False,
    rehearse: bool | None = None,
) -> int:
    """Pre-train by a config on a token store, into a run's folder.

    Args:
        config: the run; of a resumed one, the same as it was started with (see `mslt.resume`).
        data: the token store.
        out: the run's folder: new, or with `resume` the one to go on in.
        resume: go on from the newest good checkpoint.
        allow_change: fields that a resumed run may change all the same.
        verify: compare all of the store with its hashes, not a sample.
        rehearse: True tries every stage for a few steps, tells time, memory and disk, and stops
            there; False does not; None does where a run that begins is long, and goes on to it.

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
            return follow(*reopen(config, store, run, allow_change), run)
    job = Job.prepare(config, store)
    with job.prefix_cache(print):
        pass  # a folder that cannot be used is refused before there is a run
    Run.refuse(out, job.config)
    if rehearse or (rehearse is None and job.plan.steps >= rehearsal.LONG):
        rehearsal.rehearse(job, store, out)
    if rehearse:
        return 0
    run = Run.create(out, job.config, job.facts(store), store.path / "tokenizer")
    with run.lock():
        return follow(job, job.first_state(), run)


def follow(job: Job, state: State, run: Run) -> int:
    """Train to the plan's end, or to the first signal. The exit status, as `pretrain` has it."""
    with Console(job.plan, job.config.batch_size, state.step) as console, Signals() as signals:
        console.header(job.config, {**run.facts(), "device": job.world.device}, run.path)
        for done in train(job, state, run, console):
            if signals.stop and done.step < job.plan.steps:
                save(run, done)
                console.say(
                    f"stopped after step {done.step} and saved; go on with:\n"
                    f"  mslt pretrain --resume --out {run.path}"
                )
                run.close()
                return 128 + signals.stop
            if signals.save_asked():
                save(run, done)
                console.say(f"saved step {done.step}, as it was asked to")
        console.footer(run, run.path)
    run.close()
    return 0


def save(run: Run, done: Done) -> None:
    """Save a step and wait for it.

    Raises:
        Diverged: its weights are broken.
        OSError: the disk is full or not writable.
    """
    refuse_broken_weights(done)
    run.save(done.state())
    run.wait()
