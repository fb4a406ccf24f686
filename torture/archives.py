"""Archives and tables, whole ones and bombs; made in memory that stays bounded."""

import gzip
import io
import struct
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

MB = 1 << 20


def gz(raw: bytes) -> bytes:
    """As gzip, the same bytes whenever it is made."""
    return gzip.compress(raw, mtime=0)


def zst(raw: bytes) -> bytes:
    """As zstd."""
    return pa.compress(raw, codec="zstd", asbytes=True)


def bomb(block: bytes, times: int, codec: str = "gzip") -> Callable[[Path], object]:
    """An archive of a block over and over."""

    def make(path: Path) -> None:
        with path.open("wb") as file, pa.CompressedOutputStream(file, codec) as packed:
            for _ in range(times):
                packed.write(block)

    return make


def parquet(**columns: object) -> bytes:
    """A table of columns."""
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


def bad_utf8() -> pa.Array:
    """A column of strings of which one is no UTF-8, which Arrow does not check."""
    offsets, data = struct.pack("<2i", 0, 1), b"\xe9"
    return pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(offsets), pa.py_buffer(data)])


def dictionary_bomb(text: str, times: int) -> Callable[[Path], object]:
    """A column that repeats one text: kilobytes on disk, whatever it unpacks to."""
    return _rows([text], lambda: pa.array([0] * 100_000, pa.int32()), times)


def null_bomb(times: int) -> Callable[[Path], object]:
    """A column of nothing at all, very often."""
    return _rows([], lambda: pa.nulls(100_000, pa.int32()), times)


def _rows(
    texts: Sequence[str], indices: Callable[[], pa.Array], times: int
) -> Callable[[Path], object]:
    def make(path: Path) -> None:
        words, block = pa.array(texts, pa.string()), indices()
        column = pa.DictionaryArray.from_arrays(block, words)
        table = pa.table({"text": column})
        with pq.ParquetWriter(path, table.schema, compression="zstd") as writer:
            for _ in range(times):
                writer.write_table(table)

    return make


def damaged_gz(raw: bytes) -> bytes:
    """Of which the checksum at the end is not its content's."""
    packed = bytearray(gz(raw))
    packed[-8] ^= 1
    return bytes(packed)


def endless_window() -> bytes:
    """A zstd frame that asks for two gigabytes of window."""
    return b"\x28\xb5\x2f\xfd" + bytes([0x00, (31 - 10) << 3]) + b"\x01\x00\x00"


def deflate_tail(raw: bytes) -> bytes:
    """zlib's format, which is not gzip's."""
    return zlib.compress(raw)
