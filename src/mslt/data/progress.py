"""How far the reading of sources is: a bar on a terminal, a line now and then elsewhere."""

import sys
import time
from collections.abc import Sequence

from tqdm import tqdm

from mslt.data.sources import Source

LINE_SECONDS = 10.0


class Progress:
    """Bytes read, documents and tokens per second.

    Args:
        label: what is going on.
        sources: what is read; their size is the whole, where all are files.
        show: or keep silent.
    """

    def __init__(self, label: str, sources: Sequence[Source], show: bool) -> None:
        self.label = label
        self.total = sum(s.size for s in sources) if all(s.is_file for s in sources) else None
        self._show = show
        self._terminal = show and sys.stderr.isatty()
        self._begin = self._printed = time.monotonic()
        self._bytes = 0
        self._note = ""
        self._bar: tqdm | None = None
        if self._terminal:
            self._bar = tqdm(total=self.total, unit="B", unit_scale=True, desc=label)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def advance(self, count: int) -> None:
        """So many bytes more have been read."""
        self._bytes += count
        if self._bar is not None:
            self._bar.update(count)
        elif self._show and time.monotonic() - self._printed > LINE_SECONDS:
            self._printed = time.monotonic()
            whole = f" of {self.total / 1e6:,.1f}" if self.total else ""
            print(f"{self.label}: {self._bytes / 1e6:,.1f}{whole} MB{self._note}", file=sys.stderr)

    def encoded(self, documents: int, tokens: int) -> None:
        """So many there are by now."""
        rate = tokens / max(time.monotonic() - self._begin, 1e-9)
        self._note = f", {documents:,} documents, {rate / 1e6:.2f}M tokens/s"
        if self._bar is not None:
            self._bar.set_postfix_str(self._note.removeprefix(", "), refresh=False)
