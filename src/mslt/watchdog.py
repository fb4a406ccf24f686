"""Says which of several processes hangs, and in what, where all would wait in silence.

Each process notes every few seconds in what phase it is, and looks at the others' notes. The first
that is alive speaks. Ages are of notes as they were seen here, so that no clocks are compared.
Imports no torch.
"""

import json
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Event, Thread
from typing import Any, Protocol

from mslt.phases import Phases

HANGS_AFTER = 60.0  # seconds in one phase, after which it is said, and again after twice as many
WAITING = "waiting for the others"  # the phase of a process that others keep from going on


class Notes(Protocol):
    """Where processes leave notes for each other: a store of torch's."""

    def set(self, key: str, value: str, /) -> Any:
        """Leave a note."""

    def get(self, key: str, /) -> bytes:
        """Read one that is there."""

    def check(self, keys: list[str], /) -> bool:
        """Whether these are there."""


@dataclass
class _Seen:
    """What is known of a process, and since when on this process' clock."""

    note: Mapping[str, Any]
    moved: float  # when it last began or ended a phase
    heard: float  # when it last gave a sign


class Watchdog:
    """Watches all processes of a run from a thread of this one.

    Args:
        rank: this process.
        size: processes in all.
        phases: what this process does.
        notes: where all leave theirs.
        say: tells the user.
        hangs_after: seconds in one phase that are too many.
    """

    def __init__(
        self,
        rank: int,
        size: int,
        phases: Phases,
        notes: Notes,
        say: Callable[[str], None] | None = None,
        hangs_after: float | None = None,
    ) -> None:
        self.rank, self.size = rank, size
        self._phases, self._notes = phases, notes
        self._say = say or (lambda text: print(text, flush=True))
        self._hangs_after = hangs_after or HANGS_AFTER
        self._every = min(5.0, self._hangs_after / 5)
        self._said_at = 0.0  # seconds that the hang had lasted when it was last said
        self._signs = 0
        self._seen: dict[int, _Seen] = {}
        self._ended = Event()
        self._thread = Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(timeout=1.0)

    def _watch(self) -> None:
        try:
            while True:
                self.note()
                if text := self.look(time.monotonic()):
                    self._say(text)
                if self._ended.wait(self._every):
                    return
        except RuntimeError:
            return  # there are no notes any more: the run ends, and others say why

    def note(self) -> None:
        """Leave a sign of this process."""
        self._signs += 1
        phases = self._phases
        note = {"sign": self._signs, "changes": phases.changes, "host": socket.gethostname()}
        note |= {"phase": phases.current, "step": phases.step}
        self._notes.set(str(self.rank), json.dumps(note))

    def look(self, now: float) -> str | None:
        """What to say of the processes, if there is something and this process is to say it.

        Args:
            now: in seconds, on a clock of this process.
        """
        for rank in range(self.size):
            if self._notes.check([str(rank)]):
                self._see(rank, json.loads(self._notes.get(str(rank))), now)
        if len(self._seen) < self.size:
            return None  # not all have begun
        still = min(now - seen.moved for seen in self._seen.values())
        if still < self._hangs_after:
            self._said_at = 0.0
            return None
        speaker = next((r for r, seen in self._seen.items() if self._alive(seen, now)), None)
        if speaker != self.rank or still < 2 * self._said_at:
            return None
        self._said_at = still
        return self._complaint(now, still)

    def _see(self, rank: int, note: Mapping[str, Any], now: float) -> None:
        before = self._seen.get(rank)
        if before is None:
            self._seen[rank] = _Seen(note, now, now)
            self._seen = dict(sorted(self._seen.items()))
        elif note["sign"] != before.note["sign"]:
            moved = before.moved if note["changes"] == before.note["changes"] else now
            self._seen[rank] = _Seen(note, moved, now)

    def _alive(self, seen: _Seen, now: float) -> bool:
        return now - seen.heard < 4 * self._every

    def _complaint(self, now: float, still: float) -> str:
        """Which processes keep the others from going on."""
        about = []
        for rank, seen in self._seen.items():
            note = seen.note
            name = f"process {rank} on {note['host']}"
            step = "" if note["step"] is None else f" of step {note['step']:,}"
            if not self._alive(seen, now):
                about.append(f"{name} gives no sign any more, the last in {note['phase']}{step}")
            elif note["phase"] != WAITING:
                about.append(f"{name} is in {note['phase']}{step}")
        if not about:
            about = [f"all {self.size} processes wait for each other: is it the network?"]
        return f"nothing has moved for {still:.0f} s: {'; '.join(about)}"
