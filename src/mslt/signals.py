"""What a run is asked by signals. Imports no torch."""

import signal
from types import FrameType
from typing import Any


class Signals:
    """Turns Ctrl-C, SIGTERM and SIGUSR1 into requests, which are met after the step.

    The first Ctrl-C or SIGTERM asks the run to save and stop, and a second one kills it at once,
    which a run survives at any moment; SIGUSR1 asks it to save and go on.
    """

    def __init__(self) -> None:
        self.stop = 0  # the signal's number
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
        self.stop = number
        for either in (signal.SIGINT, signal.SIGTERM):
            signal.signal(either, signal.SIG_DFL)

    def _ask_to_save(self, *_: object) -> None:
        self._save = True

    def save_asked(self) -> bool:
        """Whether a save was asked for since the last call."""
        asked, self._save = self._save, False
        return asked
