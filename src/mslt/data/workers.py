"""The processes that segment and tokenize: as many as there are cores, their results in order."""

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np

from mslt.children import ctrl_c_waits, end_with_parent
from mslt.data.sentences import sentences
from mslt.data.tokenizer import WordEncoder, load

Chunk = list[str | None]  # paragraphs; None ends a document

_WORDS = 1_000_000  # that all workers together remember, at about 150 bytes each


@dataclass(frozen=True)
class Encoded:
    """What becomes of a chunk.

    Args:
        tokens: piece ids of all sentences, as bytes.
        lengths: pieces of each sentence, none of them 0.
        ends: after how many of these sentences a document ends, ascending.
    """

    tokens: bytes
    lengths: np.ndarray
    ends: np.ndarray


class ChunkEncoder:
    """Segments and tokenizes chunks.

    Args:
        folder: of the tokenizer.
        most_words: to remember.
    """

    def __init__(self, folder: Path, most_words: int = _WORDS) -> None:
        self._encode = WordEncoder(load(folder), most_words)

    def __call__(self, chunk: Chunk) -> Encoded:
        """Sentences without a piece are dropped."""
        found: list[str] = []
        ends: list[int] = []
        for text in chunk:
            if text is None:
                ends.append(len(found))
            else:
                found += sentences(text)
        tokens, counts = self._encode(found)
        lengths = np.array(counts, np.uint32)
        kept = np.cumsum([0, *(lengths > 0)])
        return Encoded(tokens, lengths[lengths > 0], kept[ends])


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def encoded(chunks: Iterable[Chunk], folder: Path, workers: int) -> Iterator[Encoded]:
    """Encode chunks in their order; with one worker, in this process.

    Args:
        chunks: read no further ahead than keeps the workers busy.
        folder: of the tokenizer.
        workers: processes.

    Raises:
        OSError: a worker was killed, as the system does when memory runs out.
    """
    if workers == 1:
        yield from map(ChunkEncoder(folder), chunks)
        return
    # Not fork: the Rust tokenizer's threads would not survive it.
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _start, (folder, _WORDS // workers))
    waiting: deque[Future[Encoded]] = deque()
    try:
        for chunk in chunks:
            with ctrl_c_waits():  # a process that this starts must not see it
                waiting.append(pool.submit(_work, chunk))
            if len(waiting) > 2 * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool:
        raise OSError("a worker process died; is there enough memory?") from None
    finally:
        pool.shutdown(cancel_futures=True)


_encoder: ChunkEncoder  # of a worker process


def _start(folder: Path, most_words: int) -> None:
    global _encoder
    end_with_parent()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # the cores are busy already
    _encoder = ChunkEncoder(folder, most_words)


def _work(chunk: Chunk) -> Encoded:
    return _encoder(chunk)
