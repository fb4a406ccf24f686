"""Hostile files: what a store, a tokenizer, a run, a checkpoint or a model from others might hold.

All of it is data. None may be executed or looked up elsewhere, lead out of its folder or fill the
memory; each must be refused in one line that names the file, or taken as the plain data it is.
"""

import hashlib
import json
import pickle
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mslt.cli import main
from torture.cases import Case, campaign, good_text
from torture.kill import RUN

EXECUTED = "touch executed"  # what would leave the canary behind
RESUME = ("pretrain", "--resume", "--data", "../shared/store", "--out", "it")
EXPORT = ("export", "it", "--out", "out")
PREPARE = ("prepare", "../shared/text.txt", "--out", "out", "--tokenizer", "it")
TRAIN = ("pretrain", "bert_tiny_mslt", "--data", "it", "--out", "out")
STAGE = "stages/5-depth-4"
WEIGHTS = f"{STAGE}/model.safetensors"

Change = Callable[[Path], object]


class _Executes:
    """An object whose unpickling runs a program."""

    def __reduce__(self) -> tuple[Any, ...]:
        import os

        return os.system, (EXECUTED,)


def changed(what: str, change: Change) -> Callable[[Path], object]:
    """What makes a copy of something shared, changed; and the manifest beside it to match."""

    def make(path: Path) -> None:
        shutil.copytree(path.parents[1] / "shared" / what, path)
        change(path)

    return make


def written(name: str, content: bytes) -> Change:
    """Put a file in the place of another, and into the manifest beside it."""

    def change(path: Path) -> None:
        (path / name).write_bytes(content)
        _vouch(path / name)

    return change


def _vouch(file: Path) -> None:
    """Let the manifest beside a file say that the file is right, as a hostile one would."""
    manifest = file.with_name("manifest.json")
    if manifest.exists() and manifest != file:
        content = json.loads(manifest.read_bytes())
        content["sha256"][file.name] = hashlib.sha256(file.read_bytes()).hexdigest()
        manifest.write_text(json.dumps(content))


def merged(name: str, **values: Any) -> Change:
    """Change some values in a file of JSON."""

    def change(path: Path) -> None:
        content = json.loads((path / name).read_bytes()) | values
        (path / name).write_text(json.dumps(content))
        _vouch(path / name)

    return change


def manifest_names(name: str) -> Change:
    """Let a stage's manifest name a file that is elsewhere."""

    def change(path: Path) -> None:
        file = path / STAGE / "manifest.json"
        content = json.loads(file.read_bytes())
        content["sha256"][name] = "0" * 64
        file.write_text(json.dumps(content))

    return change


def appended(name: str, content: bytes) -> Change:
    """Add to a file's end."""

    def change(path: Path) -> None:
        with (path / name).open("ab") as file:
            file.write(content)

    return change


def linked(name: str, to: str) -> Change:
    """Put a link in the place of a file."""

    def change(path: Path) -> None:
        (path / name).unlink()
        (path / name).symlink_to(to)

    return change


def tensors(header: dict[str, Any], size: int | None = None) -> bytes:
    """A file of safetensors with a header of one's own, and without anything behind it."""
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text


_OBJECT = pickle.dumps(_Executes())
_YAML = f"steps: !!python/object/apply:os.system ['{EXECUTED}']\n".encode()
_LAUGHS = b"a: &a [x, x]\n" + b"".join(
    b"b%d: &b%d [*%s, *%s]\n" % (i, i, n, n)
    for i, n in enumerate([b"a", *(b"b%d" % i for i in range(30))])
)
_HUGE = {"x": {"dtype": "F32", "shape": [1 << 40], "data_offsets": [0, 1 << 42]}}

# Name, words, what is changed of what, and what the refusal must say; nothing, where it is taken.
ROWS: list[tuple[str, tuple[str, ...], str, Change, str]] = [
    ("a pickle for weights", EXPORT, "run", written(WEIGHTS, _OBJECT), "model.safetensors"),
    (
        "a header of 2^63 bytes",
        EXPORT,
        "run",
        written(WEIGHTS, tensors({}, 1 << 63)),
        "model.safetensors",
    ),
    (
        "a tensor of four terabytes",
        EXPORT,
        "run",
        written(WEIGHTS, tensors(_HUGE)),
        "model.safetensors",
    ),
    (
        "a model of a billion layers",
        EXPORT,
        "run",
        merged(f"{STAGE}/state.json", depth=10**9),
        STAGE,
    ),
    ("a manifest that leads out", EXPORT, "run", manifest_names("../../../../secret"), "manifest"),
    ("a manifest with a root path", EXPORT, "run", manifest_names("/etc/passwd"), "manifest"),
    ("code in a run's config", RESUME, "run", written("config.yaml", _YAML), "config.yaml, line 1"),
    (
        "a billion laughs in a config",
        RESUME,
        "run",
        written("config.yaml", _LAUGHS),
        "config.yaml, line 2: aliases",
    ),
    (
        "a config nested 100,000 deep",
        RESUME,
        "run",
        written("run.json", b"[" * 100_000),
        "run.json is damaged",
    ),
    (
        "numbers of 5,000 digits in the facts",
        RESUME,
        "run",
        written("run.json", b'{"data": ' + b"7" * 5000 + b"}"),
        "run.json is damaged",
    ),
    (
        "a store at an address of the network",
        ("pretrain", "--resume", "--out", "it"),
        "run",
        merged("run.json", data="http://192.0.2.1/store"),
        "192.0.2.1",
    ),
    (
        "a line of the metrics that is none",
        RESUME,
        "run",
        appended("metrics.jsonl", b'{"kind": "\x1b[2J", "step": "x"}\n'),
        "metrics.jsonl, line",
    ),
    (
        "endless facts",
        RESUME,
        "run",
        linked("run.json", "/dev/zero"),
        "run.json is no regular file",
    ),
    (
        "a tokenizer.json of a pickle",
        PREPARE,
        "store/tokenizer",
        written("tokenizer.json", _OBJECT),
        "tokenizer.json",
    ),
    (
        "a tokenizer with code of its own",
        PREPARE,
        "store/tokenizer",
        merged("tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.py", None]}),
        "",
    ),
    (
        "a store's manifest that leads out",
        TRAIN,
        "store",
        merged("manifest.json", files={"../../secret": {"bytes": 1, "sha256": "0" * 64}}),
        "manifest.json",
    ),
    (
        "a store of 2^60 pieces",
        TRAIN,
        "store",
        merged("manifest.json", vocab_size=1 << 60),
        "model.vocab_size must be",
    ),
    (
        "tokens that are an endless device",
        TRAIN,
        "store",
        linked("train/tokens.bin", "/dev/zero"),
        "tokens.bin",
    ),
]
CASES = [
    Case(name, words, {"it": changed(what, change)}, says)
    for name, words, what, change, says in ROWS
]


def setting(folder: Path) -> None:
    """The text, a store of it, and a run that has ended."""
    (folder / "text.txt").write_bytes(good_text(120))
    words = f"prepare {folder / 'text.txt'} --out {folder / 'store'} --workers 1"
    assert main(f"{words} --vocab_size 120 --heldout 0.1".split()) == 0
    run = ["pretrain", "bert_base_mslt", "--data", str(folder / "store")]
    assert main([*run, "--out", str(folder / "run"), *RUN]) == 0


if __name__ == "__main__":
    sys.exit(campaign("hostile", CASES, setting))
