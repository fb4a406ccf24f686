"""Plans side by side: the same data and seeds, in turns, under one budget (sections 4.2 and 4.3).

DIR/compare.json             what is compared, how far it is, and the results
    tables.md .csv .tex      the paper's tables for these runs
    curves.png .svg          their losses
    runs/NAME-seedS/         run folders as `mslt pretrain` makes them
"""

import time
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mslt import budget, foreign, layout
from mslt.analysis.comparison import write_results
from mslt.config import Config
from mslt.console import duration
from mslt.data.store import TokenStore
from mslt.devices import pick_device
from mslt.files import appearing, locked, refuse_standing
from mslt.forecast import outcome
from mslt.job import Job, store_hash
from mslt.launch import save, verify_store
from mslt.launcher import first_here_speaks, passes_signals_on
from mslt.replicas import hand_out
from mslt.resume import reopen
from mslt.run import Run, to_json, write_text
from mslt.signals import SAVE, Signals
from mslt.turns import Loop, Turn, in_turns
from mslt.world import Poll, World, joined

LINES = 20  # of progress for each seed
BLOCK_STEPS = 50  # in a block of the longest plan, at the most ...
FEWEST_BLOCKS = 50  # ... and more blocks than that where it is short

_FILE: dict[str, Any] = {
    "budget": layout.Budget,
    "data": str,
    "store_sha256": str,
    "seeds": list[int],
    "configs": dict,
    "given": dict,
    "seconds_per_step": dict,
    "lost": dict,
}


@dataclass(frozen=True)
class Comparison:
    """What is compared.

    Args:
        budget: what the plans have in common: `steps`, or training `time`; with `recipe` each has
            the steps of its own recipe.
        data: the token store.
        seeds: of the runs of each plan.
        configs: by name, in the order in which they are shown; but for the seed, each of its runs'.
        given: by name, what the configs were made of, for people.
        store_sha256: of the store's text, once it is opened.
        seconds_per_step: by name, of each stage, where steps were derived from them.
        lost: by the name of a run, why it was given up. Filled as it happens.
    """

    budget: layout.Budget
    data: Path
    seeds: tuple[int, ...]
    configs: Mapping[str, Config]
    given: Mapping[str, str]
    store_sha256: str = ""
    seconds_per_step: Mapping[str, list[float]] = field(default_factory=dict)
    lost: dict[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, out: Path) -> "Comparison":
        """What a folder compares.

        Raises:
            ValueError: it holds no comparison, or a damaged one.
        """
        file = out / layout.COMPARISON
        if not file.is_file():
            raise ValueError(f"{out} is no comparison: it has no {file.name} (mslt compare)")
        values = foreign.read_json_object(file)
        foreign.require(values, _FILE, str(file))
        try:
            values["configs"] = {n: Config.from_dict(c) for n, c in values["configs"].items()}
        except ValueError as error:
            raise ValueError(f"{file} is damaged: {error}") from None
        for name in values["configs"]:
            foreign.require_name(name, str(file))
        values |= {"data": Path(values["data"]), "seeds": tuple(values["seeds"])}
        return cls(**{key: values[key] for key in _FILE})

    def write(self, out: Path, results: Mapping[str, Any]) -> None:
        """Keep it in a folder, with what has come out of it so far."""
        configs = {name: config.to_dict() for name, config in self.configs.items()}
        values = {**{key: getattr(self, key) for key in _FILE}, "configs": configs}
        values |= {"data": str(self.data.resolve()), **results}
        write_text(out / layout.COMPARISON, to_json(values, indent=1))


def begin(
    comparison: Comparison, out: Path, *, timed_by: Path | None = None, verify: bool = False
) -> int:
    """Compare, from the beginning.

    Where torchrun has started several processes, all call this alike and share the work.

    Args:
        comparison: what; for an equal time, steps are derived here.
        out: a new folder.
        timed_by: the folder of a comparison that tells how long the stages take, for an equal time;
            by default they are timed here.
        verify: compare all of the store with its hashes, not a sample.

    Returns:
        As `go_on`.

    Raises:
        ValueError: what was given does not fit together, or the folder is not empty.
        OSError: the disk is full or not writable.
    """
    with first_here_speaks():
        refuse_unequal(comparison)
        if (out / layout.COMPARISON).is_file():
            raise ValueError(
                f"{out} holds a comparison: go on with --resume, or choose another --out"
            )
        refuse_standing(out)
        store = TokenStore.open(comparison.data)
        device = pick_device(next(iter(comparison.configs.values())).device)
    with joined(device) as world:
        with world.phases("verifying the store"):
            verify_store(store, world, whole=verify)
        comparison = replace(comparison, store_sha256=store_hash(store))
        if comparison.budget == "time":
            comparison = _for_equal_time(comparison, store, world, out, timed_by)
        world.first_alone(lambda: _lay_out(comparison, out))
        return go_on(out, comparison, store, world)


