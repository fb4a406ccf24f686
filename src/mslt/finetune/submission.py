"""GLUE's submission: a zip of files index<TAB>prediction, written and checked. Imports no torch."""

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

from mslt.files import naming
from mslt.finetune.tasks import GLUE, Sentences, Submitted
from mslt.foreign import printable

HEADING = "index\tprediction"
MOST = 64 << 20  # bytes of a file; QQP's has 5 MB
FEWEST, HIGHEST = 0.0, 5.0  # of STS-B
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
        said = [f"{min(max(answer, FEWEST), HIGHEST):.3f}" for answer in answers]
    lines = [HEADING, *(f"{index}\t{text}" for index, text in enumerate(said))]
    return "\n".join(lines) + "\n"


def fill(task: Sentences, test: Submitted) -> str:
    """A file for a task without a model: the first label, or the middle, throughout."""
    return to_file(task, [0.0 if task.labels else (FEWEST + HIGHEST) / 2] * test.rows)


def write(out: Path, files: Mapping[str, str]) -> None:
    """Write a zip without folders.

    Args:
        out: the file, which must not exist.
        files: text by the names that GLUE gives them, without the ending.

    Raises:
        ValueError: the file exists.
        OSError: the disk is full or not writable.
    """
    if out.exists():
        raise ValueError(f"{out} exists already: choose another --out")
    temporary = out.with_name(f".{out.name}.tmp")
    with naming(out), zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(f"{name}.tsv", text)
    temporary.replace(out)


def check(path: Path) -> Checked:
    """Hold any zip against what GLUE's server takes.

    Raises:
        ValueError: naming file and line of what is wrong.
        OSError: it cannot be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            return _checked(path, archive)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError) as error:
        raise ValueError(f"{path} is no zip that can be read: {error}") from None


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
        with archive.open(info) as file:
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
        if not _is_answer(said, task):
            wanted = " or ".join(task.labels) or f"a number from {FEWEST:g} to {HIGHEST:g}"
            shown = printable(repr(said[:40]))
            raise ValueError(f"{where}:{number + 2}: the prediction is {shown}, not {wanted}")


def _is_answer(text: str, task: Sentences) -> bool:
    if task.labels:
        return text in task.labels
    try:
        value = float(text)
    except ValueError:
        return False
    return isfinite(value) and FEWEST <= value <= HIGHEST
