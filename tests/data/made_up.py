"""Made-up splits whose pieces say where they come from."""

from collections.abc import Sequence

import numpy as np

from mslt.data.masking import VocabularyFacts
from mslt.data.store import Split

FIRST = 5  # ids below are special: pad 0, unk 1, cls 2, sep 3, mask 4


def split_of(documents: Sequence[Sequence[int]]) -> Split:
    """From the sizes of the sentences of each document. Piece number p has the id FIRST + p."""
    sizes = [size for document in documents for size in document]
    sentences = np.cumsum([0, *sizes]).astype(np.uint64)
    ends = np.cumsum([0, *(len(document) for document in documents)]).astype(np.uint64)
    tokens = np.arange(FIRST, FIRST + int(sentences[-1])).astype(np.uint32)
    return Split(tokens, sentences, ends)


def random_split(documents: int, seed: int = 0, longest: int = 60, sentences: int = 40) -> Split:
    """Documents of 1 to `sentences` sentences of 1 to `longest` pieces."""
    random = np.random.default_rng(seed)
    return split_of(
        [
            random.integers(1, longest + 1, random.integers(1, sentences + 1))
            for _ in range(documents)
        ]
    )


def facts_for(split: Split, continuation: np.ndarray | None = None) -> VocabularyFacts:
    """A vocabulary that knows every piece of the split."""
    ids = np.arange(int(split.tokens.max()) + 1)
    if continuation is None:
        continuation = np.zeros(len(ids), bool)
    return VocabularyFacts(
        pad=0, cls=2, sep=3, mask=4, special=ids < FIRST, continuation=continuation
    )
