"""GLUE's submission: a zip of files index<TAB>prediction, written and checked. Imports no torch."""

import errno
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mslt.files import naming, require_regular
from mslt.finetune.tasks import GLUE, HIGHEST, LOWEST, Sentences, Submitted
from mslt.foreign import printable

HEADING = "index\tprediction"
MOST = 64 << 20  # bytes of a file; QQP's has 5 MB
SUBMITTED = {test.file: (task, test) for task in GLUE.values() for test in task.test}


@dataclass(frozen=True)
class Checked:
    """What a zip holds.

    Args:
        files: complete and right.
        missing: that GLUE's server wants too.
    """

    files: tuple[str, ...]
    missing: tuple[str, ...]


def to_file(task: Sentences, answers: Sequence[float]) -> str:
    """The lines of a file: names of labels, or a number between 0 and 5."""
    if task.labels:
        said = [task.labels[int(answer)] for answer in answers]
    else:
        said = [f"{min(max(answer, LOWEST), HIGHEST):.3f}" for answer in answers]
    lines = [HEADING, *(f"{index}\t{text}" for index, text in enumerate(said))]
    return "\n".join(lines) + "\n"


def fill(task: Sentences, test: Submitted) -> str:
    """A file for a task without a model: the first label, or the middle, throughout."""
    return to_file(task, [0.0 if task.labels else (LOWEST + HIGHEST) / 2] * test.rows)


def make_room(out: Path) -> None:
    """See that a zip can be written before there are answers to write; make its folder.

    Raises:
        ValueError: the file exists.
        OSError: its folder cannot be made or written to.
    """
    if out.exists():
        raise ValueError(f"{out} exists already: choose another --out")
    out.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(out.parent, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(out.parent))


def write(out: Path, files: Mapping[str, str]) -> None:
    """Write a zip without folders.

    Args:
        out: the file, which must not exist.
        files: text by the names that GLUE gives them, without the ending.

    Raises:
        ValueError: the file exists.
        OSError: the disk is full or not writable; nothing is left under the final name.
    """
    make_room(out)
    temporary = out.with_name(f".{out.name}.tmp")
    try:
        with naming(out), zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, text in files.items():
                archive.writestr(f"{name}.tsv", text)
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)


def check(path: Path) -> Checked:
    """Hold any zip against what GLUE's server takes.

    Raises:
        ValueError: naming file and line of what is wrong.
        OSError: it cannot be read.
    """
    require_regular(path)
    with _naming_damage(f"{path} is no zip that can be read"):
        archive = zipfile.ZipFile(path)
    with archive:
        return _checked(path, archive)


@contextmanager
def _naming_damage(what: str) -> Iterator[None]:
    """Turn whatever zipfile and its decompressors raise, which are many kinds, into one line."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) and error.filename:
            raise  # it is not there, or not to be read
        raise ValueError(f"{what}: {error or type(error).__name__}") from None


def _checked(path: Path, archive: zipfile.ZipFile) -> Checked:
    names = {f"{file}.tsv": file for file in SUBMITTED}
    found = []
    for info in archive.infolist():
        where = f"{path}, {printable(info.filename)}"
        if info.filename not in names:
            raise ValueError(f"{where}: there is no such file; they are {', '.join(names)}, flat")
        if names[info.filename] in found:
            raise ValueError(f"{where} is there twice")
        if info.file_size > MOST:
            raise ValueError(f"{where} has {info.file_size:,} bytes: it is none of GLUE's")
        with _naming_damage(f"{where} cannot be read"), archive.open(info) as file:
            content = file.read(MOST + 1)
        _check_file(where, content, *SUBMITTED[names[info.filename]])
        found.append(names[info.filename])
    if not found:
        raise ValueError(f"{path} is empty")
    return Checked(tuple(found), tuple(file for file in SUBMITTED if file not in found))


def _check_file(where: str, content: bytes, task: Sentences, test: Submitted) -> None:
    try:
        lines = content.decode("utf-8").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{where} is not UTF-8") from None
    if not lines or lines[0] != HEADING:
        raise ValueError(f"{where}:1: the heading must be index<TAB>prediction")
    if len(lines) != test.rows + 1:
        raise ValueError(
            f"{where} has {len(lines):,} lines with the heading, not {test.rows + 1:,}"
        )
    for number, line in enumerate(lines[1:]):
        index, _, said = line.partition("\t")
        if index != str(number):
            shown = printable(repr(index[:40]))
            raise ValueError(f"{where}:{number + 2}: the index is {shown}, not {number}")
        try:
            task.answer(said)
        except ValueError as error:
            raise ValueError(f"{where}:{number + 2}: the prediction is {error}") from None
