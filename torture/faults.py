"""Moments at which a process may be killed. What is wrapped is found by name and knows nothing."""

import os
import pkgutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

Arguments = tuple[Any, ...]


def wrap(dotted: str, before: Callable[..., object], after: Callable[..., object]) -> None:
    """Have every call of a function preceded and followed by other calls with its arguments.

    Args:
        dotted: where callers find it: a module, or a class in one, and its name.
        before: called first.
        after: called once it has returned.
    """
    place, _, name = dotted.rpartition(".")
    owner = pkgutil.resolve_name(place)
    real = getattr(owner, name)

    def wrapped(*args: Any, **options: Any) -> Any:
        before(*args)
        result = real(*args, **options)
        after(*args)
        return result

    setattr(owner, name, wrapped)


def nothing(*_: Any) -> None:
    """Do so."""


@dataclass(frozen=True)
class Point:
    """A moment in a run that comes again and again.

    Args:
        name: in words.
        function: dotted, as `wrap` takes it.
        after: when it has returned, not when it is called.
        chosen: which of its calls count, by their arguments.
        harm: what is left of the work that the kill interrupts.
        shared: every process of a run meets it, so that any may be killed there.
        resuming: it is met by a run that goes on after another kill, this many times.
    """

    name: str
    function: str
    after: bool = False
    chosen: Callable[[Arguments], bool] = lambda args: True
    harm: Callable[[Arguments], object] = nothing
    shared: bool = False
    resuming: int = 0

    def meet(self, action: Callable[[int, Arguments], object]) -> None:
        """From now on call `action` here, with how often it was, counted from 1."""
        numbers = count(1)  # which threads may share

        def met(*args: Any) -> None:
            if self.chosen(args):
                action(next(numbers), args)

        wrap(self.function, *((nothing, met) if self.after else (met, nothing)))

    def kill(self, number: int) -> None:
        """From now on kill this process here, the time of this number, as nobody can catch."""

        def action(now: int, args: Arguments) -> None:
            if now == number:
                self.harm(args)
                os.kill(os.getpid(), signal.SIGKILL)

        self.meet(action)


def _is_manifest(args: Arguments) -> bool:
    return args[0].name == "manifest.json"


def _is_no_manifest(args: Arguments) -> bool:
    return not _is_manifest(args)


def _appears(args: Arguments) -> bool:
    return os.path.basename(args[0]).endswith(".tmp")


def _holds_files(args: Arguments) -> bool:
    return any(path.is_file() for path in Path(args[0]).glob("*"))


def _gives_way(args: Arguments) -> bool:
    return os.path.basename(args[1]).endswith(".old")


def _tear(args: Arguments) -> None:
    """Leave the first half of the file that was written."""
    os.truncate(args[0], os.path.getsize(args[0]) // 2)


def _begin_removal(args: Arguments) -> None:
    """Take one file out of the folder that was to be removed."""
    next(path for path in sorted(Path(args[0]).iterdir()) if path.is_file()).unlink()


def _tear_line(args: Arguments) -> None:
    """Leave the line that was appended without its end."""
    path = args[0].path / "metrics.jsonl"
    os.truncate(path, os.path.getsize(path) - 20)


_WRITE, _RENAME = "mslt.checkpoint.write_file", "os.rename"

POINTS = (
    Point("before a write", _WRITE, chosen=_is_no_manifest),
    Point("in a write", _WRITE, True, _is_no_manifest, _tear),
    Point("after a write", _WRITE, True, _is_no_manifest),
    Point("before the manifest", _WRITE, chosen=_is_manifest),
    Point("in the manifest", _WRITE, True, _is_manifest, _tear),
    Point("after the manifest", _WRITE, True, _is_manifest),
    Point("before a flush", "os.fsync"),
    Point("before the rename", _RENAME, chosen=_appears),
    Point("after the rename", _RENAME, True, _appears),
    Point("before a prune", "mslt.run.vanish"),
    Point("in a prune", "shutil.rmtree", chosen=_holds_files, harm=_begin_removal),
    Point("after a prune", "mslt.run.vanish", True),
    Point("before growth", "mslt.pretrain.grow", shared=True),
    Point("after growth", "mslt.pretrain.grow", True, shared=True),
    Point("mid-step", "mslt.optim.Optimizer.norm", True, shared=True),
    Point("in a line of the metrics", "mslt.run.Run.record", True, harm=_tear_line),
    Point("before a file is rewritten", "os.replace", resuming=3),
    Point("after a file is rewritten", "os.replace", True, resuming=3),
    Point("between a folder and its successor", _RENAME, True, _gives_way, resuming=1),
)

# Where a run is killed first that is to be killed again at one of the points of a resumption: the
# stage that had just been written then has to be written again.
FIRST = Point("after the end of a stage", "mslt.run.Run.save_stage", True)