def _lay_out(comparison: Comparison, out: Path) -> None:
    with appearing(out) as folder:
        comparison.write(folder, {})


def resume(out: Path, data: Path | None = None, seeds: int | None = None) -> int:
    """Go on with a comparison that was stopped or killed; what is finished is kept.

    Args:
        out: its folder.
        data: where its store is now, if not where it was.
        seeds: how many there are to be, where it is more than there were.

    Returns:
        As `go_on`.

    Raises:
        ValueError: there is nothing to go on with, or the store is another one.
    """
    with first_here_speaks():
        comparison = Comparison.read(out)
        comparison = replace(comparison, data=data or comparison.data)
        store = TokenStore.open(comparison.data)
        if store_hash(store) != comparison.store_sha256:
            raise ValueError(f"{comparison.data} is not the store that {out} compares on")
        if seeds is not None:
            had = comparison.seeds
            if seeds < len(had):
                raise ValueError(f"{out} has {len(had)} seeds already, more than {seeds}")
            comparison = replace(comparison, seeds=tuple(range(had[0], had[0] + seeds)))
        device = pick_device(next(iter(comparison.configs.values())).device)
    with joined(device) as world:
        return go_on(out, comparison, store, world)


def refuse_unequal(comparison: Comparison) -> None:
    """Let nothing be compared that does not see the same data.

    Raises:
        ValueError: naming the option.
    """
    configs = comparison.configs
    (first, one), *others = configs.items()
    keys = ["batch_size", "instances", *(["steps"] if comparison.budget == "steps" else [])]
    for name, config in others:
        for key in keys:
            ours, theirs = getattr(config, key), getattr(one, key)
            if ours != theirs:
                hint = " (--steps gives all the same, --budget recipe leaves each its own)"
                raise ValueError(
                    f"{key} is {theirs} in {first}, but {ours} in {name}: they would not see the "
                    f"same data{hint if key == 'steps' else ''}"
                )


def _for_equal_time(
    comparison: Comparison, store: TokenStore, world: World, out: Path, before: Path | None
) -> Comparison:
    """The same with the steps that take each plan as long as the fastest, by stages timed."""
    configs = comparison.configs
    if before:
        rates = budget.timed_by(configs, before)
    else:
        if world.main:
            print("timing each stage of each plan, a few steps at a time:", flush=True)
        folder = out.absolute().with_name(f".{out.name}.rehearsal")
        rates = budget.timed(configs, store, world, folder)
    made = budget.in_equal_time(configs, rates)
    for name, config in made.items():
        if world.main:
            print(
                f"  {name}: {config.steps:,} of {configs[name].steps:,} steps, about "
                f"{duration(budget.seconds(config.stages(), rates[name]))}",
                flush=True,
            )
    return replace(comparison, configs=made, seconds_per_step=rates)


def go_on(out: Path, comparison: Comparison, store: TokenStore, world: World) -> int:
    """Train what is not trained yet, a seed after the other, and write the results after each.

    Returns:
        0 when all is done; 130 or 143 when a signal stopped it after saved steps.

    Raises:
        ValueError: another process compares in this folder, or a run cannot go on.
        OSError: the disk is full or not writable.
    """
    busy = f"{out} is in use: another process compares"
    names, seeds = list(comparison.configs), list(comparison.seeds)
    with locked(out / layout.LOCK, busy) if world.main else nullcontext():
        todo = [seed for seed in seeds if unfinished(out, comparison, world, seed)]
        for seed in todo or seeds[-1:]:  # where all is done, the results are written anew
            stop = train_seed(out, comparison, store, world, seed)
            if world.main:
                lost = comparison.lost
                comparison.write(out, write_results(out, names, seeds, comparison.budget, lost))
            if stop:
                if world.main:
                    print(f"stopped and saved; go on with:\n  mslt compare --resume --out {out}")
                return 128 + stop
    return 0


