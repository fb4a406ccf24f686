"""Folders that are either whole or not there, locks, and room on the disk. Imports no torch."""

import errno
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def appearing(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """A hidden folder beside `path`, flushed to the disk and given its name when the block is left.

    Args:
        path: the folder to be; missing parents are created.
        replace: let it take the place of a folder that stands there, which is removed only once
            the new one is whole.

    Raises:
        ValueError: something stands there (an empty folder does not count), and is not to be
            replaced; or another process is making the same folder.
        OSError: the disk is full or not writable; nothing is left under the final name.
    """
    path = path.absolute()
    folder, before = path.with_name(f".{path.name}.tmp"), path.with_name(f".{path.name}.old")
    if not replace:
        refuse_standing(path)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder, f"{path} is in use: another process is writing it"), naming(path):
        if not replace:
            refuse_standing(path)  # again: a process that held the lock may have made it
        clear(folder)  # what a kill in the middle left
        if before.exists() and not path.exists():
            before.rename(path)  # a kill came between the two names
        shutil.rmtree(before, ignore_errors=True)
        try:
            yield folder
            for file in [*folder.rglob("*"), folder]:
                flush(file)
            if path.exists():
                path.rename(before)
            folder.rename(path)
            flush(path.parent)
            shutil.rmtree(before, ignore_errors=True)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            if before.exists() and not path.exists():
                before.rename(path)
            raise


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Let the system's errors in the block name a path; "no space left" does not say where.

    Raises:
        OSError: with its file name.
    """
    try:
        yield
    except OSError as error:
        if error.errno and error.filename is None:
            error.filename = str(path)
        raise


def refuse_standing(path: Path) -> None:
    """Let nothing be overwritten; an empty folder does not count.

    Raises:
        ValueError: something stands there.
    """
    empty = path.is_dir() and not path.is_symlink() and not any(path.iterdir())
    if os.path.lexists(path) and not empty:
        raise ValueError(f"{path} exists: choose another --out, or remove it")


def clear(folder: Path) -> None:
    """Remove what is in a folder, and not the folder."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def vanish(path: Path) -> None:
    """Remove a folder so that it is whole under its name until it has none."""
    hidden = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(hidden, ignore_errors=True)
    path.rename(hidden)
    shutil.rmtree(hidden)


def sweep(folder: Path) -> None:
    """Clear up what a kill has left in a folder of folders that appear and vanish."""
    for before in folder.glob(".*.old"):
        path = before.with_name(before.name.removeprefix(".").removesuffix(".old"))
        if not path.exists():
            before.rename(path)  # the kill came between the two names
    for left in [*folder.glob(".*.old"), *folder.glob(".*.tmp")]:
        shutil.rmtree(left, ignore_errors=True)


def require_room(path: Path, size: float, what: str) -> None:
    """Fail before a full disk does.

    Args:
        path: an existing folder on the disk.
        size: bytes that are needed.
        what: what they are for.

    Raises:
        OSError: fewer are free.
    """
    free = shutil.disk_usage(path).free
    if free < size:
        raise OSError(
            errno.ENOSPC,
            f"{what} takes {gigabytes(size)}, and {gigabytes(free)} are free",
            str(path),
        )


def gigabytes(size: float) -> str:
    """Bytes as people write them: 0.4 MB, 12 MB, 1.3 GB."""
    unit, name = (1e9, "GB") if size >= 999.5e6 else (1e6, "MB")
    return f"{size / unit:.1f} {name}" if size < 9.95 * unit else f"{size / unit:,.0f} {name}"


@contextmanager
def locked(path: Path, busy: str) -> Iterator[None]:
    """Hold a lock on a folder, or on a file, which is made if need be. A kill lets go of it too.

    Args:
        path: what to lock; a folder may be renamed meanwhile.
        busy: what to say where another process holds the lock.

    Raises:
        ValueError: another process holds it.
    """
    flags = os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT
    descriptor = os.open(path, flags, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(busy) from None
        except OSError:
            pass  # a file system without locks
        if not path.exists() or not os.path.samestat(os.fstat(descriptor), path.stat()):
            raise ValueError(busy)  # it was given its name between opening and locking
        yield
    finally:
        # Closing alone would leave the lock to the processes that were forked meanwhile.
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


def held(path: Path) -> bool:
    """Whether a process holds the lock of a file; without one, none does. Changes nothing."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        pass  # a file system without locks
    finally:
        os.close(descriptor)
    return False


def flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def require_regular(path: Path) -> None:
    """Refuse what might never end, or never begin: a pipe, a device.

    Raises:
        OSError: naming it.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise OSError(f"{path} is no regular file")


def sha256(path: Path) -> str:
    """Hash of a file's content, in hexadecimal.

    Raises:
        OSError: it cannot be read, or is no regular file.
    """
    require_regular(path)
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def block_sha256(path: Path, size: int, number: int) -> str:
    """Hash of block `number`, counted from 0, of a file cut into blocks of `size` bytes."""
    with path.open("rb") as file:
        file.seek(number * size)
        return hashlib.sha256(file.read(size)).hexdigest()
