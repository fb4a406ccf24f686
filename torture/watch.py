"""An audit hook that notes what a command must not do with what others wrote. Imports little."""

import os
import sys
from typing import Any

_NETWORK = ("socket.connect", "socket.bind", "socket.sendto", "socket.getaddrinfo")
_PROGRAMS = ("os.system", "os.exec", "os.posix_spawn", "os.startfile", "subprocess.Popen")
_CHANGES = {"os.remove": 1, "os.rename": 2, "os.rmdir": 1, "os.mkdir": 1, "os.symlink": 2}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_OURS = ("mslt", "multiprocessing", "concurrent", "numpy", "pathlib")  # between our own processes
_ELSEWHERE = ("/dev/null", "/dev/shm", "/proc/self")  # what the system's own libraries write to

_folder = ""  # where everything is allowed; nothing is watched while it is empty
_log = ""
_hooked = False


def begin(folder: str, log: str) -> None:
    """Watch this process from now on.

    Args:
        folder: where it may write.
        log: the file to note everything else in, one line each.
    """
    global _folder, _log, _hooked
    _folder, _log = os.path.realpath(folder), log
    if not _hooked:
        sys.addaudithook(_notice)
        _hooked = True


def end() -> None:
    """Watch no longer. The hook itself cannot be taken away."""
    global _folder
    _folder = ""


def _notice(event: str, args: tuple[Any, ...]) -> None:
    if not _folder:
        return
    foreign_class = event == "pickle.find_class" and not str(args[0]).startswith(_OURS)
    if foreign_class or event in _PROGRAMS or (event in _NETWORK and not _is_local(args)):
        _note(event, args)
    elif event == "open" and isinstance(args[2], int) and args[2] & _WRITING:
        _must_be_inside(event, args[0])
    elif event in _CHANGES:
        for path in args[: _CHANGES[event]]:
            _must_be_inside(event, path)


def _is_local(args: tuple[Any, ...]) -> bool:
    """Whether a socket is between processes of this machine."""
    return bool(args) and isinstance(args[-1], str | bytes)  # the address of a Unix socket


def _must_be_inside(event: str, path: Any) -> None:
    if isinstance(path, int):
        return
    real = os.path.realpath(os.fsdecode(path))
    if not real.startswith((_folder, *_ELSEWHERE)):
        _note(event, (real,))


def _note(event: str, args: tuple[Any, ...]) -> None:
    line = f"{event} {' '.join(map(repr, args))}"[:300].replace("\n", " ")
    descriptor = os.open(_log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(descriptor, f"{line}\n".encode(errors="replace"))
    os.close(descriptor)
