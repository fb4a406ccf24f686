"""Preparation on many machines: each makes a shard of the text, and one merges them into the store.

SHARD/shard.json      written last: which of how many, what the manifest will say, hashes
      tokenizer/      as in the store, the same in all shards
      text/           tokens.bin, sentences.bin and documents.bin, as in a split

The merged store is the one that a single machine would have made, bit for bit: shards are
consecutive, meet between two lines wherever that may be in a document, and know the lines' numbers.
"""

import hashlib
import json
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from mslt.data.prepare import TEXT, PrepareConfig, complete, repaired, summary, write_text
from mslt.data.sources import Source, find
from mslt.data.store import SHARD, SplitWriter, TokenStore, hashes, join
from mslt.data.text import PLACES
from mslt.files import appearing, sha256

FORMAT = 1
PART = 1 << 20  # bytes: parts of a file begin at multiples of it
_TOKENIZER = ("tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json", "tokenizer/vocab.txt")
_FILES = (*_TOKENIZER, *(f"{TEXT}/{name}.bin" for name in ("tokens", "sentences", "documents")))


@dataclass(frozen=True)
class Shard:
    """A shard that has been made.

    Args:
        path: its folder.
        index: from 1 to `count`.
        count: of how many it is one.
        facts: what the manifest would say, as far as this shard knows.
        files: size and SHA-256 of each file.
    """

    path: Path
    index: int
    count: int
    facts: dict[str, Any]
    files: dict[str, dict[str, Any]]


def parse(text: str) -> tuple[int, int]:
    """`2/3` as (2, 3).

    Raises:
        ValueError: it is something else.
    """
    match = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    index, count = map(int, match.groups()) if match else (0, 0)
    if not 1 <= index <= count:
        raise ValueError(f"shard must be I/N with I from 1 to N, as in 1/8, not {text}")
    return index, count


