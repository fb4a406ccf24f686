"""Beginning a run, going on with it, and stopping it: what surrounds the loop."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from mslt import rehearsal
from mslt.checkpoint import State
from mslt.config import Config
from mslt.console import Console
from mslt.data.store import SAMPLE, TokenStore
from mslt.data.tokenizer import refuse_other
from mslt.devices import pick_device
from mslt.forecast import Forecast
from mslt.guard import Diverged
from mslt.job import Job
from mslt.launcher import first_here_speaks, identity, local_rank, passes_signals_on
from mslt.layout import FACTS, awaits, read_facts, read_start
from mslt.pretrain import Done, refuse_broken_weights, train
from mslt.replicas import hand_out
from mslt.resume import reopen
from mslt.run import Run
from mslt.signals import SAVE, Signals, preparing
from mslt.world import Poll, World, joined


def pretrain(
    config: Config,
    data: Path,
    out: Path,
    *,
    resume: bool = False,
    allow_change: Collection[str] = (),
    verify: bool = False,
    rehearse: bool | None = None,
    forecast: Path | None = None,
) -> int:
    """Pre-train by a config on a token store, into a run's folder.

    Where torchrun has started several processes, all call this alike and share the work; the main
    one alone writes the folder. Where torchrun has started them again, they go on by themselves.

    Args:
        config: the run; of a resumed one, the same as it was started with (see `mslt.resume`).
        data: the token store.
        out: the run's folder: new, or with `resume` the one to go on in.
        resume: go on from the newest good checkpoint.
        allow_change: fields that a resumed run may change all the same.
        verify: compare all of the store with its hashes, not a sample.
        rehearse: True tries every stage for a few steps, tells time, memory and disk, and stops
            there; False does not; None does where a run that begins is long, and goes on to it.
        forecast: what `mslt plan --json` wrote of a run that begins, to be compared in the end.

    Returns:
        0 when the plan is finished; 130 or 143 when a signal stopped it after a saved step.

    Raises:
        ValueError: what was given does not fit together, or training has diverged.
    """
    with first_here_speaks():
        device, store = pick_device(config.device), TokenStore.open(data)
    with preparing(), joined(device) as world:
        with world.phases("verifying the store"):
            verify_store(store, world, whole=verify)
        if world.most(resume or (world.main and _began_here(out))):
            run = Run.shared(world, out, config, lambda: Run.open(out))
            with run.lock():
                return follow(*reopen(config, store, run, allow_change, world), run)
        start = read_start(out)
        if start:
            refuse_other(store.path / "tokenizer", out / "tokenizer")
        job = Job.prepare(config, store, world=world, start=start)
        with job.prefix_cache(print):
            pass  # a folder that cannot be used is refused before there is a run
        world.first_alone(lambda: Run.refuse(out, job.config))
        foretold = Forecast.read(forecast, job.config) if forecast else None
        if rehearse or (rehearse is None and job.plan.steps >= rehearsal.LONG):
            rehearsed = rehearsal.rehearse(job, store, out)
            foretold = foretold or rehearsed
        if rehearse:
            return 0
        run = Run.shared(world, out, job.config, lambda: _new(job, store, out, foretold))
        with run.lock():
            state = hand_out(world, job.first_state(), job.config.model)
            assert state is not None
            return follow(job, state, run)


def verify_store(store: TokenStore, world: World, *, whole: bool) -> None:
    """Compare the store with its hashes, once on each machine.

    Raises:
        ValueError: naming a file that is damaged.
    """
    if local_rank():
        return
    compared = store.verify(None if whole else SAMPLE)
    if compared < store.bytes and world.main:
        print(
            f"mslt: {compared / 1e9:.1f} of the store's {store.bytes / 1e9:.1f} GB were compared "
            "with their hashes; --verify compares all",
            flush=True,
        )


def _began_here(out: Path) -> bool:
    """Whether this very launch began the run in a folder, or went on with it, and was restarted.

    Raises:
        ValueError: the folder's facts are damaged.
    """
    here = identity()
    if here is None or not (out / FACTS).exists() or awaits(out):
        return False
    return read_facts(out).get("launch") == here


def _new(job: Job, store: TokenStore, out: Path, foretold: Forecast | None) -> Run:
    facts = job.facts(store) | ({"forecast": foretold.to_dict()} if foretold else {})
    return Run.create(out, job.config, facts, store.path / "tokenizer")


def follow(job: Job, state: State, run: Run) -> int:
    """Train to the plan's end, or to the first signal. The exit status, as `pretrain` has it.

    What one process is asked by a signal all do, after the same step.
    """
    world, quiet = job.world, not job.world.main
    poll = Poll(world)
    with (
        Console(job.plan, job.config.batch_size, state.step, quiet=quiet) as console,
        Signals(launched=passes_signals_on()) as signals,
        _settling(run, world),
    ):
        if world.main:
            many = f" in {world.size} processes" if world.size > 1 else ""
            console.header(job.config, {**run.facts(), "device": world.device + many}, run.path)
        for done in train(job, state, run, console):
            asked = poll(signals.asked())
            if asked > SAVE and done.step < job.plan.steps:
                save(run, done)
                console.say(
                    f"stopped after step {done.step} and saved; go on with:\n"
                    f"  mslt pretrain --resume --out {run.path}"
                )
                run.close()
                return 128 + asked
            if asked == SAVE:
                save(run, done)
                console.say(f"saved step {done.step}, as it was asked to")
        if world.main:
            console.footer(run, run.path)
    run.close()
    return 0


@contextmanager
def _settling(run: Run, world: World) -> Iterator[None]:
    """Where training has diverged, which all find at once, leave when the last save is done."""
    try:
        yield
    except Diverged:
        run.wait()
        world.barrier()
        raise


def save(run: Run, done: Done) -> None:
    """Save a step and wait for it, in all processes.

    Raises:
        Diverged: its weights are broken.
        OSError: the disk is full or not writable.
    """
    world = done.trainer.world
    with world.phases("saving"):
        refuse_broken_weights(done)
        run.save(done.state())
        run.wait()
        world.barrier()
