"""Writing a run's folder, which `mslt.layout` describes."""

import itertools
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml

from mslt import layout, trackers
from mslt.background import Background
from mslt.checkpoint import (
    Content,
    Damaged,
    State,
    load_state,
    save_model,
    size,
    snapshot,
    state_files,
    verify_folder,
    write_folder,
)
from mslt.config import Config, ModelConfig
from mslt.files import appearing, locked, naming, require_room, sweep, vanish
from mslt.forecast import Forecast
from mslt.machine import machine
from mslt.model import Encoder
from mslt.options import flatten
from mslt.plan import Plan
from mslt.room import run_bytes, taken
from mslt.trackers import Trackers
from mslt.world import World


class Clock:
    """Counts training time: only what runs inside `with clock:`, until the device is done."""

    def __init__(self, seconds: float, device: str) -> None:
        self.seconds = seconds
        self._cuda = device.startswith("cuda")

    def _now(self) -> float:
        if self._cuda:
            torch.cuda.synchronize()
        return time.perf_counter()

    @contextmanager
    def running(self) -> Iterator[None]:
        """Count the time of the block."""
        start = self._now()
        yield
        self.seconds += self._now() - start


class Run:
    """The folder of one run.

    Args:
        path: the folder.
        config: resolved.
        writes: whether this process writes in it. In the others of several, what would be written
            is passed over, so that one loop serves all.
    """

    def __init__(self, path: Path, config: Config, *, writes: bool = True) -> None:
        self.path = path
        self.config = config
        self.writes = writes
        self._trackers = Trackers(path, config.trackers, flatten(config.to_dict()))
        self._saved: int | None = None  # the newest step that has a good checkpoint, or is to have
        self._background = Background()

    @classmethod
    def create(cls, path: Path, config: Config, facts: Mapping[str, Any], tokenizer: Path) -> "Run":
        """Lay out a new folder, which appears whole, or begin in one that `mslt import` has made.

        Raises:
            ValueError: the folder already holds a run, or something else.
            OSError: the disk has no room for it.
        """
        cls.refuse(path, config)
        told = to_json({**facts, **machine()}, indent=1)
        if layout.awaits(path):  # with its tokenizer, which is the store's
            write_text(path / layout.FACTS, told)
            write_text(path / layout.CONFIG, _yaml(config))  # the last: what makes it a run
            return cls(path, config)
        with appearing(path) as folder:
            shutil.copytree(tokenizer, folder / "tokenizer")
            write_text(folder / layout.CONFIG, _yaml(config))
            write_text(folder / layout.FACTS, told)
        return cls(path, config)

    @staticmethod
    def refuse(path: Path, config: Config) -> None:
        """Say that a run cannot begin here, before there is anything.

        Raises:
            ValueError: the folder already holds a run, or something else.
            OSError: the disk has no room for it.
        """
        standing = path.exists() and (not path.is_dir() or any(path.iterdir()))
        if standing and not layout.awaits(path):
            hint = "go on with --resume, or " if (path / layout.FACTS).exists() else ""
            raise ValueError(f"{path} is not empty: {hint}choose another --out")
        trackers.require(config.trackers)
        _require_room_for(config, next(p for p in path.absolute().parents if p.exists()))

    @classmethod
    def open(cls, path: Path) -> "Run":
        """A folder that is there.

        Raises:
            ValueError: it holds no run, or a damaged config.
        """
        return cls(path, layout.read_config(path))

    @classmethod
    def shared(cls, world: World, path: Path, config: Config, made: Callable[[], "Run"]) -> "Run":
        """The run that the main process creates or opens; in the others, one that writes nothing.

        Raises:
            ValueError: or OSError, what `made` raised; the other processes leave then.
        """
        return world.first_alone(made) or cls(path, config, writes=False)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Keep other processes from training in this folder for the length of a `with` block.

        What a killed process left half done is cleared up first; what is still being written when
        the block is left is waited for.

        Raises:
            ValueError: one does already.
        """
        if not self.writes:
            yield
            return
        busy = f"{self.path} is in use: another process trains it"
        with locked(self.path / layout.LOCK, busy):
            sweep(self.path / "checkpoints")
            sweep(self.path / "stages")
            try:
                yield
            finally:
                self.wait()

    def go_on(self, config: Config, step: int, here: Mapping[str, Any]) -> None:
        """Write down that the run goes on from `step`, here and with this config.

        Args:
            config: with which it goes on.
            step: steps done.
            here: what `create` was told as facts, as it is now.

        Raises:
            OSError: the disk has no room for the rest of it.
        """
        _require_room_for(config, self.path, taken(self.path))
        facts = self.facts()
        changed = _changes(flatten(self.config.to_dict()), flatten(config.to_dict()))
        now = {key: here[key] for key in ("device", "processes")}
        resumed = {"step": step, **now, "changed": changed, **machine()}
        facts |= {key: value for key, value in here.items() if key not in now}
        facts["resumed"] = [*facts.get("resumed", []), resumed]
        self.config = config
        write_text(self.path / layout.FACTS, to_json(facts, indent=1))
        write_text(self.path / layout.CONFIG, _yaml(config))

    def facts(self) -> dict[str, Any]:
        """What run.json says.

        Raises:
            ValueError: it is damaged.
        """
        return layout.read_facts(self.path)

    def forecast(self, plan: Plan) -> Forecast | None:
        """What run.json says that the stages of a plan will take; None where it says nothing."""
        if not self.writes:
            return None
        return Forecast.of_run(self.facts(), plan, str(self.path / layout.FACTS))

    def foretell(self, forecast: Forecast) -> None:
        """Let run.json say what the run is expected to take."""
        if not self.writes:
            return
        facts = self.facts() | {"forecast": forecast.to_dict()}
        write_text(self.path / layout.FACTS, to_json(facts, indent=1))

    def record(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        """Append a line to metrics.jsonl.

        Args:
            kind: `train` or `heldout`; `skipped` for a step that was refused; `back` for having
                gone back to this step.
            step: optimisation steps done.
            values: numbers; one that is not finite is written as null.
        """
        if not self.writes:
            return
        path = self.path / layout.METRICS
        with naming(path), path.open("a", encoding="utf-8") as file:
            file.write(to_json({"kind": kind, "step": step, **values}) + "\n")
        self._trackers.log(kind, step, values)

    def metrics(self) -> list[dict[str, Any]]:
        """Every whole line of metrics.jsonl.

        Raises:
            ValueError: naming a line that is damaged.
        """
        return layout.read_metrics(self.path)

    def heldout(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl that are held-out evaluations, first to last."""
        return [line for line in self.metrics() if line["kind"] == "heldout"]

    def rewind(self, step: int) -> None:
        """Drop the lines of what came after `step`, which will happen again."""
        if not self.writes:
            return
        after = {"back": step - 1}  # having gone back to this step came after it
        kept = [line for line in self.metrics() if line["step"] <= after.get(line["kind"], step)]
        text = "".join(to_json(line) + "\n" for line in kept)
        write_text(self.path / layout.METRICS, text)

    def checkpoints(self) -> list[Path]:
        """Checkpoint folders, oldest first."""
        return layout.checkpoint_folders(self.path)

    def save(self, state: State) -> None:
        """Begin to write a checkpoint, in the background and from a copy.

        Once it verifies, the oldest beyond `keep` are dropped, but for the one evaluated best.
        Nothing is written where this object has saved or loaded that very step.

        Raises:
            OSError: the disk has no room, or the checkpoint before could not be written.
        """
        if state.step == self._saved or not self.writes:
            return
        self.wait()  # so that there is never more than one copy
        files = state_files(state)
        require_room(self.path, size(files), f"the checkpoint of step {state.step}")
        path = layout.checkpoint_folder(self.path, state.step)
        self._background.start(partial(self._write, path, snapshot(files)))
        self._saved = state.step

    def _write(self, path: Path, files: Mapping[str, Content]) -> None:
        write_folder(path, files)
        verify_folder(path)
        self._prune()

    def _prune(self) -> None:
        """Drop what is older than the last checkpoints, of which the newest has been verified."""
        best = layout.best_checkpoint(self.path)
        for old in self.checkpoints()[: -self.config.keep]:
            if old != best:
                vanish(old)

    def check(self) -> None:
        """Learn whether a checkpoint could not be written, without waiting.

        Raises:
            OSError: the disk is full or not writable.
            ValueError: what was written does not verify.
        """
        self._background.check()

    def wait(self) -> None:
        """Wait until the checkpoint that is being written is on the disk and verified.

        Raises:
            OSError: the disk is full or not writable.
            ValueError: what was written does not verify.
        """
        self._background.wait()

    def back_to(self, step: int) -> State | None:
        """The newest checkpoint of `step` or before that verifies; later ones are set aside."""
        self.wait()
        for path in self.checkpoints():
            if layout.step_of(path) > step:
                path.rename(_aside(path, "abandoned"))
        return self.latest()

    def latest(self, model: ModelConfig | None = None) -> State | None:
        """The newest checkpoint that verifies, to go on from; damaged ones are set aside.

        The oldest beyond `keep` are dropped, as when one is saved.
        What is set aside is kept under another name, so that it neither counts among the
        checkpoints nor stands where the next one will be written.

        Args:
            model: the shape it is to have; by default that of the run.

        Raises:
            ValueError: a checkpoint that verifies does not fit the config.
        """
        self._saved = None  # where none is found, what was saved last stands no more
        for path in reversed(self.checkpoints()):
            try:
                state = load_state(path, model or self.config.model)
            except Damaged as error:
                aside = _aside(path, "damaged")
                path.rename(aside)
                print(f"mslt: {error}; kept as {aside.name}, trying the one before it", flush=True)
            else:
                self._saved = state.step
                self._prune()  # which a kill may have come before
                return state
        return None

    def stage_folders(self) -> list[Path]:
        """Folders of the stages that have ended, first to last."""
        return list(layout.stage_folders(self.path).values())

    def match(self, plan: Plan) -> None:
        """Set aside, under another name, the models of stages that end elsewhere by this plan."""
        for path in self.stage_folders():
            step = json.loads((path / "state.json").read_bytes())["step"]
            number = int(path.name.partition("-")[0])
            if step != plan.ends[number - 1]:
                path.rename(_aside(path, f"step-{step}"))

    def take_tokenizer(self, folder: Path) -> None:
        """Put another tokenizer in the place of the run's."""
        with appearing(self.path / "tokenizer", replace=True) as new:
            shutil.copytree(folder, new, dirs_exist_ok=True)

    def save_stage(self, index: int, plan: Plan, model: Encoder, facts: Mapping[str, Any]) -> None:
        """Keep the model that stands at the end of stage `index` (counted from 0)."""
        if not self.writes:
            return
        path = layout.stage_folder(self.path, index + 1, plan.stages[index].depth)
        save_model(path, model, {"stage": index + 1, **facts})

    def close(self) -> None:
        """Finish what is still to be written.

        Raises:
            OSError: the disk is full or not writable.
        """
        self.wait()
        self._trackers.close()


def _changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Old and new value of every key that differs."""
    return {key: [before.get(key), now[key]] for key in now if now[key] != before.get(key)}


def _require_room_for(config: Config, folder: Path, standing: int = 0) -> None:
    what = f"a run that keeps {config.keep} checkpoints"
    require_room(folder, run_bytes(config) - standing, what)


def _aside(path: Path, why: str) -> Path:
    """A free name for a folder that is set aside: step-N.damaged, step-N.damaged-2, ..."""
    names = itertools.chain([why], (f"{why}-{count}" for count in itertools.count(2)))
    candidates = (path.with_name(f"{path.name}.{name}") for name in names)
    return next(candidate for candidate in candidates if not candidate.exists())


def _yaml(config: Config) -> str:
    return yaml.safe_dump(config.to_dict(), sort_keys=False)


def to_json(values: Any, indent: int | None = None) -> str:
    """JSON that every reader accepts: numbers that are not finite become null."""
    return json.dumps(_finite(values), indent=indent, allow_nan=False, ensure_ascii=False)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_text(path: Path, text: str) -> None:
    """Write a file that appears whole under its name."""
    temporary = path.with_name(f".{path.name}.tmp")
    with naming(path):
        temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)