def share(sources: Sequence[Source], index: int, count: int) -> list[Source | None]:
    """What a shard is to read of each source, or None where that is nothing.

    The sources' bytes, one after the other, are divided evenly. Plain .txt and .jsonl files are cut
    where that falls, other sources go whole to the shard in which they begin.
    """
    sizes = [max(1, source.bytes) for source in sources]
    edges = [sum(sizes) * number // count for number in (index - 1, index)]
    parts: list[Source | None] = []
    place = 0
    for source, size in zip(sources, sizes):
        step = PART if source.has_parts else size
        begin, end = (min(max(0, -(-(edge - place) // step) * step), size) for edge in edges)
        part = replace(source, begin=begin, end=None if end == size else end)
        parts.append(part if begin < end else None)
        place += size
    return parts


def prepare_shard(
    sources: Sequence[str],
    out: str | Path,
    index: int,
    count: int,
    config: PrepareConfig | None = None,
    progress: bool = True,
) -> Path:
    """Make one of `count` shards.

    Args:
        sources: of all shards, as `prepare` takes them.
        out: the shard's folder, which must not exist.
        index: from 1 to `count`.
        count: shards in all.
        config: the options, the same for all shards. Without a tokenizer, every shard learns the
            same vocabulary, for which it reads all sources.
        progress: show how far it is, and a summary at the end.

    Raises:
        ValueError: a source, the tokenizer or a line of text is not what it must be.
        OSError: the disk is full or not writable. In either case nothing is left of the shard.
    """
    config, out = config or PrepareConfig(), Path(out)
    found = find(sources)
    parts = share(found, index, count)
    with appearing(out) as folder:
        facts, took = write_text(folder, found, parts, config, progress, goes_on=True)
        shard = {"index": index, "count": count, "facts": facts, "files": hashes(folder)}
        text = json.dumps({"format": FORMAT, "shard": shard, "sha256": _digest(shard)}, indent=2)
        (folder / SHARD).write_text(text + "\n", encoding="utf-8")
    if progress:
        lines = [f"{out}: shard {index} of {count}", *repaired(facts), took]
        print("\n  ".join(lines), flush=True)
    return out


def merge(folders: Sequence[str | Path], out: str | Path, progress: bool = True) -> TokenStore:
    """Make the store that `prepare` would have made of the same sources.

    Args:
        folders: of all shards, in any order.
        out: the store's folder, which must not exist.
        progress: show a summary at the end.

    Raises:
        ValueError: naming a shard that is missing, there twice, damaged, or made of other sources,
            with other options or with another tokenizer than the others.
        OSError: the disk is full or not writable. In either case nothing is left of the store.
    """
    start = time.perf_counter()
    shards = _complete_set([read(Path(folder)) for folder in folders])
    for shard in shards[1:]:
        _refuse_another_kind(shards[0], shard)
    facts = {**shards[0].facts, "sources": _sources(shards), "repairs": _repairs(shards)}
    with appearing(Path(out)) as folder:
        for shard in shards:
            _verify(shard)
        (folder / "tokenizer").mkdir()
        for name in _TOKENIZER:
            (folder / name).write_bytes((shards[0].path / name).read_bytes())
        with SplitWriter(folder / TEXT) as writer:
            join([shard.path / TEXT for shard in shards], np.dtype(facts["token_dtype"]), writer)
        complete(folder, facts)
    store = TokenStore.open(out)
    if progress:
        seconds = time.perf_counter() - start
        print(f"{summary(store)}\n  {len(shards)} shards merged in {seconds:.1f} s", flush=True)
    return store


def read(path: Path) -> Shard:
    """A shard, of which only shard.json has been read and checked.

    Raises:
        ValueError: it is no shard, or damaged.
    """
    file = path / SHARD
    if not file.is_file():
        raise ValueError(f"{path} is no shard: it has no {SHARD} (mslt prepare --shard)")
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        shard = told["shard"]
        if told["format"] != FORMAT:
            raise ValueError(f"it is not of format {FORMAT}")
        if told["sha256"] != _digest(shard):
            raise ValueError("its content is not that of its SHA-256")
        if set(shard["files"]) != set(_FILES):
            raise ValueError("it does not name the files of a shard")
        return Shard(path, **shard)
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{file} is damaged: {error}") from None


def _digest(shard: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(shard, sort_keys=True).encode()).hexdigest()


def _complete_set(shards: Sequence[Shard]) -> list[Shard]:
    """The shards in their order, each there once."""
    if not shards:
        raise ValueError("no shard is given")
    count = shards[0].count
    by_index: dict[int, Shard] = {}
    for shard in shards:
        if shard.count != count:
            raise ValueError(
                f"{shard.path} is shard {shard.index} of {shard.count}, "
                f"but {shards[0].path} is one of {count}"
            )
        if shard.index in by_index:
            first = by_index[shard.index].path
            raise ValueError(f"{first} and {shard.path} are both shard {shard.index} of {count}")
        by_index[shard.index] = shard
    if missing := [f"{index}/{count}" for index in range(1, count + 1) if index not in by_index]:
        more = f" and {len(missing) - 10} more" if len(missing) > 10 else ""
        which = ", ".join(missing[:10]) + more
        raise ValueError(f"not all shards are given: {which} missing")
    return [by_index[index] for index in range(1, count + 1)]


def _refuse_another_kind(first: Shard, other: Shard) -> None:
    """Let only shards of the same preparation be merged."""
    texts = [
        [f"{source['name']} ({source['bytes']:,} bytes)" for source in shard.facts["sources"]]
        for shard in (first, other)
    ]
    for ours, theirs in zip_longest(*texts, fillvalue="nothing more"):
        if ours != theirs:
            raise ValueError(
                f"{other.path} was made of other sources than {first.path}: {theirs}, not {ours}"
            )
    for kind in ("options", "versions"):
        for name, value in first.facts[kind].items():
            if other.facts[kind].get(name) != value:
                raise ValueError(
                    f"{other.path} was made with {name} {other.facts[kind].get(name)}, "
                    f"but {first.path} with {value}"
                )
    for name in _TOKENIZER:
        if first.files[name] != other.files[name]:
            raise ValueError(f"{other.path} was made with another tokenizer than {first.path}")


def _verify(shard: Shard) -> None:
    for name, entry in shard.files.items():
        file = shard.path / name
        if not file.is_file():
            raise ValueError(f"{file} is missing: make shard {shard.index}/{shard.count} again")
        if sha256(file) != entry["sha256"]:
            raise ValueError(
                f"{file} is damaged: its SHA-256 is not that in {SHARD}; make shard "
                f"{shard.index}/{shard.count} again"
            )


def _sources(shards: Sequence[Shard]) -> list[dict[str, Any]]:
    """Each source with its hash, on which all shards that have read some of it agree."""
    agreed = []
    for entries in zip(*(shard.facts["sources"] for shard in shards)):
        (first, entry), *others = [p for p in zip(shards, entries) if "sha256" in p[1]]
        for shard, other in others:
            if other != entry:
                raise ValueError(
                    f"{shard.path} was made of another {entry['name']} than {first.path}"
                )
        agreed.append(entry)
    return agreed


def _repairs(shards: Iterable[Shard]) -> dict[str, dict[str, Any]]:
    """Counts and first places over all shards, which come in the order of the text."""
    merged: dict[str, dict[str, Any]] = {}
    for shard in shards:
        for what, found in shard.facts["repairs"].items():
            entry = merged.setdefault(what, {"count": 0, "first": []})
            entry["count"] += found["count"]
            places = dict.fromkeys([*entry["first"], *found["first"]])
            entry["first"] = list(places)[:PLACES]
    return dict(sorted(merged.items()))
