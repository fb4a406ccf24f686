"""Text from files, the hub and the installation, as one stream of paragraphs and document ends.

Files are read here rather than by a library, so that every complaint names its file and line and
memory stays bounded, whatever the file holds.
"""

import errno
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any, Literal

from mslt.data import pydocs
from mslt.data.text import (
    BOMB,
    LINE_BYTES,
    InProportion,
    Repairs,
    clean,
    decode,
    in_proportion,
    lines,
    section,
)
from mslt.files import naming, require_regular

Documents = Literal["blank_line", "line", "file"]

SUFFIXES = (".txt", ".jsonl", ".parquet")
_CODECS = {".gz": "gzip", ".zst": "zstd"}
_KINDS = f"{', '.join(SUFFIXES)} (each also as .gz or .zst)"
_SPLITS = ("train", "validation", "test")

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_PARAGRAPH = 1 << 20  # characters; a worker holds a small multiple of it
_COPY = 1 << 20  # bytes
_ROWS = 16  # of a .parquet at once; a row may be a book
_ROW_BYTES = 16  # that a row counts at least, against its file's size


@dataclass(frozen=True)
class Source:
    """One stream of text.

    Args:
        name: its path, `pydocs` or `hf:...`: what complaints begin with.
        kind: .txt, .jsonl, .parquet, pydocs or hf.
        codec: gzip or zstd, where a file is compressed.
        bytes: size on disk; 0 where it is not a file.
        begin: byte at which the part of a file begins that is meant; its lines are what counts.
        end: byte at which the next part begins; None for the last part and for the whole.
    """

    name: str
    kind: str
    codec: str | None = None
    bytes: int = 0
    begin: int = 0
    end: int | None = None

    @property
    def is_file(self) -> bool:
        """Whether it lies on disk."""
        return self.kind in SUFFIXES

    @property
    def has_parts(self) -> bool:
        """Whether it can be read from any line on."""
        return self.kind in (".txt", ".jsonl") and self.codec is None

    @property
    def size(self) -> int:
        """Bytes of what is meant."""
        return (self.bytes if self.end is None else self.end) - self.begin


def _ignore(count: int) -> None:
    pass


@dataclass(frozen=True)
class Reading:
    """How sources are read.

    Args:
        documents: what ends a document in .txt.
        text_field: what holds the text in .jsonl, .parquet and hf.
        repairs: the policy for bad text, and its counts.
        advance: called with the bytes that were read since its last call.
    """

    documents: Documents = "blank_line"
    text_field: str = "text"
    repairs: Repairs = field(default_factory=Repairs)
    advance: Callable[[int], None] = _ignore


def find(names: Sequence[str]) -> list[Source]:
    """The streams behind what the user named; a folder gives its files, sorted, however deep.

    Raises:
        ValueError: naming what does not exist, is of no known kind, holds no text file, or is
            given twice: what is read twice would be learned from and measured on.
        OSError: a folder cannot be read.
    """
    found: list[Source] = []
    for name in names:
        path = Path(name)
        if name == "pydocs" or name.startswith("hf:"):
            found.append(Source(name, name.partition(":")[0]))
        elif path.is_dir():
            files = sorted(f for f in _inside(path) if _is_text(f))
            if not files:
                raise ValueError(f"{name} holds no {_KINDS}")
            found += map(_file, files)
        elif not path.exists():
            raise ValueError(f"{name} does not exist (a source is a file, a folder, pydocs or hf:)")
        elif not _kind(path):
            raise ValueError(f"{name} is none of {_KINDS}")
        else:
            found.append(_file(path))
    if not found:
        raise ValueError("no source is given: a file, a folder, pydocs or hf:NAME")
    _refuse_twice(found)
    return found


def _inside(folder: Path) -> Iterator[Path]:
    """The files in a folder, however deep; links to folders are not followed."""
    left = [str(folder)]
    while left:
        for entry in os.scandir(left.pop()):
            if entry.is_dir(follow_symlinks=False):
                left.append(entry.path)
            else:
                yield Path(entry.path)


def _refuse_twice(found: Sequence[Source]) -> None:
    seen: dict[str, str] = {}
    for source in found:
        real = os.path.realpath(source.name) if source.is_file else source.name
        if real in seen:
            raise ValueError(f"{source.name} is given twice, the other time as {seen[real]}")
        seen[real] = source.name


def _is_text(path: Path) -> bool:
    """Whether a file in a folder is meant: what else lies there is passed over."""
    tokenizer = path.name == "vocab.txt" and path.with_name("tokenizer.json").exists()
    return bool(_kind(path)) and not path.is_dir() and not tokenizer


