"""Text to a token store: `mslt prepare`. Imports no torch, in the workers least of all.

One process reads, cleans and cuts the text into chunks; workers segment and tokenize them; the
first one writes what they give back, in order, so that their number changes nothing in the store.
"""

import hashlib
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer

import mslt
from mslt.data import tokenizer as tokenizers
from mslt.data import vocabulary
from mslt.data.progress import Progress
from mslt.data.sources import Documents, Reading, Source, find, paragraphs
from mslt.data.store import (
    SplitWriter,
    TokenStore,
    write_manifest,
    write_splits,
    write_unigrams,
)
from mslt.data.text import BadText, Repairs
from mslt.data.workers import Chunk, cores, encoded
from mslt.files import appearing, sha256

TEXT = "text"  # the folder of all documents, before they are split

_CHUNK = 250_000  # characters for a worker at a time
_SMALL = 1_000_000  # bytes
_LEARNED = {"vocab_size": 30522, "alphabet": 10_000}  # where neither they nor a tokenizer is given


@dataclass(frozen=True)
class PrepareConfig:
    """How text becomes a token store.

    Args:
        tokenizer: a vocab.txt, a tokenizer.json or a Hugging Face folder to use. Without it, a
            WordPiece vocabulary is learned from the text: from up to 50 million characters, spread
            evenly over it (over its beginning, for hf:).
        vocab_size: most pieces of the vocabulary that is learned; 30522 where it is not given.
        lowercase: drop case, unless false is given. A tokenizer.json or tokenizer_config.json
            says this itself.
        strip_accents: drop accents, likewise; where it is not given, as lowercase.
        alphabet: most distinct characters in the vocabulary that is learned, 10000 where it is
            not given; text with others becomes [UNK]. Chinese and Japanese need thousands.
        heldout: share of the documents that is kept out of training, to measure on: at least two.
        documents: what ends a document in .txt: a blank_line, every line, or the end of the file.
        text_field: what holds the text in .jsonl, .parquet and hf:.
        on_bad_text: strict stops at bad text; replace mends it where it can (a space for bad
            bytes and NUL, a long line cut) and drops it elsewhere; skip drops it.
        workers: processes that tokenize; 0 takes every core.
    """

    tokenizer: str | None = None
    vocab_size: int | None = None
    lowercase: bool | None = None
    strip_accents: bool | None = None
    alphabet: int | None = None
    heldout: float = 0.01
    documents: Documents = "blank_line"
    text_field: str = "text"
    on_bad_text: BadText = "strict"
    workers: int = 0

    def __post_init__(self) -> None:
        for name, least in (("vocab_size", 100), ("alphabet", 1), ("workers", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"{name} must be {least} or more, not {value}")
        for name in _LEARNED:
            if self.tokenizer is not None and getattr(self, name) is not None:
                raise ValueError(f"{name} has no effect beside tokenizer: no vocabulary is learned")
        if not 0 < self.heldout < 1:
            raise ValueError(f"heldout must be in (0, 1), not {self.heldout}")
        for name, choices in (
            ("documents", ("blank_line", "line", "file")),
            ("on_bad_text", ("strict", "replace", "skip")),
        ):
            if getattr(self, name) not in choices:
                wanted = ", ".join(choices)
                raise ValueError(f"{name} must be one of {wanted}, not {getattr(self, name)!r}")


def prepare(
    sources: Sequence[str],
    out: str | Path,
    config: PrepareConfig | None = None,
    progress: bool = True,
) -> TokenStore:
    """Make a token store.

    In a script, call it below `if __name__ == "__main__":`, as workers import the script.

    Args:
        sources: files, folders, `pydocs` or `hf:NAME[,CONFIG][,SPLIT]`.
        out: the store's folder, which must not exist.
        config: the options.
        progress: show how far it is, and a summary at the end.

    Raises:
        ValueError: a source, the tokenizer or a line of text is not what it must be.
        OSError: the disk is full or not writable. In either case nothing is left of the store.
    """
    config = config or PrepareConfig()
    found = find(sources)
    with appearing(Path(out)) as folder:
        facts, took = write_text(folder, found, found, config, progress)
        complete(folder, facts)
    store = TokenStore.open(out)
    if progress:
        print(f"{summary(store)}\n  {took}", flush=True)
    return store


def write_text(
    folder: Path,
    found: Sequence[Source],
    parts: Sequence[Source | None],
    config: PrepareConfig,
    progress: bool,
    goes_on: bool = False,
) -> tuple[dict[str, Any], str]:
    """Write the tokenizer, and the text of all sources or of parts of them, documents not split.

    Args:
        folder: what will be the store or the shard.
        found: all sources, from which a vocabulary is learned.
        parts: what is meant of each source, or None where nothing is.
        config: the options.
        progress: show how far it is.
        goes_on: the text may begin within a document.

    Returns:
        What the manifest says of it, and how long it took in words.
    """
    start = time.perf_counter()
    tokenizer = _tokenizer(found, config, progress)
    tokenizers.save(tokenizer, folder / "tokenizer")
    learned = time.perf_counter()
    reading, hashes, tokens = _encode(folder, parts, config, progress, goes_on)
    seconds = time.perf_counter() - learned
    facts = {
        "vocab_size": tokenizer.get_vocab_size(),
        "token_dtype": tokenizers.token_dtype(tokenizer.get_vocab_size()).name,
        "special_ids": {name: tokenizer.token_to_id(name) for name in tokenizers.SPECIAL},
        "sources": [
            {"name": source.name, "bytes": source.bytes, **digest}
            for source, digest in zip(found, hashes)
        ],
        "options": _applied(config, tokenizer),
        "repairs": reading.repairs.facts(),
        "versions": _versions(),
    }
    rate = f"{tokens / seconds:,.0f} tokens/s"
    return facts, f"vocabulary in {learned - start:.1f} s, text in {seconds:.1f} s ({rate})"


def complete(folder: Path, facts: dict[str, Any]) -> None:
    """Make a store of a folder's tokenizer and text.

    Args:
        folder: what will be the store.
        facts: what `write_text` said of it.

    Raises:
        ValueError: there are too few documents.
    """
    dtype = np.dtype(facts["token_dtype"])
    counts = write_splits(folder, folder / TEXT, dtype, facts["options"]["heldout"])
    write_unigrams(folder, dtype, facts["vocab_size"])
    write_manifest(folder, {**facts, "counts": counts})


def _tokenizer(found: Sequence[Source], config: PrepareConfig, progress: bool) -> Tokenizer:
    if config.tokenizer is not None:
        return tokenizers.given(config.tokenizer, config.lowercase, config.strip_accents)
    with Progress("vocabulary", found, progress) as shown:
        reading = _reading(config, shown)
        texts = vocabulary.sample(t for source in found for t in _for_vocabulary(source, reading))
    if not texts:
        raise ValueError(f"there is no text in {', '.join(source.name for source in found[:5])}")
    lowercase = config.lowercase is not False
    return vocabulary.train(
        texts, lowercase=lowercase, strip_accents=config.strip_accents, **_learned(config)
    )


def _learned(config: PrepareConfig) -> dict[str, int]:
    """How large a vocabulary is learned, if one is."""
    if config.tokenizer is not None:
        return {}
    return {name: getattr(config, name) or usual for name, usual in _LEARNED.items()}


def _applied(config: PrepareConfig, tokenizer: Tokenizer) -> dict[str, Any]:
    """Every option that decides what the store is, as it was applied."""
    given = {name: value for name, value in asdict(config).items() if name != "workers"}
    lowercase, accents = tokenizer.normalizer.lowercase, tokenizer.normalizer.strip_accents
    said = {"lowercase": lowercase, "strip_accents": lowercase if accents is None else accents}
    return given | said | _learned(config)


def _reading(config: PrepareConfig, shown: Progress) -> Reading:
    repairs = Repairs(config.on_bad_text)
    return Reading(config.documents, config.text_field, repairs, shown.advance)


def _for_vocabulary(source: Source, reading: Reading) -> Iterator[str]:
    """Every paragraph; of the hub, which would be downloaded twice, those at the beginning."""
    left = vocabulary.SAMPLE_CHARACTERS
    for text in paragraphs(source, reading):
        if text is not None:
            yield text
            left -= len(text)
        if left < 0 and source.kind == "hf":
            return


def _encode(
    folder: Path,
    parts: Sequence[Source | None],
    config: PrepareConfig,
    progress: bool,
    goes_on: bool,
) -> tuple[Reading, list[dict[str, str | None]], int]:
    """Write the text. Returns how it was read, a hash for each source or none, and its tokens."""
    meant = [part for part in parts if part is not None]
    with (
        SplitWriter(folder / TEXT, goes_on) as writer,
        Progress("text", meant, progress) as shown,
    ):
        reading = _reading(config, shown)
        hashes: list[dict[str, str | None]] = []
        chunks = _chunks(parts, reading, hashes)
        for made in encoded(chunks, folder / "tokenizer", _workers(meant, config)):
            writer.add(made.tokens, made.lengths, made.ends)
            shown.encoded(writer.documents, writer.tokens)
    return reading, hashes, writer.tokens


def _workers(parts: Sequence[Source], config: PrepareConfig) -> int:
    """What is asked for, or every core, unless starting processes would take longer than work."""
    small = all(part.is_file for part in parts) and sum(part.size for part in parts) < _SMALL
    return config.workers or (1 if small else cores())


def _chunks(
    parts: Sequence[Source | None], reading: Reading, hashes: list[dict[str, str | None]]
) -> Iterator[Chunk]:
    """The text in portions for the workers; appends the SHA-256 of each source that is meant."""
    chunk: Chunk = []
    size = 0
    for part in parts:
        if part is None:
            hashes.append({})
            continue
        digest = hashlib.sha256()
        for text in paragraphs(part, reading):
            if not part.is_file:
                digest.update(f"{text or ''}\n".encode())
            chunk.append(text)
            size += 1 + len(text or "")
            if size > _CHUNK:
                yield chunk
                chunk, size = [], 0
        hashes.append({"sha256": _file_sha256(part) if part.is_file else digest.hexdigest()})
    yield chunk


def _file_sha256(source: Source) -> str | None:
    """Of the file, or None where the policy has let an unreadable one pass."""
    try:
        return sha256(Path(source.name))
    except OSError:
        return None


def _versions() -> dict[str, str]:
    names = ("numpy", "tokenizers")
    return {
        "mslt": mslt.__version__,
        "python": platform.python_version(),
        **{name: version(name) for name in names},
    }


def summary(store: TokenStore) -> str:
    """What was made, and what was done about bad text and where."""
    facts, lines = store.manifest, []
    for split, counts in facts["counts"].items():
        lines.append(
            f"{split + ':':9}{counts['documents']:,} documents, {counts['sentences']:,} sentences, "
            f"{counts['tokens']:,} tokens"
        )
    unknown = int(store.unigrams[facts["special_ids"]["[UNK]"]]) / len(store.train.tokens)
    lines.append(f"{facts['vocab_size']:,} pieces; {unknown:.2%} of the text is unknown to them")
    return "\n  ".join([f"{store.path}", *lines, *repaired(facts)])


def repaired(facts: dict[str, Any]) -> list[str]:
    """A line for each kind of bad text: how often it was, and where at first."""
    return [
        f"bad text: {found['count']:,} x {what}, first at {', '.join(found['first'])}"
        for what, found in facts["repairs"].items()
    ]
