"""Which tokens of the corpus make one training instance: segments A and B (Devlin et al. 2018)."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from mslt.data.draws import below
from mslt.data.store import Split

# Columns of the random numbers that an instance draws.
_SHORT, _TARGET, _START, _SPLIT, _OTHER, _WHERE, _FRONT_A, _FRONT_B = range(8)
DRAWS = 8


@dataclass(frozen=True)
class Segments:
    """Segments A and B as ranges of corpus tokens, and what the pair is. All int64 [B].

    Args:
        a_begin: first token of A.
        a_size: tokens of A.
        b_begin: first token of B.
        b_size: tokens of B, 0 where there is no second segment.
        labels: 0 where B follows A in the text, 1 where it does not.
    """

    a_begin: np.ndarray
    a_size: np.ndarray
    b_begin: np.ndarray
    b_size: np.ndarray
    labels: np.ndarray


@dataclass(frozen=True)
class Chunk:
    """Neighbouring sentences of one document. All int64 [B].

    Args:
        first: its first sentence.
        last: the sentence after its last one.
        document_begin: first token of the document.
        document_end: the token after its last one.
    """

    first: np.ndarray
    last: np.ndarray
    document_begin: np.ndarray
    document_end: np.ndarray


class Corpus:
    """A split with the look-ups that instances need, each for a whole batch at once."""

    def __init__(self, split: Split) -> None:
        # Plain arrays: indexing through the memmap class costs microseconds a time. And signed
        # ones, without a copy: numpy turns int64 with uint64 into floats.
        self.tokens = np.asarray(split.tokens)
        self.sentences = _signed(split.sentences)
        self.documents = _signed(split.documents)

    def chunk(self, position: np.ndarray, target: np.ndarray, lead: np.ndarray) -> Chunk:
        """Whole sentences with `target` tokens or more, or the whole document if it has fewer.

        They begin with the sentence that lies `lead` tokens before `position`, or so much earlier
        that the document holds enough tokens from there on.

        Args:
            position: tokens of the corpus [B].
            target: tokens that are wanted [B].
            lead: in [0, target) [B].
        """
        sentence = _last_at_or_before(self.sentences, position)
        document = _last_at_or_before(self.documents, sentence)
        end_sentence = self.documents[document + 1]
        begin = self.sentences[self.documents[document]]
        end = self.sentences[end_sentence]
        start = np.maximum(begin, np.minimum(position - lead, end - target))
        first = _last_at_or_before(self.sentences, start)
        enough = np.searchsorted(self.sentences, self.sentences[first] + target)
        return Chunk(first, np.minimum(enough, end_sentence), begin, end)


def _signed(offsets: np.ndarray) -> np.ndarray:
    offsets = np.asarray(offsets)
    return offsets.view(np.int64) if offsets.dtype == np.uint64 else offsets.astype(np.int64)


def _last_at_or_before(begins: np.ndarray, x: np.ndarray) -> np.ndarray:
    return np.searchsorted(begins, x, side="right") - 1


def segments(
    corpus: Corpus,
    anchors: np.ndarray,
    units: np.ndarray,
    *,
    pair: str,
    short_prob: float,
    room: int,
) -> Segments:
    """The segments of the instances around some tokens of the corpus.

    Args:
        corpus: where the tokens are.
        anchors: the tokens [B].
        units: random numbers in [0, 1) [B, DRAWS].
        pair: a key of `PAIRS`.
        short_prob: share of the instances that aim at a random length in [2, room].
        room: the most tokens that A and B may have together.
    """
    short = units[:, _SHORT] < short_prob
    target = np.where(short, 2 + below(units[:, _TARGET], room - 1), room)
    # A window that only ran forward from the anchor would be cut short at every document's end
    # and would seldom see its beginning.
    chunk = corpus.chunk(anchors, target, below(units[:, _START], target))
    return PAIRS[pair](corpus, chunk, target, units, room)


def _nsp(
    corpus: Corpus, chunk: Chunk, target: np.ndarray, units: np.ndarray, room: int
) -> Segments:
    """B is what follows A or, for every other instance, text of another document."""
    middle, alone = _split(chunk, units)
    begin, middle, end = (corpus.sentences[i] for i in (chunk.first, middle, chunk.last))
    a_size = middle - begin
    # One sentence leaves nothing to follow it (as in Devlin et al.'s code).
    random = alone | (units[:, _OTHER] < 0.5)
    missing = np.maximum(1, target - a_size)
    # A token anywhere but in A's document: one draw over the rest, with the document cut out.
    own = chunk.document_end - chunk.document_begin
    place = below(units[:, _WHERE], corpus.tokens.size - own)
    place += own * (place >= chunk.document_begin)
    other = corpus.chunk(place, missing, np.zeros_like(place))
    b_begin = np.where(random, corpus.sentences[other.first], middle)
    b_end = np.where(random, corpus.sentences[other.last], end)
    return _truncated(begin, a_size, b_begin, b_end - b_begin, units, room, random)


def _sop(
    corpus: Corpus, chunk: Chunk, target: np.ndarray, units: np.ndarray, room: int
) -> Segments:
    """A and B follow each other, or are swapped in every other instance (Lan et al. 2020)."""
    middle, alone = _split(chunk, units)
    begin, middle, end = (corpus.sentences[i] for i in (chunk.first, middle, chunk.last))
    # One sentence is cut inside, and before that to what there is room for, so that its halves
    # still meet.
    size = np.minimum(end - begin, room)
    begin = np.where(alone, begin + below(units[:, _FRONT_A], end - begin - size + 1), begin)
    end = np.where(alone, begin + size, end)
    middle = np.where(alone, begin + 1 + below(units[:, _SPLIT], size - 1), middle)
    swapped = units[:, _OTHER] < 0.5
    pair = _truncated(begin, middle - begin, middle, end - middle, units, room, swapped)
    return Segments(
        np.where(swapped, pair.b_begin, pair.a_begin),
        np.where(swapped, pair.b_size, pair.a_size),
        np.where(swapped, pair.a_begin, pair.b_begin),
        np.where(swapped, pair.a_size, pair.b_size),
        pair.labels,
    )


def _one(
    corpus: Corpus, chunk: Chunk, target: np.ndarray, units: np.ndarray, room: int
) -> Segments:
    """A alone."""
    begin, end = corpus.sentences[chunk.first], corpus.sentences[chunk.last]
    size = np.minimum(end - begin, room)
    begin = begin + below(units[:, _FRONT_A], end - begin - size + 1)
    nothing = np.zeros_like(size)
    return Segments(begin, size, nothing, nothing, nothing)


PAIRS: dict[str, Callable[[Corpus, Chunk, np.ndarray, np.ndarray, int], Segments]] = {
    "nsp": _nsp,
    "sop": _sop,
    "none": _one,
}


def _split(chunk: Chunk, units: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The sentence after A's last one, and whether the chunk is one sentence that is all A's."""
    sentences = chunk.last - chunk.first
    middle = chunk.first + 1 + below(units[:, _SPLIT], sentences - 1)
    return middle, sentences == 1


def truncated_sizes(
    a_size: np.ndarray, b_size: np.ndarray, room: int
) -> tuple[np.ndarray, np.ndarray]:
    """What is left of two segments if the longer one loses a token until both fit into `room`.

    The result of Devlin et al.'s loop, in which B loses the token where they are equal.
    """
    a = np.minimum(a_size, np.maximum((room + 1) // 2, room - b_size))
    return a, np.minimum(b_size, room - a)


def _truncated(
    a_begin: np.ndarray,
    a_size: np.ndarray,
    b_begin: np.ndarray,
    b_size: np.ndarray,
    units: np.ndarray,
    room: int,
    labels: np.ndarray,
) -> Segments:
    """Segments that fit; each loses tokens at both ends, a uniformly random part in front.

    Devlin et al. toss a coin for each token instead.
    """
    a, b = truncated_sizes(a_size, b_size, room)
    return Segments(
        a_begin + below(units[:, _FRONT_A], a_size - a + 1),
        a,
        b_begin + below(units[:, _FRONT_B], b_size - b + 1),
        b,
        labels.astype(np.int64),
    )
