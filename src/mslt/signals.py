"""What a run is asked by signals. Imports no torch."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SAVE = 1  # what is asked for by SIGUSR1; a number that no signal to stop has
SAME = 3.0  # seconds in which several signals to stop count as one, where a launcher passes them on


class Signals:
    """Turns Ctrl-C, SIGTERM and SIGUSR1 into requests, which are met after the step.

    The first Ctrl-C or SIGTERM asks the run to save and stop, and a second one kills it at once,
    which a run survives at any moment; SIGUSR1 asks it to save and go on.

    Args:
        launched: whether a launcher passes signals on. A scheduler that signals both the launcher
            and its processes then means one thing by two signals, if they come within SAME.
    """

    def __init__(self, *, launched: bool = False) -> None:
        self.stop = 0  # the signal's number
        self._launched = launched
        self._first = 0.0
        self._save = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "Signals":
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._ask_to_stop)
        self._before[signal.SIGUSR1] = signal.signal(signal.SIGUSR1, self._ask_to_save)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _ask_to_stop(self, number: int, _: FrameType | None) -> None:
        again, self.stop = self.stop, number
        if self._launched and not again:
            self._first = time.monotonic()
        elif self._launched and time.monotonic() - self._first < SAME:
            self.stop = again
        else:
            for either in (signal.SIGINT, signal.SIGTERM):
                signal.signal(either, signal.SIG_DFL)
            if again:
                os.kill(os.getpid(), number)

    def _ask_to_save(self, *_: object) -> None:
        self._save = True

    def asked(self) -> int:
        """The number of the signal to stop, else SAVE where that was asked for since the last call.

        0 where nothing is asked.
        """
        save, self._save = self._save, False
        return self.stop or (SAVE if save else 0)


@contextmanager
def preparing() -> Iterator[None]:
    """While there is nothing to save yet: SIGUSR1 does nothing, and SIGTERM leaves as Ctrl-C does.

    So what was begun, a rehearsal's folder for one, is cleared up.

    Raises:
        SystemExit: with 143, at SIGTERM.
    """

    def leave(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {
        signal.SIGTERM: signal.signal(signal.SIGTERM, leave),
        signal.SIGUSR1: signal.signal(signal.SIGUSR1, signal.SIG_IGN),
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
