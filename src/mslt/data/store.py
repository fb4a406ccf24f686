"""The token store: a corpus of sentences, memory-mapped.

STORE/manifest.json          written last: counts, hashes, versions
      tokenizer/             tokenizer.json, tokenizer_config.json, vocab.txt
      unigrams.bin           uint64 [V], how often each piece occurs in train
      train/tokens.bin       uint16 or uint32, every sentence's pieces back to back
            sentences.bin    uint64 [sentences + 1], where each begins in tokens
            documents.bin    uint64 [documents + 1], where each begins in sentences
      heldout/               the same three
"""

import json
import random
import shutil
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mslt.files import block_sha256, sha256

FORMAT = 1
SHARD = "shard.json"  # stands in a folder of `mslt.data.shards` in the manifest's place
SPLITS = ("train", "heldout")
_OFFSETS = ("sentences", "documents")
_FILES = ("unigrams.bin", *(f"{s}/{n}.bin" for s in SPLITS for n in ("tokens", *_OFFSETS)))
_DTYPES = ("uint16", "uint32")
_FEWEST = 4  # documents: two on each side, so that a random next sentence has another document
_SENTENCES = 100_000  # copied at once
_TOKENS = 1 << 22  # counted at once
BLOCK = 1 << 26  # bytes, of which a large file has a hash each
SAMPLE = 1 << 30  # bytes of large files that are compared with their hashes before a run


@dataclass(frozen=True)
class Split:
    """One side of the train/held-out split. No special tokens are stored.

    Args:
        tokens: piece ids [tokens].
        sentences: where each sentence begins in `tokens`, and the end of the last [sentences + 1].
        documents: where each document begins in `sentences`, and the end of the last
            [documents + 1].
    """

    tokens: np.ndarray
    sentences: np.ndarray
    documents: np.ndarray

    @classmethod
    def open(cls, folder: Path, dtype: np.dtype) -> "Split":
        """Map the three files of a split into memory."""
        offsets = [_mapped(folder / f"{n}.bin", np.dtype(np.uint64)) for n in _OFFSETS]
        return cls(_mapped(folder / "tokens.bin", dtype), *offsets)


def _mapped(path: Path, dtype: np.dtype) -> np.ndarray:
    """A file as a read-only array; nothing is read until it is used."""
    if path.stat().st_size == 0:  # which the system cannot map
        return np.zeros(0, dtype)
    return np.memmap(path, dtype=dtype, mode="r")


