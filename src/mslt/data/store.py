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
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mslt.files import sha256

FORMAT = 1
SPLITS = ("train", "heldout")
_OFFSETS = ("sentences", "documents")
_FEWEST = 4  # documents: two on each side, so that a random next sentence has another document
_SENTENCES = 100_000  # copied at once
_TOKENS = 1 << 22  # counted at once


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
        offsets = [np.memmap(folder / f"{n}.bin", dtype=np.uint64, mode="r") for n in _OFFSETS]
        return cls(np.memmap(folder / "tokens.bin", dtype=dtype, mode="r"), *offsets)


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
            ValueError: not a store, one of another format, or a file whose size is not the one
                that the manifest gives.
        """
        path = Path(path)
        manifest_path = path / "manifest.json"
        if not manifest_path.is_file():
            raise ValueError(f"{path} is not a token store: it has no manifest.json (mslt prepare)")
        try:
            manifest = json.loads(manifest_path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{manifest_path} is damaged: {error}") from None
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            raise ValueError(f"{manifest_path} is not a token store of format {FORMAT}")
        for name, entry in manifest["files"].items():
            size = (path / name).stat().st_size if (path / name).is_file() else -1
            if size != entry["bytes"]:
                raise ValueError(f"{path / name} is damaged: {size} bytes, not {entry['bytes']}")
        dtype = np.dtype(manifest["token_dtype"])
        splits = [Split.open(path / split, dtype) for split in SPLITS]
        unigrams = np.fromfile(path / "unigrams.bin", dtype=np.uint64)
        return cls(path, manifest, splits[0], splits[1], unigrams)


class SplitWriter:
    """The three files of a split, or of all documents before they are split.

    Args:
        folder: where to make them.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._files = [(folder / f"{name}.bin").open("wb") for name in ("tokens", *_OFFSETS)]
        self.tokens = self.sentences = self.documents = 0
        for file in self._files[1:]:
            file.write(bytes(8))  # the first sentence and the first document begin at 0
        self._ended = 0

    def __enter__(self) -> "SplitWriter":
        return self

    def __exit__(self, *_: object) -> None:
        for file in self._files:
            file.close()

    def add(self, tokens: bytes, lengths: np.ndarray, ends: np.ndarray) -> None:
        """Append sentences, and end documents among them; a document without sentences is dropped.

        Args:
            tokens: piece ids.
            lengths: pieces of each sentence, 1 or more.
            ends: after how many of these sentences a document ends, ascending.
        """
        places = np.unique(ends + np.int64(self.sentences)).astype(np.uint64)
        places = places[places > self._ended]
        offsets = self.tokens + np.cumsum(lengths, dtype=np.uint64)
        for file, part in zip(self._files, (tokens, offsets.tobytes(), places.tobytes())):
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
    """Append documents begin to end, a bounded number of sentences at a time."""
    places = source.documents[begin : end + 1].astype(np.int64)
    for first in range(int(places[0]), int(places[-1]), _SENTENCES):
        last = min(first + _SENTENCES, int(places[-1]))
        offsets = source.sentences[first : last + 1].astype(np.int64)
        ends = places[(places > first) & (places <= last)] - first
        writer.add(source.tokens[offsets[0] : offsets[-1]].tobytes(), np.diff(offsets), ends)


def write_unigrams(folder: Path, dtype: np.dtype, vocab_size: int) -> np.ndarray:
    """Count the pieces of the training text: uint64 [V]."""
    tokens = np.memmap(folder / SPLITS[0] / "tokens.bin", dtype=dtype, mode="r")
    counts = np.zeros(vocab_size, np.uint64)
    for begin in range(0, len(tokens), _TOKENS):
        block = np.bincount(tokens[begin : begin + _TOKENS], minlength=vocab_size)
        counts += block.astype(np.uint64)
    counts.tofile(folder / "unigrams.bin")
    return counts


def write_manifest(folder: Path, facts: dict[str, Any]) -> None:
    """Write manifest.json: the facts, and size and SHA-256 of every file that is there."""
    files = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        entry = {"bytes": path.stat().st_size, "sha256": sha256(path)}
        files[path.relative_to(folder).as_posix()] = entry
    text = json.dumps({"format": FORMAT, **facts, "files": files}, indent=2, allow_nan=False)
    (folder / "manifest.json").write_text(text + "\n", encoding="utf-8")
