"""The demo corpus: English prose that every installation has, in the docstrings of its packages.

Files are read, nothing is imported. One document per module. Of each docstring the sentences of
plain words are kept; code, tables, signatures and markup are left out, and so is a paragraph that
another docstring has too.
"""

import os
import re
import sysconfig
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from inspect import cleandoc
from multiprocessing import get_context
from pathlib import Path

from mslt.children import ctrl_c_waits
from mslt.data.sentences import sentences
from mslt.data.workers import cores

_SKIPPED = {"__pycache__", "site-packages", "dist-packages", "test", "tests", "_vendor"}
_FILE_BYTES = 1_000_000  # a larger module is generated
_PACKAGE_BYTES = 10_000_000  # of source, the public modules first

# Lines of a docstring that end a paragraph and belong to none: headings with their rules, code,
# directives, and parameters with their types.
_APART = re.compile(
    r"""^[ \t]*(?:
        .*\n[ \t]*([=\-~^*+])\1{2,}[ \t]*$
        | (?:>>>|\.\.\.|\$|%|\#|In\ \[|\|).*$
        | \.\.\ .*$
        | [\w*`,. ]{1,40}\ :\ .*(?<![.!?])$
        | [A-Z][\w ]{0,30}:$
        | .*::$
    )""",
    re.MULTILINE | re.VERBOSE,
)
# What stands before the text of a list item or a parameter.
_LEAD = re.compile(
    r"""^[ \t]*(?:
        [-*•+]\ | \(?[0-9a-z]{1,2}[.)]\ 
        | :\w[^:\n]*:
        | [`*]*\w[\w.]*[`*]*(?:\ ?\([^)\n]*\))?\ ?:(?=\s)
        | [`*]*\w[\w.]*[`*]*\ --?\ 
    )[ \t]*""",
    re.MULTILINE | re.VERBOSE,
)
_ROLE = re.compile(r":[\w:+-]+:`~?(?:\w+\.)*([^`<]*?)(?:\s*<[^`>]*>)?`")
_LINK = re.compile(r"`([^`<]+?)(?:\s*<[^`>]+>)?`_{1,2}")
_OTHER = re.compile("[^a-z]+")
_BLANK = re.compile(r"\n\s*\n")

_PLAIN = r"[(\"'“‘]*+(?:[A-Za-z]++(?:['’-][A-Za-z]++)*+|\d++(?:[.,]\d++)*+%?)[)\"'”’]*+[,;:]?"
_PROSE = re.compile(rf"(?=[\"'“‘(]?[A-Z])(?:(?:{_PLAIN}|--?|[–—])[ ]){{4,}}+{_PLAIN}[.!?][)\"'”’]*")


def prose(docstring: str) -> list[str]:
    """The paragraphs of a docstring, each reduced to its sentences of at least five plain words."""
    text = cleandoc(docstring)
    text = _LEAD.sub("\n\n", _APART.sub("\n\n", text))
    if "`" in text:
        text = _LINK.sub(r"\1", _ROLE.sub(r"\1", text)).replace("`", "")
    found = []
    for block in _BLANK.split(text):
        if "." in block or "!" in block or "?" in block:
            joined = " ".join(map(str.strip, block.split("\n")))  # columns keep their gaps
            kept = [s for s in sentences(joined) if _PROSE.fullmatch(s)]
            if kept:
                found.append(" ".join(kept))
    return found


def docstrings(source: str) -> Iterator[str]:
    """Strings in triple double quotes that begin a line; parsing the code would take minutes."""
    parts = source.split('"""')
    for before, string in zip(parts[::2], parts[1::2]):
        line = before[before.rfind("\n") + 1 :]
        if line.strip(" \trRuU") == "":
            yield string


@cache
def documents() -> list[list[str]]:
    """The paragraphs of each module that has some, the standard library first, then by path."""
    paths = [path for root in _roots() for package in _packages(root) for path in package]
    found: list[list[str]] = []
    seen: set[str] = set()
    for paragraphs in _read(paths):
        fresh = []
        for paragraph in paragraphs:
            letters = _OTHER.sub("", paragraph.lower())
            if letters not in seen:
                seen.add(letters)
                fresh.append(paragraph)
        if fresh:
            found.append(fresh)
    return found


def _roots() -> list[Path]:
    """The standard library and where packages are installed."""
    names = ("stdlib", "purelib", "platlib")
    return list(dict.fromkeys(Path(sysconfig.get_path(name)) for name in names))


def _packages(root: Path) -> Iterator[list[Path]]:
    """The modules of each package, by path; of a large one, the public part of it first."""
    packages: dict[str, list[Path]] = {}
    for folder, names, files in os.walk(root):
        names[:] = sorted(name for name in names if name not in _SKIPPED)
        inside = Path(folder).relative_to(root).parts
        name = inside[0] if inside else ""
        modules = [Path(folder, file) for file in sorted(files) if file.endswith(".py")]
        packages.setdefault(name, []).extend(modules)
    for name in sorted(packages):
        modules = sorted(packages[name], key=lambda path: (_is_private(path, root), path))
        yield sorted(_affordable(modules))


def _affordable(modules: list[Path]) -> Iterator[Path]:
    size = 0
    for path in modules:
        try:
            count = path.stat().st_size
        except OSError:  # a link that leads nowhere
            continue
        if count <= _FILE_BYTES and size + count <= _PACKAGE_BYTES:
            size += count
            yield path


def _is_private(path: Path, root: Path) -> bool:
    parts = path.relative_to(root).parts
    return any(part.startswith("_") and part != "__init__.py" for part in parts)


def _read(paths: list[Path]) -> Iterator[list[str]]:
    """The prose of each module, found by all cores."""
    if cores() == 1:
        yield from map(_module, paths)
        return
    pool = ProcessPoolExecutor(cores(), get_context("spawn"))
    try:
        with ctrl_c_waits():
            found = pool.map(_module, paths, chunksize=64)
        yield from found
    finally:
        pool.shutdown(cancel_futures=True)


def _module(path: Path) -> list[str]:
    try:
        source = path.read_bytes().decode(errors="replace")
    except OSError:
        return []
    return [paragraph for string in docstrings(source) for paragraph in prose(string)]
