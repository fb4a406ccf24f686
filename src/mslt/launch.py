"""Beginning a run, going on with it, and stopping it: what surrounds the loop."""

import signal
from pathlib import Path
from types import FrameType
from typing import Any

from mslt.checkpoint import State
from mslt.config import OPERATIONAL, Config
from mslt.console import Console
from mslt.data.store import SAMPLE, TokenStore
from mslt.job import Job, store_hash
from mslt.options import flatten
from mslt.pretrain import refuse_broken_weights, train
from mslt.run import Run
from mslt.trainer import pick_precision


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
