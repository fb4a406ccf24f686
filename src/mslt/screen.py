"""A few lines at the bottom of a terminal that change while others scroll by above them."""

import os
import shutil
import sys
from collections.abc import Sequence
from typing import TextIO

from mslt.status import PLAIN


def is_terminal(stream: TextIO) -> bool:
    """Whether a stream goes to a terminal on which lines can be repainted."""
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def columns() -> int:
    """Of the terminal, as it is now; one less, since a full line would wrap on some."""
    return max(20, shutil.get_terminal_size().columns - 1)


class Screen:
    """The bottom lines of a terminal.

    Args:
        stream: the terminal; stdout by default.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stdout
        self._lines: list[str] = []
        self._plain = "utf" not in (getattr(self._stream, "encoding", None) or "utf-8").lower()

    def paint(self, lines: Sequence[str]) -> None:
        """Show these lines in the place of those before."""
        self._draw(self._erased(), lines)

    def write(self, text: str) -> None:
        """Let lines scroll by above."""
        self._draw(f"{self._erased()}{text}\n", self._lines)

    def close(self) -> None:
        """Leave the last lines where they are, and go on below."""
        if self._lines:
            self._stream.write("\n")
            self._stream.flush()
        self._lines = []

    def _erased(self) -> str:
        up = f"\x1b[{len(self._lines) - 1}A" if len(self._lines) > 1 else ""
        return f"{up}\r\x1b[J" if self._lines else ""

    def _draw(self, before: str, lines: Sequence[str]) -> None:
        self._lines = list(lines)
        text = "\n".join(lines)
        self._stream.write(before + (text.translate(PLAIN) if self._plain else text))
        self._stream.flush()
