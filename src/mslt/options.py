"""Options from frozen dataclasses: jsonargparse reads them, one line says what is wrong.

Values are flat dictionaries of dotted keys, {"steps": 300, "model.hidden_size": 256}, so that a
recipe, a file and a command line are merged by `|`. Imports no torch.
"""

import difflib
import inspect
import json
import math
import re
from argparse import SUPPRESS, RawDescriptionHelpFormatter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

from jsonargparse import ArgumentError, ArgumentParser, DefaultHelpFormatter

from mslt import foreign

Values = dict[str, Any]

REFERENCE = "--reference"  # like --help, for mslt.reference

_TRUTHS = ("true", "false", "yes", "no", "null")


class _Help(RawDescriptionHelpFormatter, DefaultHelpFormatter):
    """jsonargparse's help, with the examples' lines as they were written."""


class Options:
    """What one command understands.

    Args:
        usage: its first line of help, which begins with the command's two words.
        says: what the command does.
        examples: command lines, shown below the options.
    """

    def __init__(self, usage: str, says: str, examples: Sequence[str] = ()) -> None:
        self.usage = usage
        self._parser = ArgumentParser(
            prog=" ".join(usage.split()[:2]),
            usage=usage,
            description=says,
            epilog="\n  ".join(["examples:", *examples]) if examples else None,
            formatter_class=_Help,
            exit_on_error=False,
            allow_abbrev=False,
        )
        self._said = (says, tuple(examples))
        self._rows: list[tuple[str, str, str, str, str]] = []  # group, name, kind, default, meaning
        self._own = self._parser.add_argument_group("this command")
        self._kinds: dict[str, Any] = {}
        self.fields: list[str] = []

    def positional(self, key: str, says: str, *, many: bool = False) -> None:
        """Accept a word without dashes, or several."""
        nargs = "*" if many else "?"
        self._rows.append(("", f"{key.upper()}{'...' if many else ''}", "", "", says))
        self._own.add_argument(key, nargs=nargs, metavar=key.upper(), help=says, default=SUPPRESS)

    def option(self, key: str, kind: Any, says: str, default: Any = SUPPRESS) -> None:
        """Accept --key VALUE, or --key alone where that says true."""
        self._add(self._own, key, kind, says, default)

    def add_fields(self, cls: type, prefix: str = "") -> None:
        """Accept every field of a dataclass, and of the dataclasses in it under dotted keys."""
        title = (cls.__doc__ or "").partition("\n")[0].rstrip(".")
        group = self._parser.add_argument_group(f"{prefix}: {title}" if prefix else title)
        kinds, docs = get_type_hints(cls), field_docs(cls)
        for field in fields(cls):
            key, kind = ".".join(filter(None, [prefix, field.name])), kinds[field.name]
            if is_dataclass(kind):
                self.add_fields(kind, key)  # type: ignore[arg-type]
                continue
            factory = field.default_factory
            default = factory() if factory is not MISSING else field.default
            self._add(group, key, kind, docs.get(field.name, ""), default)
            self.fields.append(key)

    def _add(self, group: Any, key: str, kind: Any, says: str, default: Any) -> None:
        action = group.add_argument(f"--{key}", type=kind, help=says, default=default)
        action.option_strings = [f"--{key}"]  # jsonargparse would show --key+ beside it for a list
        self._kinds[key] = kind
        shown = "" if default in (SUPPRESS, None) else json.dumps(default)
        own = group is self._own
        self._rows.append(
            ("" if own else group.title, f"--{key}", foreign.wanted(kind), shown, says)
        )

    def reference(self) -> str:
        """What the command understands, in Markdown."""
        says, examples = self._said
        lines = [f"## {self._parser.prog}", "", says, "", "```text", self.usage, "```"]
        group = None
        for title, name, kind, default, meaning in self._rows:
            if title != group:
                head = "| option | value | default | meaning |" if name else ""
                lines += ["", *([f"**{title}**", ""] if title else []), head, "|---|---|---|---|"]
                group = title
            cells = (f"`{name}`", kind, f"`{default}`" if default else "", meaning)
            lines.append(
                "| "
                + " | ".join(cell.replace("|", "\\|").replace("%%", "%") for cell in cells)
                + " |"
            )
        if examples:
            lines += ["", "```bash", *examples, "```"]
        return "\n".join(lines)

    def set_defaults(self, values: Values) -> None:
        """Show other defaults in the help."""
        self._parser.set_defaults(values)

    def parse(self, argv: Sequence[str]) -> Values:
        """What the command line gives, and nothing else: defaults are not filled in.

        Raises:
            ValueError: an unknown option, or a wrong value.
        """
        if list(argv) == [REFERENCE]:
            print(self.reference())
            raise SystemExit(0)
        words, raw = self._split(argv)
        try:
            parsed = self._parser.parse_args(
                [*words, *(f"--{key}={self._yaml(key, raw[key])}" for key in raw)], defaults=False
            )
        except ArgumentError as error:
            raise ValueError(self._reason(error, raw)) from None
        values = vars(parsed.as_flat()).items()
        return self._checked({k: v for k, v in values if k in raw or v not in (None, [])})

    def need(self, given: Values, key: str) -> Any:
        """The value that the command line gives.

        Raises:
            ValueError: it gives none.
        """
        if key not in given:
            name = f"--{key}" if key in self._kinds else key.upper()
            raise ValueError(f"{name} is missing: {self.usage}")
        return given[key]

    def read(self, path: Path) -> Values:
        """The fields that a YAML file gives; it may give some or all.

        Raises:
            ValueError: naming the file and the line or the key.
            OSError: it cannot be read.
        """
        tree = foreign.read_yaml(path)
        if not isinstance(tree, dict):
            raise ValueError(f"{path} gives no `key: value`")
        given: Values = {}
        for key, value in leaves(tree):
            if key not in self.fields:
                raise ValueError(f"{path}: unknown key {key}{did_you_mean(key, self.fields)}")
            if key in given:
                raise ValueError(f"{path}: the key {key} is there twice")
            given[key] = value
        try:
            parsed = self._parser.parse_object(unflatten(deepcopy(given)), defaults=False)
            values = vars(parsed.as_flat())
            return self._checked({key: values[key] for key in given})
        except ArgumentError as error:
            raise ValueError(f"{path}: {self._reason(error, given)}") from None
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None

    def _split(self, argv: Sequence[str]) -> tuple[list[str], dict[str, str]]:
        """The words without dashes (and --help), and the text of each option, by its key."""
        left, words = list(argv), []
        raw: dict[str, str] = {}
        while left:
            word = left.pop(0)
            if word in ("-h", "--help") or not word.startswith("-"):
                words.append(word)
                continue
            name, equals, text = word.partition("=")
            key = name.removeprefix("--").replace("-", "_")
            if key not in self._kinds:
                raise ValueError(f"unknown option {name}{did_you_mean(key, self._kinds, '--')}")
            kind = self._kinds[key]
            if not equals and bool in (kind, *get_args(kind)):
                text = left.pop(0) if left and left[0].lower() in _TRUTHS else "true"
            elif not equals and left and not left[0].startswith("--"):
                text = left.pop(0)
            if not text:
                raise ValueError(f"--{key} needs a value: {foreign.wanted(kind)}")
            repeated = list[str] in (kind, *get_args(kind)) and key in raw
            raw[key] = f"{raw[key]},{text}" if repeated else text
        return words, raw

    def _yaml(self, key: str, text: str) -> str:
        """1,2 as [1,2], where a list is wanted."""
        bare = _is_list(self._kinds[key]) and text != "null" and not text.startswith("[")
        return f"[{text}]" if bare else text

    def _reason(self, error: ArgumentError, raw: Mapping[str, Any]) -> str:
        """One line from jsonargparse's several."""
        text = " ".join(str(error).split())
        named = re.search(r'key "([\w.]+)"', text)
        if named is None or named[1] not in raw:
            return text
        return self._wrong(named[1], raw[named[1]])

    def _checked(self, values: Values) -> Values:
        """The same values; jsonargparse lets a null and an infinite number pass."""
        for key, value in values.items():
            missing = value is None and type(None) not in get_args(self._kinds.get(key))
            numbers = value if isinstance(value, list) else [value]
            if missing or any(isinstance(n, float) and not math.isfinite(n) for n in numbers):
                raise ValueError(self._wrong(key, value))
        return values

    def _wrong(self, key: str, value: Any) -> str:
        kind = self._kinds[key]
        shown = json.dumps(value) if isinstance(value, bool | None) else value
        hint = did_you_mean(str(shown), get_args(kind)) if _is_literal(kind) else ""
        return f"{key} must be {foreign.wanted(kind)}, not {shown}{hint}"


