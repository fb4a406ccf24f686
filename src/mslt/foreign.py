"""What others wrote is data: JSON and YAML read within bounds, messages made safe to show.

A configuration, a tokenizer, a store, a run or a checkpoint may come from anywhere. Nothing in one
is executed or looked up elsewhere, none fills the memory, and every complaint names the file.
Imports no torch.
"""

import json
import math
from collections.abc import Hashable, Mapping
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin

import yaml

from mslt.files import require_regular

JSON_BYTES = 64 << 20  # a tokenizer.json of a million pieces has half of it
YAML_BYTES = 1 << 16  # a configuration takes two thousand
_SHOWN = 600  # characters of a message


def read_bytes(path: Path, most: int) -> bytes:
    """The content of a file.

    Args:
        path: the file.
        most: bytes.

    Raises:
        ValueError: it has more.
        OSError: it cannot be read, or is a pipe or a device, which might never end.
    """
    require_regular(path)
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise ValueError(f"{path} has more than {most >> 10:,} KB: it cannot be what it should be")
    return content


def read_json(path: Path) -> Any:
    """The content of a JSON file.

    Raises:
        ValueError: it is too large or no JSON; NaN and Infinity are none.
        OSError: it cannot be read.
    """
    return parse_json(read_bytes(path, JSON_BYTES), str(path))


def parse_json(content: bytes, where: str) -> Any:
    """What JSON says.

    Args:
        content: the text.
        where: what a complaint begins with.

    Raises:
        ValueError: it is no JSON; NaN and Infinity are none.
    """
    try:
        return json.loads(content, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError(f"{where} is damaged: it is nested too deep") from None
    except ValueError as error:
        raise ValueError(f"{where} is damaged: {error}") from None


def read_json_object(path: Path) -> dict[str, Any]:
    """The content of a JSON file that must hold an object.

    Raises:
        ValueError: it holds something else, is too large or no JSON.
        OSError: it cannot be read.
    """
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path} is damaged: it is no object of JSON")
    return content


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def read_yaml(path: Path) -> Any:
    """The content of a YAML file: plain values, each written once.

    Raises:
        ValueError: naming the line, where it is no YAML, has tags or aliases, or a key twice; or
            it is too large.
        OSError: it cannot be read.
    """
    content = read_bytes(path, YAML_BYTES)
    try:
        return yaml.load(content.decode(), Loader=_PlainLoader)
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ValueError(f"{path}{line}: {error.problem}") from None
    except RecursionError:
        raise ValueError(f"{path} is nested too deep") from None
    except (yaml.YAMLError, ValueError) as error:  # also a number that Python refuses to read
        raise ValueError(f"{path} is not a text of YAML: {error}") from None


class _PlainLoader(yaml.SafeLoader):
    """YAML without what makes a small file large, or anything but text and numbers of a text."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise _refused("aliases are not read here", event.start_mark)
        if event.tag is not None:
            raise _refused(f"tags are not read here: {event.tag}", event.start_mark)
        node = super().compose_node(parent, index)
        assert node is not None
        kind = node.tag.rpartition(":")[2]
        if kind not in _PLAIN:
            raise _refused(f"a {kind} is not read here: write it in quotes", node.start_mark)
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key.value, str):
                raise _refused("a key must be a word", key.start_mark)
            if key.value in seen:
                raise _refused(f"the key {key.value} is there twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


_PLAIN = ("null", "bool", "int", "float", "str", "seq", "map")


def _refused(problem: str, mark: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=mark)


def fits(value: Any, kind: Any) -> bool:
    """Whether a plain value is one of a type hint: text, numbers, lists of numbers, choices.

    A whole number is a number too, true and false are not, and nothing is infinite.
    """
    if get_origin(kind) is Literal:
        return value in get_args(kind) and isinstance(value, str)
    if get_origin(kind) is list:
        return isinstance(value, list) and all(fits(item, get_args(kind)[0]) for item in value)
    if get_args(kind):
        return any(fits(value, part) for part in get_args(kind))
    if kind is float:
        number = isinstance(value, int | float) and not isinstance(value, bool)
        return number and math.isfinite(value)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)


def require(values: Any, schema: Mapping[str, Any], where: str) -> None:
    """See that an object has the keys of a schema, and values of their types.

    Args:
        values: from JSON.
        schema: by key a type hint, or another schema.
        where: the file, which the complaint begins with.

    Raises:
        ValueError: naming the key.
    """
    if not isinstance(values, dict):
        raise ValueError(f"{where} is damaged: it is no object of JSON")
    for key, kind in schema.items():
        if key not in values:
            raise ValueError(f"{where} is damaged: it lacks {key}")
        if isinstance(kind, Mapping):
            require(values[key], kind, f"{key} in {where}")
        elif not fits(values[key], kind):
            raise ValueError(f"{where} is damaged: {key} is {values[key]!r}")


def require_name(name: str, where: str) -> None:
    """See that a name from a file is that of a file beside it, and leads nowhere else.

    Raises:
        ValueError: it has a slash in it, is hidden, or cannot be shown.
    """
    if not name or name.startswith(".") or {"/", "\\"} & set(name) or not name.isprintable():
        raise ValueError(f"{where} is damaged: {name!r} is no name of a file in its folder")


def wanted(kind: Any) -> str:
    """A type hint in the words of someone who types a value."""
    parts = get_args(kind)
    if get_origin(kind) is Literal:
        return " or ".join(filter(None, [", ".join(map(str, parts[:-1])), str(parts[-1])]))
    if NoneType in parts:
        return " or ".join([*(wanted(part) for part in parts if part is not NoneType), "null"])
    if kind == list[str]:
        return "names, as in one,other"
    if get_origin(kind) in (list, tuple):
        return "numbers, as in 50,5,5"
    return {int: "a whole number", float: "a number", bool: "true or false"}.get(kind, "a text")


def printable(text: str) -> str:
    """One line that a terminal shows as it is, whatever names and texts from files are in it.

    White space becomes single spaces, other characters that are not printed become escapes, and
    the middle of a long text is left out.
    """
    line = " ".join(text.split())
    if len(line) > _SHOWN:
        line = f"{line[: _SHOWN // 2]} ... {line[-_SHOWN // 2 :]}"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