def train_seed(
    out: Path, comparison: Comparison, store: TokenStore, world: World, seed: int
) -> int:
    """Train the runs of one seed in turns, to their ends or to the first signal.

    Returns:
        The signal's number, or 0.
    """
    poll, lost = Poll(world), comparison.lost
    with ExitStack() as opened:
        signals = opened.enter_context(Signals(launched=passes_signals_on()))
        loops: dict[str, Loop] = {}
        for name in unfinished(out, comparison, world, seed):
            path = layout.compared_run(out, name, seed)
            config = replace(comparison.configs[name], seed=seed)
            loops[path.name] = _loop(path, config, store, world, opened)
        if not loops:
            return 0
        most, fewest = (pick(loop.steps for loop in loops.values()) for pick in (max, min))
        blocks = min(fewest, max(FEWEST_BLOCKS, most // BLOCK_STEPS))
        progress = _Progress(seed, loops, blocks)
        asked = 0
        for turn in in_turns(loops, blocks):
            if turn.lost:
                loops[turn.name].run.wait()
                world.barrier()
                lost[turn.name] = str(turn.lost)
            if asked := poll(signals.asked()):
                _save(loop for name, loop in loops.items() if name not in lost)
            if asked > SAVE:
                break
            if world.main:
                progress.tell(turn)
        for name, loop in loops.items():
            loop.run.close()
            if world.main and (told := _outcome(loop.run)):
                print(f"{name}: {told}", flush=True)
        return asked if asked > SAVE else 0


def _outcome(run: Run) -> str | None:
    """A finished run against its forecast, in a line."""
    return outcome(run.facts(), run.config.stages(), run.heldout())


def _save(loops: Iterable[Loop]) -> None:
    for loop in loops:
        if loop.done and loop.at < loop.steps:  # the last step has been saved
            save(loop.run, loop.done)


def unfinished(out: Path, comparison: Comparison, world: World, seed: int) -> list[str]:
    """The plans whose run with a seed has not come to its end, and was not given up."""

    def is_open(name: str) -> bool:
        path = layout.compared_run(out, name, seed)
        return path.name not in comparison.lost and not is_finished(path)

    return [name for name in comparison.configs if world.most(world.main and is_open(name))]


def is_finished(path: Path) -> bool:
    """Whether a run has come to its end, and its model is on the disk."""
    if not (path / layout.CONFIG).is_file():
        return False
    steps = layout.read_config(path).stages().steps
    return layout.checkpoint_folder(path, steps).is_dir()


def _loop(path: Path, config: Config, store: TokenStore, world: World, opened: ExitStack) -> Loop:
    """A run that begins, or goes on from its last checkpoint."""
    if config.prefix_cache is not None:  # one run at a time uses a folder
        config = replace(config, prefix_cache=str(Path(config.prefix_cache) / path.name))
    if world.most(world.main and (path / layout.CONFIG).is_file()):
        run = Run.shared(world, path, config, lambda: Run.open(path))
        opened.enter_context(run.lock())
        return Loop.of(*reopen(config, store, run, (), world), run)
    job = Job.prepare(config, store, world=world)
    run = Run.shared(
        world,
        path,
        job.config,
        lambda: Run.create(path, job.config, job.facts(store), store.path / "tokenizer"),
    )
    opened.enter_context(run.lock())
    state = hand_out(world, job.first_state(), job.config.model)
    assert state is not None
    return Loop.of(job, state, run)


class _Progress:
    """A line for every part of a seed's training."""

    def __init__(self, seed: int, loops: Mapping[str, Loop], blocks: int) -> None:
        self.loops, self.blocks = loops, blocks
        self.title, self.suffix = f"seed {seed}", f"-seed{seed}"
        self._start, self._first, self._alive = time.monotonic(), 0, list(loops)

    def tell(self, turn: Turn) -> None:
        """A step was done; print a line where the last run has ended one of the parts."""
        self._first = self._first or turn.block
        if turn.lost:
            print(f"{turn.name} is given up: {turn.lost}", flush=True)
            self._alive.remove(turn.name)
            return
        ends = turn.block * LINES // self.blocks > (turn.block - 1) * LINES // self.blocks
        if not (ends and turn.over and turn.name == self._alive[-1]):
            return
        parts = []
        for name, loop in self.loops.items():
            if heldout := loop.run.heldout():
                last = heldout[-1]
                plan = name.removesuffix(self.suffix)
                parts.append(f"{plan} {last['mlm_loss']:.3f} in {duration(last['seconds'])}")
        reached = ", ".join(parts) or "no evaluation yet"
        share = turn.block / self.blocks
        done = turn.block - self._first + 1  # since a resume
        left = (time.monotonic() - self._start) / done * (self.blocks - turn.block)
        print(
            f"{self.title}, {share:.0%}: {reached}; {duration(left)} left of it",
            flush=True,
        )