def _kind(path: Path) -> str:
    """The suffix that says how to read a file, or nothing."""
    plain = Path(path.stem) if path.suffix in _CODECS else path
    return plain.suffix if plain.suffix in SUFFIXES else ""


def _file(path: Path) -> Source:
    size = path.stat().st_size if path.exists() else 0
    return Source(str(path), _kind(path), _CODECS.get(path.suffix), size)


def paragraphs(source: Source, reading: Reading) -> Iterator[str | None]:
    """The paragraphs of a source, cleaned; None ends each document.

    Raises:
        ValueError: bad text under the policy strict, or an hf: source that cannot be loaded.
    """
    try:
        for text in _READERS[source.kind](source, reading):
            if text is not None and len(text) > _PARAGRAPH:
                yield from _parts(text)
            else:
                yield text
    except OSError as error:
        if error.errno in _FULL:  # where a .parquet was unpacked to, which says nothing of the text
            raise
        if source.begin == 0 or reading.repairs.policy == "strict":  # its first part counts it
            reading.repairs.bad(source.name, "cannot be read", error.strerror or str(error))
    if source.end is None:  # else a document may go on in the next part
        yield None


def _parts(text: str) -> Iterator[str]:
    while text:
        end = len(text) if len(text) <= _PARAGRAPH else text.rfind(" ", 0, _PARAGRAPH) + 1
        yield text[: end or _PARAGRAPH]
        text = text[end or _PARAGRAPH :]


def _lines(source: Source, reading: Reading, cut: bool) -> Iterator[tuple[str, bytes]]:
    """`FILE:LINE` and the line."""
    with ExitStack() as stack:
        require_regular(Path(source.name))
        file = stack.enter_context(open(source.name, "rb", buffering=0))
        part = section(file, source.begin, source.end)
        if part is None:
            return
        stream, before = part
        if source.codec is not None:
            stream = _decompressed(file, source, stack)
        place = file.tell()

        def progress() -> None:
            nonlocal place
            reading.advance(file.tell() - place)
            place = file.tell()

        for number, line in lines(stream, source.name, reading.repairs, progress, cut, before):
            yield f"{source.name}:{number}", line


def _decompressed(file: IO[bytes], source: Source, stack: ExitStack) -> Any:
    import pyarrow as pa  # a tenth of a second, for those who need it

    # Unlike the zstandard package's reader, this one notices that a frame is torn.
    return InProportion(stack.enter_context(pa.CompressedInputStream(file, source.codec)), file)


def _txt(source: Source, reading: Reading) -> Iterator[str | None]:
    for where, line in _lines(source, reading, cut=True):
        text = decode(line, where, reading.repairs)
        text = None if text is None else clean(text, where, reading.repairs)
        if text is None:
            continue
        text = text.strip()
        if text:
            yield text
        if reading.documents == "line" or (reading.documents == "blank_line" and not text):
            yield None


def _jsonl(source: Source, reading: Reading) -> Iterator[str | None]:
    for where, line in _lines(source, reading, cut=False):
        text = decode(line, where, reading.repairs)
        if text is None or not text.strip():
            continue
        try:
            record = json.loads(text)
        except (ValueError, RecursionError) as error:
            reading.repairs.bad(where, "torn or damaged JSON", str(error))
            continue
        yield from _record(record, where, reading)


def _record(record: Any, where: str, reading: Reading) -> Iterator[str | None]:
    """One document from its text field."""
    name = reading.text_field
    if not isinstance(record, dict):
        reading.repairs.bad(where, "no JSON object", type(record).__name__)
    elif name not in record:
        has = ", ".join(list(record)[:10]) or "none"
        reading.repairs.bad(where, f"no field {name!r}", f"its fields are {has}")
    elif not isinstance(record[name], str):
        kind = type(record[name]).__name__
        reading.repairs.bad(where, f"field {name!r} is no text", kind)
    else:
        yield from _document(record[name], where, reading)


def _document(text: str, where: str, reading: Reading) -> Iterator[str | None]:
    cleaned = clean(text, where, reading.repairs)
    for line in (cleaned or "").split("\n"):
        if line := line.strip():
            yield line
    yield None


