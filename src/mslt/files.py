"""Folders that are either whole or not there. Imports no torch."""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
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
            replaced.
        OSError: the disk is full or not writable; nothing is left under the final name.
    """
    path = path.absolute()
    empty = path.is_dir() and not path.is_symlink() and not any(path.iterdir())
    if os.path.lexists(path) and not replace and not empty:
        raise ValueError(f"{path} exists: choose another --out, or remove it")
    folder, before = path.with_name(f".{path.name}.tmp"), path.with_name(f".{path.name}.old")
    shutil.rmtree(folder, ignore_errors=True)  # what a kill in the middle left
    shutil.rmtree(before, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
        for file in [*folder.rglob("*"), folder]:
            flush(file)
        if path.exists():
            path.rename(before)
        folder.rename(path)
        flush(path.parent)
        shutil.rmtree(before, ignore_errors=True)
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if before.exists() and not path.exists():
            before.rename(path)
        if isinstance(error, OSError) and error.errno and error.filename is None:
            error.filename = str(path)  # "no space left" does not say where
        raise


def flush(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256(path: Path) -> str:
    """Hash of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
