"""Bytes to clean lines of text, within bounded memory, and what is done about bad text."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import IO, Any, Literal, Protocol

BadText = Literal["strict", "replace", "skip"]

LINE_BYTES = 16 << 20  # a longer line is bad text
_BLOCK = 1 << 20
_BOM = b"\xef\xbb\xbf"
_STRETCH = 16 << 20  # bytes of text that are judged together
_MOST_TIMES = 100  # text may be larger than its archive; English is three or four times as large
BOMB = f"it unpacks to more than {_MOST_TIMES} times its size"
PLACES = 3  # of each kind of bad text that are remembered
_UTF16 = (b"\xff\xfe", b"\xfe\xff")

# What BERT would delete, gluing the words on both sides: controls other than white space, the
# zero-width space and the replacement character.
_GLUE = re.compile("[\x01-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200b\ufffd]")
_SURROGATE = re.compile("[\ud800-\udfff]")


@dataclass
class Repairs:
    """What is done about bad text, how often it was, and where at first.

    Args:
        policy: strict stops; replace mends what can be mended and drops the rest; skip drops.
        counts: what was mended or dropped, by its description.
        first: the first few places of each, as `FILE:LINE`, by the same description.
    """

    policy: BadText = "strict"
    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, list[str]] = field(default_factory=dict)

    def bad(self, where: str, what: str, detail: str = "", mended: str = "") -> bool:
        """Complain about a piece of text, or count it.

        Args:
            where: `FILE:LINE`.
            what: what is wrong, in the same words each time.
            detail: what else helps here.
            mended: what `replace` makes of it; without it, the piece is dropped.

        Returns:
            Whether the caller is to mend it, rather than to drop it.

        Raises:
            ValueError: the policy is strict.
        """
        if self.policy == "strict":
            text = ": ".join([what, *detail.splitlines()[:1]])  # libraries like to say more
            hint = "replace" if mended else "skip"
            raise ValueError(f"{where}: {text} (--on_bad_text {hint} goes on)")
        mend = bool(mended) and self.policy == "replace"
        self.done(where, f"{what}, {mended if mend else 'dropped'}")
        return mend

    def done(self, where: str, what: str, times: int = 1) -> None:
        """Count what was mended or dropped at `where`."""
        self.counts[what] += times
        places = self.first.setdefault(what, [])
        if len(places) < PLACES and where not in places:
            places.append(where)

    def facts(self) -> dict[str, dict[str, Any]]:
        """As they stand in the manifest: of each kind its `count` and its `first` places."""
        return {
            what: {"count": count, "first": self.first[what]}
            for what, count in sorted(self.counts.items())
        }


class Stream(Protocol):
    """What bytes are read from."""

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; none at the end."""


def in_proportion(unpacked: int, packed: int) -> bool:
    """Whether so many bytes may come from an archive of this size. A small text always may."""
    return unpacked <= max(_STRETCH, _MOST_TIMES * packed)


class InProportion:
    """What a decompressor gives, as long as it is in proportion to what it has been fed.

    Args:
        stream: the decompressor.
        packed: the file that it reads.
    """

    def __init__(self, stream: Stream, packed: IO[bytes]) -> None:
        self._stream = stream
        self._packed = packed
        self._before = self._given = 0

    def read(self, size: int, /) -> bytes:
        """At most `size` bytes; none at the end.

        Raises:
            OSError: it is torn or damaged, or a stretch of it unpacks out of all proportion.
        """
        block = self._stream.read(size)
        self._given += len(block)
        if self._given > _STRETCH:
            place = self._packed.tell()
            if not in_proportion(self._given, place - self._before):
                raise OSError(BOMB)
            self._before, self._given = place, 0
        return block


