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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

FORMAT = 1
SPLITS = ("train", "heldout")


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
        splits = [
            Split(
                tokens=np.memmap(path / split / "tokens.bin", dtype=dtype, mode="r"),
                sentences=np.memmap(path / split / "sentences.bin", dtype=np.uint64, mode="r"),
                documents=np.memmap(path / split / "documents.bin", dtype=np.uint64, mode="r"),
            )
            for split in SPLITS
        ]
        unigrams = np.fromfile(path / "unigrams.bin", dtype=np.uint64)
        return cls(path, manifest, splits[0], splits[1], unigrams)
