"""Processes forked from this one, ended as torchrun ends them, or in the middle of anything."""

import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from torture.faults import Point

_GRACE = 20.0  # seconds that the others have to end when one has failed
_LIMIT = 300.0  # seconds after which processes that do not end have hung
_PAUSE = 0.5  # a longer pause between two looks means that the machine stood still
_EVERY = 0.002  # seconds between two looks


@dataclass(frozen=True)
class Kill:
    """A kill of one process, at a point or after a time.

    Args:
        rank: of the process.
        point: where, or None.
        number: the how manyeth time that the point is met, counted from 1.
        seconds: after how long, where there is no point.
    """

    rank: int = 0
    point: Point | None = None
    number: int = 1
    seconds: float = 0.0

    def __str__(self) -> str:
        where = f"{self.point.name}, time {self.number}" if self.point else f"{self.seconds:.3f} s"
        return f"process {self.rank}: {where}"


def fork(work: Callable[[], int], log: Path) -> int:
    """Do something in a process of its own, whose exit status it returns. The process's id.

    Args:
        work: what to do.
        log: where all that it prints is appended.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    if pid := os.fork():
        return pid
    status = 70
    try:
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        status = work()
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else status
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def run_together(
    work: Callable[[int], int], processes: int, log: Path, kill: Kill | None = None
) -> list[int]:
    """Do something in several processes at once, which find each other as torchrun's do.

    Returns:
        Exit status by process; negative for the signal that ended it.
    """
    port = _free_port()

    def begin(rank: int) -> int:
        if processes > 1:
            place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes}
            where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            os.environ.update({name: str(value) for name, value in (place | where).items()})
        if kill and kill.point and kill.rank == rank:
            kill.point.kill(kill.number)
        return work(rank)

    def child(rank: int) -> Callable[[], int]:
        return lambda: begin(rank)

    return _wait([fork(child(rank), log) for rank in range(processes)], kill)


def _wait(pids: list[int], kill: Kill | None) -> list[int]:
    """Wait for processes. Where one fails, end the others: first in peace, then not."""
    statuses: dict[int, int] = {}
    failed_at = None
    for seconds in _seconds():
        for pid in pids:
            if pid not in statuses:
                found, status = os.waitpid(pid, os.WNOHANG)
                if found:
                    statuses[pid] = os.waitstatus_to_exitcode(status)
        left = [pid for pid in pids if pid not in statuses]
        if not left:
            break
        victim = pids[kill.rank] if kill and not kill.point else None
        if kill and victim in left and seconds > kill.seconds:
            os.kill(victim, signal.SIGKILL)
        if failed_at is None and any(statuses.values()):
            failed_at = seconds
            _end(left, signal.SIGTERM)
        if seconds > _LIMIT or (failed_at is not None and seconds > failed_at + _GRACE):
            _end(left, signal.SIGKILL)
    return [statuses[pid] for pid in pids]


def _end(pids: list[int], number: int) -> None:
    for pid in pids:
        os.kill(pid, number)


def _seconds() -> Iterator[float]:
    """Time as it goes by, but for that in which this process stood still."""
    seconds, before = 0.0, time.monotonic()
    while True:
        yield seconds
        time.sleep(_EVERY)
        now = time.monotonic()
        seconds, before = seconds + min(now - before, _PAUSE), now


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
