"""Records of one size in a folder, each known to be whole and known by what it was made from.

FOLDER/prefix-records.bin   one record behind the other
       prefix-marks.bin     for each, 20 bytes: what it was made from and a CRC-32, or zeros

A mark is written after its record and covers all of it, so that whatever stops the process or
damages the files costs the records that it hit and nothing else. The files are read and written,
not mapped into memory: a full disk or a file cut short would end a process that maps it, where a
call that fails costs a record. Imports no torch.
"""

import errno
import os
import zlib
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from mslt.files import locked

ORIGIN = 16  # bytes that say what a record was made from
SPARE = 5_000_000_000  # bytes of the disk that are left to others, a run's checkpoints among them

_MARK = np.dtype([("origin", f"V{ORIGIN}"), ("crc", "<u4")])
_NONE = bytes(ORIGIN)


class Records:
    """The records of a folder that this process alone uses. Made by `opened`.

    Args:
        records: descriptor of records.bin.
        marks: descriptor of marks.bin.
        most: bytes that both may have.
        say: tells the user something.
    """

    def __init__(self, records: int, marks: int, most: int, say: Callable[[str], None]) -> None:
        self._records = records
        self._marks = marks
        self._most = most
        self._said: set[str] = set()
        self._tell = say
        self._stores = True
        self._size = 0
        self._table = np.zeros(0, _MARK)

    def shape(self, count: int, size: int) -> int:
        """Make room for records of one size, and drop what is beyond it.

        Args:
            count: how many would be used.
            size: bytes of one.

        Returns:
            How many there is room for.
        """
        self._size = size
        fitting = min(count, self._most // (size + _MARK.itemsize))
        content = b""
        try:
            for file, each in ((self._records, size), (self._marks, _MARK.itemsize)):
                if os.fstat(file).st_size > fitting * each:
                    os.ftruncate(file, fitting * each)
            content = os.pread(self._marks, fitting * _MARK.itemsize, 0)
        except OSError as error:
            self._give_up(error)
        whole = len(content) // _MARK.itemsize
        self._table = np.zeros(fitting, _MARK)
        self._table[:whole] = np.frombuffer(content, _MARK, whole)
        return fitting

    def origin(self, number: int) -> bytes:
        """What a record says it was made from; zeros where there is none, or no room for one."""
        return self._table["origin"][number].tobytes() if number < len(self._table) else _NONE

    def made_from(self, origins: Collection[bytes]) -> tuple[int, int]:
        """How many records were made from one of these, and how many from something else."""
        values, counts = np.unique(self._table["origin"], return_counts=True)
        number = {value.tobytes(): int(count) for value, count in zip(values, counts)}
        number.pop(_NONE, None)
        ours = sum(count for value, count in number.items() if value in origins)
        return ours, sum(number.values()) - ours

    def read(self, number: int, into: np.ndarray) -> bool:
        """Read the beginning of a record, as much as `into` holds.

        Returns:
            Whether it is there and whole; if not, `into` holds anything.
        """
        origin = self.origin(number)
        if origin == _NONE:
            return False
        try:
            done = os.preadv(self._records, [into.data.cast("B")], number * self._size)
        except OSError as error:
            self._say(f"a record cannot be read and is computed anew ({error.strerror})")
            return False
        if done == into.nbytes and self._crc(number, origin, into) == self._table["crc"][number]:
            return True
        self._say("a damaged record is computed anew")
        return False

    def write(self, number: int, origin: bytes, data: np.ndarray) -> None:
        """Keep a record, if there is room. Failing costs the record, and every later one.

        Args:
            number: which; what it held before is gone, whatever happens.
            origin: what it was made from.
            data: contiguous, at most the records' size.
        """
        if number >= len(self._table) or not self._stores:
            return
        try:
            if self.origin(number) == _NONE:
                self._refuse_full_disk()
            self._mark(number, _NONE, 0)
            written = os.pwrite(self._records, data.data.cast("B"), number * self._size)
            if written == data.nbytes:
                self._mark(number, origin, self._crc(number, origin, data))
        except OSError as error:
            self._give_up(error)

    def drop(self) -> None:
        """Give the disk back what the records hold."""
        self.shape(0, 1)

    def _mark(self, number: int, origin: bytes, crc: int) -> None:
        self._table[number] = (origin, crc)
        os.pwrite(self._marks, self._table[number].tobytes(), number * _MARK.itemsize)

    def _crc(self, number: int, origin: bytes, data: np.ndarray) -> int:
        """Of the place as well, so that a record in the wrong one is no record."""
        return zlib.crc32(data.data.cast("B"), zlib.crc32(origin + number.to_bytes(8, "little")))

    def _refuse_full_disk(self) -> None:
        disk = os.fstatvfs(self._records)
        if disk.f_bavail * disk.f_frsize < SPARE + self._size:
            raise OSError(errno.ENOSPC, f"less than {SPARE / 1e9:g} GB of the disk are free")

    def _give_up(self, error: OSError) -> None:
        self._stores = False
        self._say(f"nothing more is stored ({error.strerror}); training goes on without")

    def _say(self, text: str) -> None:
        if text not in self._said:
            self._tell(f"prefix cache: {text}")
        self._said.add(text)


@contextmanager
def opened(folder: Path, gigabytes: float, say: Callable[[str], None] = print) -> Iterator[Records]:
    """The records of a folder, for this process alone.

    Args:
        folder: made if need be.
        gigabytes: most that its files may have, in 10^9 bytes.
        say: tells the user what was found damaged, and when the disk is full.

    Raises:
        ValueError: another process uses the folder.
        OSError: it cannot be made or written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        stack.enter_context(locked(folder, f"{folder} is in use: another run caches in it"))
        files = []
        for name in ("prefix-records.bin", "prefix-marks.bin"):
            files.append(os.open(folder / name, os.O_RDWR | os.O_CREAT, 0o666))
            stack.callback(os.close, files[-1])
        records, marks = files
        yield Records(records, marks, round(gigabytes * 1e9), say)