@dataclass(frozen=True)
class TokenStore:
    """A prepared corpus.

    Args:
        path: its folder.
        manifest: the content of manifest.json.
        train: what is learned from.
        heldout: what is only measured on.
        unigrams: how often each piece occurs in train [V].
    """

    path: Path
    manifest: dict[str, Any]
    train: Split
    heldout: Split
    unigrams: np.ndarray

    @property
    def vocab_size(self) -> int:
        """Pieces that the tokenizer knows (V)."""
        return int(self.manifest["vocab_size"])

    @classmethod
    def open(cls, path: str | Path) -> "TokenStore":
        """Map the store into memory; nothing is read until it is used.

        Raises:
            ValueError: not a store, one of another format, a manifest that lacks something, or a
                file whose size is not the one that the manifest gives.
        """
        path = Path(path)
        manifest = _manifest(path)
        for name, entry in manifest["files"].items():
            size = (path / name).stat().st_size if (path / name).is_file() else -1
            if size != entry["bytes"]:
                raise ValueError(f"{path / name} is damaged: {size} bytes, not {entry['bytes']}")
        dtype = np.dtype(manifest["token_dtype"])
        splits = [Split.open(path / split, dtype) for split in SPLITS]
        unigrams = _mapped(path / "unigrams.bin", np.dtype(np.uint64))
        return cls(path, manifest, splits[0], splits[1], unigrams)

    @property
    def bytes(self) -> int:
        """Size of all files that the manifest names."""
        return sum(entry["bytes"] for entry in self.manifest["files"].values())

    def verify(self, at_most: int | None = SAMPLE) -> int:
        """Compare the files with the manifest's hashes.

        Args:
            at_most: bytes to read of the files that have several blocks, at least one block. Which
                blocks is drawn anew each time, so that many starts see more than one. None reads
                every file whole.

        Returns:
            The bytes that were compared; `open` has compared the size of all.

        Raises:
            ValueError: naming a file that is damaged.
        """
        compared = 0
        blocks: list[tuple[str, int]] = []
        for name, entry in self.manifest["files"].items():
            if at_most is not None and "blocks" in entry:
                blocks += [(name, number) for number in range(len(entry["blocks"]))]
                continue
            compared += entry["bytes"]
            if sha256(self.path / name) != entry["sha256"]:
                raise ValueError(
                    f"{self.path / name} is damaged: its SHA-256 is not the manifest's"
                )
        if at_most is not None and at_most < len(blocks) * BLOCK:
            blocks = sorted(random.sample(blocks, max(1, at_most // BLOCK)))
        for name, number in blocks:
            entry, begin = self.manifest["files"][name], number * BLOCK
            compared += min(BLOCK, entry["bytes"] - begin)
            if block_sha256(self.path / name, BLOCK, number) != entry["blocks"][number]:
                raise ValueError(
                    f"{self.path / name} is damaged: the SHA-256 of its {BLOCK >> 20} MB from byte "
                    f"{begin:,} on is not the manifest's"
                )
        return compared


def _manifest(path: Path) -> dict[str, Any]:
    """The content of a store's manifest.json, with all that opening and training need in it."""
    file = path / "manifest.json"
    if (path / SHARD).is_file():
        raise ValueError(f"{path} is a shard: mslt prepare --merge makes a store of all of them")
    if not file.is_file():
        raise ValueError(f"{path} is not a token store: it has no manifest.json (mslt prepare)")
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is damaged: {error}") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise ValueError(f"{file} is not a token store of format {FORMAT}")
    for key, kind in (("vocab_size", int), ("token_dtype", str), ("counts", dict), ("files", dict)):
        if not isinstance(manifest.get(key), kind):
            raise ValueError(f"{file} is damaged: it has no {key}")
    for name, entry in manifest["files"].items():
        if not isinstance(entry, dict) or not {"bytes", "sha256"} <= entry.keys():
            raise ValueError(f"{file} is damaged: it lacks the size or the hash of {name}")
        blocks = entry.get("blocks", ())
        if "blocks" in entry and not (
            isinstance(blocks, list) and len(blocks) == -(-entry["bytes"] // BLOCK)
        ):
            raise ValueError(f"{file} is damaged: it lacks the hash of a block of {name}")
    if manifest["token_dtype"] not in _DTYPES:
        raise ValueError(f"{file} is damaged: token_dtype is {manifest['token_dtype']!r}")
    if missing := [name for name in _FILES if name not in manifest["files"]]:
        raise ValueError(f"{file} is damaged: its files do not include {missing[0]}")
    return manifest


class SplitWriter:
    """The three files of a split, or of all documents before they are split.

    Args:
        folder: where to make them.
        goes_on: keep an end that comes before the first sentence: it ends the document that text
            before this one began.
    """

    def __init__(self, folder: Path, goes_on: bool = False) -> None:
        folder.mkdir()
        self._stack = ExitStack()  # closes all of them, also where closing one fails
        self._files = [
            self._stack.enter_context((folder / f"{name}.bin").open("wb"))
            for name in ("tokens", *_OFFSETS)
        ]
        self.tokens = self.sentences = self.documents = 0
        for file in self._files[1:]:
            file.write(bytes(8))  # the first sentence and the first document begin at 0
        self._ended = -1 if goes_on else 0

    def __enter__(self) -> "SplitWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add(self, tokens: bytes, lengths: np.ndarray, ends: np.ndarray) -> None:
        """Append sentences, and end documents among them; a document without sentences is dropped.

        Args:
            tokens: piece ids.
            lengths: pieces of each sentence, 1 or more.
            ends: after how many of these sentences a document ends, ascending.
        """
        places = np.unique(ends + np.int64(self.sentences))
        places = places[places > self._ended]
        offsets = self.tokens + np.cumsum(lengths, dtype=np.uint64)
        parts = (tokens, offsets.tobytes(), places.astype(np.uint64).tobytes())
        for file, part in zip(self._files, parts):
            file.write(part)
        self.tokens += int(np.sum(lengths))
        self.sentences += len(lengths)
        self.documents += len(places)
        self._ended = int(places[-1]) if len(places) else self._ended

    @property
    def counts(self) -> dict[str, int]:
        """As they stand in the manifest."""
        return {n: getattr(self, n) for n in ("documents", "sentences", "tokens")}


def write_splits(folder: Path, everything: Path, dtype: np.dtype, heldout: float) -> dict[str, Any]:
    """Split documents, every n-th of them held out, and remove where they were.

    Args:
        folder: of the store to be.
        everything: what a `SplitWriter` wrote.
        dtype: of the tokens.
        heldout: share of the documents, of which at least two go to each side.

    Returns:
        Counts for each split.

    Raises:
        ValueError: fewer than four documents.
    """
    source = Split.open(everything, dtype) if _documents(everything) >= _FEWEST else None
    if source is None:
        raise ValueError(
            f"too few documents have words in them, {_documents(everything)} where {_FEWEST} are "
            "the fewest: a blank line ends a document of a .txt file (--documents line or "
            "file changes that), and training takes random next sentences from other documents"
        )
    total = len(source.documents) - 1
    count = min(max(2, round(heldout * total)), total - 2)
    held = (2 * np.arange(count) + 1) * total // (2 * count)  # in the middle of equal shares
    with SplitWriter(folder / SPLITS[0]) as train, SplitWriter(folder / SPLITS[1]) as test:
        begin = 0
        for document in [*held.tolist(), total]:
            _copy(source, begin, document, train)
            _copy(source, document, min(document + 1, total), test)
            begin = document + 1
    shutil.rmtree(everything)
    return dict(zip(SPLITS, (train.counts, test.counts)))


def _documents(folder: Path) -> int:
    return (folder / "documents.bin").stat().st_size // 8 - 1


def _copy(source: Split, begin: int, end: int, writer: SplitWriter) -> None:
    """Append documents begin to end."""
    places = source.documents[begin : end + 1]
    _append(source, int(places[0]), int(places[-1]), places[1:], writer)


def join(texts: Iterable[Path], dtype: np.dtype, writer: SplitWriter) -> None:
    """Append text after text, each the folder of a `SplitWriter` that let documents go on."""
    for folder in texts:
        source = Split.open(folder, dtype)
        _append(source, 0, len(source.sentences) - 1, source.documents[1:], writer)


def _append(source: Split, first: int, last: int, ends: np.ndarray, writer: SplitWriter) -> None:
    """Append sentences first to last, among which documents end, a bounded number at a time."""
    for begin in range(first, max(last, first + 1), _SENTENCES):
        end = min(begin + _SENTENCES, last)
        offsets = source.sentences[begin : end + 1].astype(np.int64)
        low, high = np.searchsorted(ends, np.array([begin, end + 1], np.uint64))
        tokens = source.tokens[offsets[0] : offsets[-1]].tobytes()
        writer.add(tokens, np.diff(offsets), ends[low:high].astype(np.int64) - begin)


def write_unigrams(folder: Path, dtype: np.dtype, vocab_size: int) -> np.ndarray:
    """Count the pieces of the training text: uint64 [V]."""
    tokens = np.memmap(folder / SPLITS[0] / "tokens.bin", dtype=dtype, mode="r")
    counts = np.zeros(vocab_size, np.uint64)
    for begin in range(0, len(tokens), _TOKENS):
        block = np.bincount(tokens[begin : begin + _TOKENS], minlength=vocab_size)
        counts += block.astype(np.uint64)
    (folder / "unigrams.bin").write_bytes(counts.tobytes())
    return counts


def write_manifest(folder: Path, facts: dict[str, Any]) -> None:
    """Write manifest.json: the facts, and size and SHA-256 of every file that is there."""
    text = json.dumps(
        {"format": FORMAT, **facts, "files": hashes(folder)}, indent=2, allow_nan=False
    )
    (folder / "manifest.json").write_text(text + "\n", encoding="utf-8")


def hashes(folder: Path) -> dict[str, dict[str, Any]]:
    """Size and SHA-256 of every file in a folder, however deep, by its name from there.

    Of a file of more than one block, the SHA-256 of each block too.
    """
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        size = path.stat().st_size
        entry = found[path.relative_to(folder).as_posix()] = {"bytes": size, "sha256": sha256(path)}
        if size > BLOCK:
            numbers = range(-(-size // BLOCK))
            entry["blocks"] = [block_sha256(path, BLOCK, number) for number in numbers]
    return found