def lines(
    stream: Stream,
    name: str,
    repairs: Repairs,
    progress: Callable[[], None],
    cut: bool,
    before: int = 0,
) -> Iterator[tuple[int, bytes]]:
    """Each line and its number from 1, without its end.

    Args:
        stream: the bytes.
        name: of the file, for complaints.
        repairs: the policy.
        progress: called after each block.
        cut: whether a line of more than `LINE_BYTES` may be mended by cutting it up.
        before: lines of the file that come before the stream.
    """
    number, tail, dropping, first = before + 1, b"", False, before == 0
    while True:
        try:
            block = stream.read(_BLOCK)
        except OSError as error:  # also what a damaged or torn .gz or .zst raises
            repairs.bad(f"{name}:{number}", "cannot be read any further", str(error))
            break
        progress()
        if first and not block:
            repairs.bad(name, "empty file")
        if not block:
            break
        if first and block.startswith(_UTF16):
            repairs.bad(f"{name}:1", "UTF-16 instead of UTF-8")
            return
        if first:
            block, first = block.removeprefix(_BOM), False
        pieces = (tail + block).split(b"\n")
        for left, line in zip(range(len(pieces) - 1, -1, -1), pieces):
            while len(line) > LINE_BYTES and not dropping:
                detail = f"more than {LINE_BYTES >> 20} MB, or no line ends at all"
                if repairs.bad(f"{name}:{number}", "line too long", detail, "cut" if cut else ""):
                    at = _cut(line)
                    yield number, line[:at]
                    line = line[at:]
                else:
                    dropping = True
            if left:
                if not dropping:
                    yield number, line
                number, dropping = number + 1, False
        tail = b"" if dropping else line
    if tail:
        yield number, tail


def section(file: IO[bytes], begin: int, end: int | None) -> tuple[Stream, int] | None:
    """The lines of a file that begin in a section of it, and how many lines come before them.

    Sections that follow one another have every line once, wherever they meet.

    Args:
        file: unbuffered.
        begin: the section's first byte.
        end: the byte after its last one; None is the end of the file.

    Returns:
        None where no line begins there, or none can be told from another: in UTF-16.
    """
    if begin == 0 and end is None:
        return file, 0
    if begin and file.read(2) in _UTF16:
        return None
    stop = None if end is None else _line_start(file, end)
    start = _line_start(file, begin)
    if begin and start == (os.fstat(file.fileno()).st_size if stop is None else stop):
        return None
    before = 0
    file.seek(0)
    while block := file.read(min(start - file.tell(), _BLOCK)):
        before += block.count(b"\n")
    return (file if stop is None else _Until(file, stop)), before


class _Until:
    """A file up to a place in it."""

    def __init__(self, file: IO[bytes], stop: int) -> None:
        self._file, self._stop = file, stop

    def read(self, size: int, /) -> bytes:
        return self._file.read(max(0, min(size, self._stop - self._file.tell())))


def _line_start(file: IO[bytes], place: int) -> int:
    """Where the first line begins that begins at a place or after it, or the end of the file."""
    if place == 0:
        return 0
    file.seek(place - 1)
    while block := file.read(_BLOCK):
        if (found := block.find(b"\n")) >= 0:
            return file.tell() - len(block) + found + 1
    return file.tell()


def _cut(line: bytes) -> int:
    """Where to cut: after the last space within bounds, or else between two characters."""
    at = line.rfind(b" ", 0, LINE_BYTES) + 1
    if at == 0:
        at = LINE_BYTES
        while at > LINE_BYTES - 4 and line[at] & 0xC0 == 0x80:
            at -= 1
    return at


def decode(raw: bytes, where: str, repairs: Repairs) -> str | None:
    """UTF-8 to text, or None where it is dropped."""
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        detail = f"0x{raw[error.start]:02x} at byte {error.start + 1}"
        if repairs.bad(where, "bad UTF-8", detail, "bad bytes made spaces"):
            return raw.decode(errors="replace")
        return None


def clean(text: str, where: str, repairs: Repairs) -> str | None:
    """The text with a space for each control character, or None where it is dropped.

    BERT's tokenizer deletes them instead, which glues the words on both sides: U+0085 is a line
    end in old texts. A tab and the line ends are spaces to it already.
    """
    if text.isprintable() and "\ufffd" not in text:
        return text
    if "\0" in text:
        if not repairs.bad(where, "NUL character", mended="made a space"):
            return None
        text = text.replace("\0", " ")
    if _SURROGATE.search(text):
        if not repairs.bad(where, "half a surrogate pair", mended="made a space"):
            return None
        text = _SURROGATE.sub(" ", text)
    text, count = _GLUE.subn(" ", text)
    if count:
        repairs.done(where, "control character, made a space", count)
    return text
