"""Records are whole, or not there: after a kill, on a full disk, in damaged files."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path

import numpy as np
import pytest

from mslt import records
from mslt.records import Records, opened

ONE, OTHER = b"1" * records.ORIGIN, b"2" * records.ORIGIN
SIZE = 10_000


@pytest.fixture(autouse=True)
def _no_spare_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that these tests run on a small disk too."""
    monkeypatch.setattr(records, "SPARE", 0)


def content(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 2**15, SIZE // 2, dtype=np.int16)


def filled(folder: Path, numbers: int, gigabytes: float = 1.0) -> None:
    with opened(folder, gigabytes) as kept:
        kept.shape(numbers, SIZE)
        for number in range(numbers):
            kept.write(number, ONE, content(number))


def whole(kept: Records, number: int) -> bool:
    """Whether a record is there; what is there must be right."""
    into = np.empty(SIZE // 2, np.int16)
    found = kept.read(number, into)
    assert not found or np.array_equal(into, content(number))
    return found


def file(folder: Path, name: str) -> Path:
    return folder / f"prefix-{name}.bin"


def damage(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_what_was_written_is_read_back_by_this_process_and_the_next(tmp_path: Path) -> None:
    with opened(tmp_path, 1.0) as kept:
        assert kept.shape(5, SIZE) == 5
        for number in (0, 3):
            kept.write(number, ONE, content(number))
        assert [whole(kept, number) for number in range(5)] == [True, False, False, True, False]
    with opened(tmp_path, 1.0) as kept:
        kept.shape(5, SIZE)
        assert [whole(kept, number) for number in range(5)] == [True, False, False, True, False]
        assert (kept.origin(3), kept.origin(1)) == (ONE, bytes(records.ORIGIN))


def test_a_record_may_be_shorter_than_its_place(tmp_path: Path) -> None:
    with opened(tmp_path, 1.0) as kept:
        kept.shape(2, SIZE)
        kept.write(0, ONE, content(0)[:100])
        kept.write(1, ONE, content(1))
        into = np.empty(100, np.int16)
        assert kept.read(0, into)
        assert np.array_equal(into, content(0)[:100])
        assert whole(kept, 1)


def test_a_record_says_what_it_was_made_from(tmp_path: Path) -> None:
    filled(tmp_path, 3)
    with opened(tmp_path, 1.0) as kept:
        kept.shape(4, SIZE)
        kept.write(1, OTHER, content(1))
        assert [kept.origin(number) for number in (0, 1, 2)] == [ONE, OTHER, ONE]
        assert kept.made_from([ONE]) == (2, 1)
        assert kept.made_from([ONE, OTHER]) == (3, 0)
        assert kept.made_from([]) == (0, 3)


@pytest.mark.parametrize("number", [0, 1, 2])
@pytest.mark.parametrize("place", [0, 4321, SIZE - 1])
def test_any_flipped_bit_of_a_record_is_found(
    tmp_path: Path, number: int, place: int, capsys: pytest.CaptureFixture[str]
) -> None:
    filled(tmp_path, 3)
    damage(file(tmp_path, "records"), number * SIZE + place)
    with opened(tmp_path, 1.0) as kept:
        kept.shape(3, SIZE)
        assert [whole(kept, n) for n in range(3)] == [n != number for n in range(3)]
        assert not whole(kept, number)
        assert capsys.readouterr().out == "prefix cache: a damaged record is computed anew\n"
        kept.write(number, ONE, content(number))
        assert all(whole(kept, n) for n in range(3))


@pytest.mark.parametrize("place", range(20))
def test_any_flipped_bit_of_a_mark_is_found(tmp_path: Path, place: int) -> None:
    filled(tmp_path, 2)
    damage(file(tmp_path, "marks"), 20 + place)
    with opened(tmp_path, 1.0) as kept:
        kept.shape(2, SIZE)
        assert whole(kept, 0)
        assert not whole(kept, 1)


def test_a_record_in_the_place_of_another_is_none(tmp_path: Path) -> None:
    filled(tmp_path, 2)
    for name, size in (("records", SIZE), ("marks", 20)):
        data = file(tmp_path, name).read_bytes()
        file(tmp_path, name).write_bytes(data[size:] + data[:size])
    with opened(tmp_path, 1.0) as kept:
        kept.shape(2, SIZE)
        assert not kept.read(0, np.empty(SIZE // 2, np.int16))
        assert not kept.read(1, np.empty(SIZE // 2, np.int16))


@pytest.mark.parametrize("name", ["records", "marks"])
@pytest.mark.parametrize("left", [0, 7, 30, SIZE + 1])
def test_files_that_were_cut_short_keep_what_is_whole(tmp_path: Path, name: str, left: int) -> None:
    filled(tmp_path, 3)
    os.truncate(file(tmp_path, name), min(left, file(tmp_path, name).stat().st_size))
    size = {"records": SIZE, "marks": 20}[name]
    with opened(tmp_path, 1.0) as kept:
        kept.shape(3, SIZE)
        found = [whole(kept, number) for number in range(3)]
        assert found == [number < left // size for number in range(3)]
        for number in range(3):
            kept.write(number, ONE, content(number))
        assert all(whole(kept, number) for number in range(3))


@pytest.mark.parametrize("name", ["records", "marks"])
def test_a_file_that_was_lost_costs_the_records_alone(tmp_path: Path, name: str) -> None:
    filled(tmp_path, 2)
    file(tmp_path, name).unlink()
    with opened(tmp_path, 1.0) as kept:
        kept.shape(2, SIZE)
        assert not whole(kept, 0)
        kept.write(0, ONE, content(0))
        assert whole(kept, 0)


def test_files_that_something_else_wrote_hold_no_record(tmp_path: Path) -> None:
    for name in ("records", "marks"):
        file(tmp_path, name).write_bytes(b"My dear diary, " * 9999)
    with opened(tmp_path, 1.0) as kept:
        kept.shape(50, SIZE)
        assert not any(kept.read(number, np.empty(5000, np.int16)) for number in range(50))


@pytest.mark.parametrize("at", ["record", "mark"])
def test_a_kill_between_any_two_writes_costs_one_record(
    tmp_path: Path, at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.pwrite
    calls = count()

    def torn(descriptor: int, data: bytes, offset: int) -> int:
        if next(calls) == {"record": 1, "mark": 2}[at]:
            write(descriptor, data[: len(data) // 2], offset)
            raise KeyboardInterrupt  # stands for the end of the process
        return write(descriptor, data, offset)

    filled(tmp_path, 3)
    monkeypatch.setattr(os, "pwrite", torn)
    with opened(tmp_path, 1.0) as kept:
        kept.shape(3, SIZE)
        with pytest.raises(KeyboardInterrupt):
            kept.write(1, OTHER, content(1)[::-1].copy())
    monkeypatch.undo()
    with opened(tmp_path, 1.0) as kept:
        kept.shape(3, SIZE)
        assert [whole(kept, number) for number in range(3)] == [True, False, True]


def test_a_process_killed_while_it_writes_leaves_whole_records(tmp_path: Path) -> None:
    code = (
        "import itertools, numpy as np; from pathlib import Path; from mslt import records\n"
        "records.SPARE = 0\n"
        f"with records.opened(Path({str(tmp_path)!r}), 1.0) as kept:\n"
        f"    kept.shape(8, {SIZE})\n"
        "    for n in itertools.cycle(range(8)):\n"
        f"        data = np.random.default_rng(n).integers(0, 2**15, {SIZE // 2}, dtype=np.int16)\n"
        f"        kept.write(n, {ONE!r}, data)\n"
        "        print(n, flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for _ in range(20):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
    with opened(tmp_path, 1.0) as kept:  # the lock went with the process
        kept.shape(8, SIZE)
        assert sum(whole(kept, number) for number in range(8)) >= 7


def test_the_files_stay_below_the_bound(tmp_path: Path) -> None:
    bound = 3.5 * (SIZE + 20) / 1e9
    with opened(tmp_path, bound) as kept:
        assert kept.shape(10, SIZE) == 3
        for number in range(10):
            kept.write(number, ONE, content(number))
        assert [whole(kept, number) for number in range(10)] == [True] * 3 + [False] * 7
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= bound * 1e9


def test_a_smaller_bound_drops_what_is_beyond_it_and_a_larger_one_loses_nothing(
    tmp_path: Path,
) -> None:
    filled(tmp_path, 6)
    for gigabytes, fitting in ((3 * (SIZE + 20) / 1e9, 3), (1.0, 6)):
        with opened(tmp_path, gigabytes) as kept:
            assert kept.shape(6, SIZE) == fitting
            assert [whole(kept, number) for number in range(6)] == [True] * 3 + [False] * 3
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) == 3 * (SIZE + 20)


def test_records_that_are_dropped_free_the_disk(tmp_path: Path) -> None:
    filled(tmp_path, 3)
    with opened(tmp_path, 1.0) as kept:
        kept.drop()
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) == 0
        kept.write(0, ONE, content(0))
        assert kept.shape(3, SIZE) == 3
        assert not any(whole(kept, number) for number in range(3))


def full(*_: object) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


def short(write: Callable[..., int]) -> Callable[..., int]:
    """What a disk does with its last bytes."""
    return lambda file, data, offset: write(file, data[: len(data) // 2], offset)


def test_a_full_disk_ends_the_storing_and_not_the_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    filled(tmp_path, 1)
    with opened(tmp_path, 1.0) as kept:
        kept.shape(3, SIZE)
        monkeypatch.setattr(os, "pwrite", full)
        kept.write(1, ONE, content(1))
        monkeypatch.undo()
        kept.write(2, ONE, content(2))
        assert [whole(kept, number) for number in range(3)] == [True, False, False]
    assert capsys.readouterr().out == (
        "prefix cache: nothing more is stored (No space left on device); training goes on without\n"
    )


def test_a_record_that_found_half_its_room_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(tmp_path, 1.0) as kept:
        kept.shape(1, SIZE)
        monkeypatch.setattr(os, "pwrite", short(os.pwrite))
        kept.write(0, ONE, content(0))
        assert not whole(kept, 0)


def test_some_of_the_disk_is_left_to_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    filled(tmp_path, 1)
    monkeypatch.setattr(records, "SPARE", 10**18)
    with opened(tmp_path, 1.0) as kept:
        kept.shape(2, SIZE)
        kept.write(0, OTHER, content(0))  # takes no room that it had not before
        kept.write(1, ONE, content(1))
        assert [whole(kept, number) for number in range(2)] == [True, False]
    assert "GB of the disk are free" in capsys.readouterr().out


def test_a_disk_that_does_not_read_costs_the_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    filled(tmp_path, 1)
    with opened(tmp_path, 1.0) as kept:
        kept.shape(1, SIZE)
        monkeypatch.setattr(os, "preadv", full)
        assert not whole(kept, 0)
    assert "cannot be read and is computed anew" in capsys.readouterr().out


def test_a_folder_serves_one_process_at_a_time(tmp_path: Path) -> None:
    with (
        opened(tmp_path, 1.0),
        pytest.raises(ValueError, match="another run caches in it"),
        opened(tmp_path, 1.0),
    ):
        pass
    with opened(tmp_path, 1.0):
        pass


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"), opened(tmp_path / "file", 1.0):
        pass