def _parquet(source: Source, reading: Reading) -> Iterator[str | None]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with ExitStack() as stack:
        require_regular(Path(source.name))
        file: Any = stack.enter_context(open(source.name, "rb"))
        if source.codec is not None:
            packed = _decompressed(file, source, stack)
            file = stack.enter_context(tempfile.TemporaryFile())
            with naming(Path(tempfile.gettempdir())):
                for block in iter(partial(packed.read, _COPY), b""):
                    file.write(block)
                file.flush()
        try:
            table = pq.ParquetFile(file, buffer_size=_COPY)
            if _has_text(table, source, reading):
                yield from _rows(table, source, reading)
        except pa.ArrowException as error:
            reading.repairs.bad(source.name, "damaged .parquet", str(error))


def _has_text(table: Any, source: Source, reading: Reading) -> bool:
    """Whether the columns and their types are as they must be; complains where they are not."""
    from pyarrow import types

    name, schema = reading.text_field, table.schema_arrow
    if name not in schema.names:
        detail = f"its fields are {', '.join(schema.names[:10]) or 'none'}"
        reading.repairs.bad(source.name, f"no field {name!r}", detail)
        return False
    kind = schema.field(name).type
    plain = kind.value_type if types.is_dictionary(kind) else kind
    if not (types.is_string(plain) or types.is_large_string(plain) or types.is_string_view(plain)):
        reading.repairs.bad(source.name, f"field {name!r} is no text", str(kind))
        return False
    if table.metadata.num_rows == 0:
        reading.repairs.bad(source.name, "empty file")
    return True


def _rows(table: Any, source: Source, reading: Reading) -> Iterator[str | None]:
    name, total = reading.text_field, table.metadata.num_rows
    row = done = unpacked = 0
    for batch in table.iter_batches(_ROWS, columns=[name], use_threads=False):
        for raw in _cells(batch.column(0)):
            row += 1
            unpacked += _ROW_BYTES + (raw if isinstance(raw, int) else len(raw or b""))
            where = f"{source.name}:{row}"
            if raw is None:
                reading.repairs.bad(where, f"field {name!r} is no text", "null")
            elif isinstance(raw, int):
                reading.repairs.bad(where, "text too long", f"{raw >> 20} MB")
            elif (text := decode(raw, where, reading.repairs)) is not None:
                yield from _document(text, where, reading)
        if not in_proportion(unpacked, source.bytes):
            raise OSError(f"row {row}: {BOMB}")
        reading.advance(source.bytes * row // total - done)
        done = source.bytes * row // total


def _cells(column: Any) -> Iterator[bytes | int | None]:
    """The bytes of each cell, or how many they would be where they are too many.

    As bytes, since Arrow does not check that a string is UTF-8.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    column = column.cast(pa.large_binary())
    for length, cell in zip(pc.binary_length(column).to_pylist(), column):
        yield length if (length or 0) > LINE_BYTES else cell.as_py()


def _hf(source: Source, reading: Reading) -> Iterator[str | None]:
    """hf:NAME[,CONFIG][,SPLIT], streamed; a name can also be a folder of data files."""
    try:
        import datasets
    except ImportError:
        raise ValueError(
            f"{source.name} needs the datasets library: pip install mslt[hub]"
        ) from None
    name, *rest = source.name.removeprefix("hf:").split(",")
    if not name or len(rest) > 2:
        raise ValueError(f"{source.name} is not of the form hf:NAME[,CONFIG][,SPLIT]")
    split = rest.pop() if len(rest) == 2 or (rest and rest[0] in _SPLITS) else "train"
    config = (rest[0] if rest else "") or None
    records: Iterator[Any] = iter(())
    number = 0
    while True:
        try:
            if number == 0:
                stream = datasets.load_dataset(name, config, split=split, streaming=True)
                records = iter(stream)
            record = next(records, None)
        except Exception as error:  # the library and what it calls raise dozens of kinds
            where = f"{source.name}:{number}" if number else source.name
            why = next(iter(str(error).splitlines()), type(error).__name__)
            raise ValueError(f"{where} cannot be loaded: {why}") from None
        if record is None:
            return
        number += 1
        text = record.get(reading.text_field)
        reading.advance(len(text) if isinstance(text, str) else 0)
        yield from _record(record, f"{source.name}:{number}", reading)


def _pydocs(source: Source, reading: Reading) -> Iterator[str | None]:
    for document in pydocs.documents():
        reading.advance(sum(map(len, document)))
        yield from document
        yield None


_READERS: dict[str, Callable[[Source, Reading], Iterator[str | None]]] = {
    ".txt": _txt,
    ".jsonl": _jsonl,
    ".parquet": _parquet,
    "hf": _hf,
    "pydocs": _pydocs,
}
