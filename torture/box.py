"""A command in a process of its own: no network, a limit of time, memory measured, under watch."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SECRET = "a-secret-of-the-environment"  # which must appear in no file that is written
CANARY = "executed"  # what hostile files would leave behind, if anything in them ran
_EVERY = 0.02  # seconds between two looks at the memory
_PAUSE = 1.0  # a longer one means that the machine, or this process, stood still
_MOST_BYTES = 3 << 30  # a process tree beyond that is ended, for the machine's sake


@dataclass(frozen=True)
class Outcome:
    """How a command ended.

    Args:
        status: its exit status; None where it ran out of time or memory.
        out: its standard output.
        err: its standard error.
        seconds: wall clock, without the pauses of a machine that stood still.
        peak: bytes of memory, the most that its processes had together.
        noticed: what it did that it must not.
    """

    status: int | None
    out: str
    err: str
    seconds: float
    peak: int
    noticed: tuple[str, ...]


def run(words: Sequence[str | bytes], folder: Path, limit: float = 120.0) -> Outcome:
    """Run `mslt` with these words.

    Args:
        words: of the command line.
        folder: the only place where it may write; also its working folder.
        limit: seconds after which it is ended.
    """
    log = folder.with_name(f"{folder.name}.log")
    for name in ("home", "tmp"):
        (folder / name).mkdir(exist_ok=True)
    seconds, peak = 0.0, 0
    with (
        (folder / "tmp" / "out").open("w+b") as out,
        (folder / "tmp" / "err").open("w+b") as err,
        subprocess.Popen(
            [*_without_network(), sys.executable, "-m", "mslt", *words],
            cwd=folder,
            env=_environment(folder, log),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            start_new_session=True,
        ) as process,
    ):
        before = time.monotonic()
        while process.poll() is None:
            peak = max(peak, _memory(process.pid))
            now = time.monotonic()
            seconds, before = seconds + min(now - before, _PAUSE), now
            if seconds > limit or peak > _MOST_BYTES:
                os.killpg(process.pid, signal.SIGKILL)
                break
            time.sleep(_EVERY)
        ended = process.poll()
        process.wait()
        seconds += min(time.monotonic() - before, _PAUSE)
        texts = [Path(file.name).read_bytes().decode(errors="replace") for file in (out, err)]
    noticed = tuple(dict.fromkeys(log.read_text().splitlines())) if log.exists() else ()
    log.unlink(missing_ok=True)
    return Outcome(ended, texts[0], texts[1], seconds, peak, noticed)


@cache
def _without_network() -> tuple[str, ...]:
    """What puts a command into a network of its own with nothing in it, where that is allowed."""
    for words in (("unshare", "-n"), ("unshare", "-rn")):
        if shutil.which(words[0]) and not subprocess.run([*words, "true"], check=False).returncode:
            return words
    return ()


def _environment(folder: Path, log: Path) -> dict[str, str]:
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "LC_ALL") if name in os.environ}
    return kept | {
        "PYTHONPATH": os.pathsep.join([str(ROOT / "torture" / "guard"), str(ROOT / "src")]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "OMP_NUM_THREADS": "1",
        "HOME": str(folder / "home"),
        "TMPDIR": str(folder / "tmp"),
        "TORTURE_FOLDER": str(folder),
        "TORTURE_LOG": str(log),
        "API_TOKEN": SECRET,
    }


def _memory(leader: int) -> int:
    """Bytes that the processes of a session have, memory that they share counted once."""
    total = 0
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and _session(entry.name) == leader:
            try:
                text = Path("/proc", entry.name, "smaps_rollup").read_text()
            except OSError:  # it has ended meanwhile
                continue
            found = re.search(r"^Pss:\s+(\d+) kB", text, re.MULTILINE)
            total += int(found[1]) << 10 if found else 0
    return total


def _session(pid: str) -> int:
    try:
        return os.getsid(int(pid))
    except OSError:
        return -1


def remove(folder: Path) -> None:
    """Take away a case's folder, whatever its modes."""
    for place, _, _ in os.walk(folder):
        os.chmod(place, 0o700)
    shutil.rmtree(folder)
