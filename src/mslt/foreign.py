"""What others wrote is data: JSON and YAML read within bounds, messages made safe to show.

A configuration, a tokenizer, a store, a run or a checkpoint may come from anywhere. Nothing in one
is executed or looked up elsewhere, none fills the memory, and every complaint names the file.
Imports no torch.
"""

import json
from collections.abc import Hashable
from pathlib import Path
from typing import Any

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
    content = read_bytes(path, JSON_BYTES)
    try:
        return json.loads(content, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError(f"{path} is damaged: it is nested too deep") from None
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from None


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


def printable(text: str) -> str:
    """One line that a terminal shows as it is, whatever names and texts from files are in it.

    White space becomes single spaces, other characters that are not printed become escapes, and
    the middle of a long text is left out.
    """
    line = " ".join(text.split())
    if len(line) > _SHOWN:
        line = f"{line[: _SHOWN // 2]} ... {line[-_SHOWN // 2 :]}"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
