"""What a process is doing now, and how long each part of it takes. Imports no torch."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class Phases:
    """Names the phase that runs, and adds up its seconds.

    `step` is what the phase belongs to, where there is one, and `changes` counts how often a phase
    began or ended, so that who watches sees whether anything moves.

    Args:
        now: a clock in seconds; on a GPU, one that waits until the device is done. None only names
            the phases, which costs nothing.
    """

    def __init__(self, now: Callable[[], float] | None = None) -> None:
        self.current = "idle"
        self.step: int | None = None
        self.changes = 0
        self.seconds: dict[str, float] = {}
        self._now = now

    @property
    def timed(self) -> bool:
        """Whether seconds are added up."""
        return self._now is not None

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """`with phases("forward"):` names, and times, what runs inside."""
        before, self.current = self.current, name
        self.changes += 1
        start = self._now() if self._now else 0.0
        try:
            yield
        finally:
            self.current = before
            self.changes += 1
            if self._now:
                self.seconds[name] = self.seconds.get(name, 0.0) + self._now() - start


def timed() -> Phases:
    """Phases that are timed by this process' clock; for a CPU, where work is done on return."""
    return Phases(time.perf_counter)