def field_docs(cls: type) -> dict[str, str]:
    """What the Args section of a dataclass's docstring says of each field."""
    docs: dict[str, str] = {}
    name = ""
    _, _, section = inspect.cleandoc(cls.__doc__ or "").partition("Args:\n")
    for line in section.splitlines():
        if not line.startswith("    "):
            break
        if match := re.match(r" {4}(\w+): (.*)", line):
            name, docs[match[1]] = match.groups()
        else:
            docs[name] += f" {line.strip()}"
    return docs


def flatten(tree: Mapping[Any, Any], prefix: str = "") -> Values:
    """{"model": {"hidden_size": 1}} as {"model.hidden_size": 1}."""
    return dict(leaves(tree, prefix))


def leaves(tree: Mapping[Any, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and their values."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def unflatten(values: Values) -> dict[str, Any]:
    """The inverse of `flatten`."""
    tree: dict[str, Any] = {}
    for key, value in values.items():
        *groups, name = key.split(".")
        node = tree
        for group in groups:
            node = node.setdefault(group, {})
        node[name] = value
    return tree


def did_you_mean(word: str, choices: Iterable[str], dashes: str = "") -> str:
    """`; did you mean ...?` with the nearest choice, or nothing where none is near.

    Of a dotted choice the last part is enough, and a first part brings the whole group to mind.
    """
    names = list(reversed(list(choices)))
    head, _, tail = word.rpartition(".")
    for near, candidates in (
        (word, {name: name for name in names}),
        (tail, {name.rpartition(".")[2]: name for name in names}),
        (head or tail, {name.partition(".")[0]: f"{name.partition('.')[0]}.*" for name in names}),
    ):
        if found := difflib.get_close_matches(near, candidates, n=1):
            return f"; did you mean {dashes}{candidates[found[0]]}?"
    return ""


def _is_literal(kind: Any) -> bool:
    return get_origin(kind) is Literal


def _is_list(kind: Any) -> bool:
    return any(get_origin(part) in (list, tuple) for part in (kind, *get_args(kind)))
