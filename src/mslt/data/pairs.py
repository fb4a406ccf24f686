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
        target: tokens that were wanted.
    """

    first: np.ndarray
    last: np.ndarray
    document_begin: np.ndarray
    document_end: np.ndarray
    target: np.ndarray


class Corpus:
    """A split with the look-ups that instances need, each for a whole batch at once."""

    def __init__(self, split: Split) -> None:
        # Plain arrays: indexing through the memmap class costs microseconds a time. And signed
        # ones, without a copy: numpy turns int64 with uint64 into floats.
        self.tokens = np.asarray(split.tokens)
        self.sentences = _signed(split.sentences)
        self.documents = _signed(split.documents)

    def sentence_at(self, token: np.ndarray) -> np.ndarray:
        """The sentence that each token lies in [B]."""
        return np.searchsorted(self.sentences, token, side="right") - 1

    def chunk(self, first: np.ndarray, target: np.ndarray) -> Chunk:
        """Sentences from `first` on, until they have `target` tokens or their document ends."""
        document = np.searchsorted(self.documents, first, side="right") - 1
        document_last = self.documents[document + 1]
        enough = np.searchsorted(self.sentences, self.sentences[first] + target)
        return Chunk(
            first,
            np.minimum(enough, document_last),
            self.sentences[self.documents[document]],
            self.sentences[document_last],
            target,
        )

    def window(self, token: np.ndarray, target: np.ndarray, lead: np.ndarray) -> Chunk:
        """A chunk from `lead` tokens before a token on, or from wherever it can be as long as that.

        One that ran forward from the token would be cut short at every document's end, and would
        seldom see its beginning: on English Wikipedia and novels 86 % of 512 tokens were filled
        so, and 90 % are filled like this. Only a document of less than `target` tokens gives less.
        """
        chunk = self.chunk(self.sentence_at(token), target)
        latest = np.minimum(token - lead, chunk.document_end - target)
        return self.chunk(self.sentence_at(np.maximum(chunk.document_begin, latest)), target)


def _signed(offsets: np.ndarray) -> np.ndarray:
    offsets = np.asarray(offsets)
    return offsets.view(np.int64) if offsets.dtype == np.uint64 else offsets.astype(np.int64)


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
    chunk = corpus.window(anchors, target, below(units[:, _START], target))
    return _truncated(PAIRS[pair](corpus, chunk, units, room), units, room)


def _nsp(corpus: Corpus, chunk: Chunk, units: np.ndarray, room: int) -> Segments:
    """B is what follows A or, for every other instance, text of another document."""
    begin, middle, end = _split(corpus, chunk, units)
    # One sentence leaves nothing to follow it: B is random (as in Devlin et al.'s code).
    random = (middle == end) | (units[:, _OTHER] < 0.5)
    # A token anywhere but in A's document: one draw over the rest, with the document cut out.
    own = chunk.document_end - chunk.document_begin
    place = below(units[:, _WHERE], corpus.tokens.size - own)
    place += own * (place >= chunk.document_begin)
    # Not shifted to fill its length: only random segments would then begin where documents do.
    missing = np.maximum(1, chunk.target - (middle - begin))
    other = corpus.chunk(corpus.sentence_at(place), missing)
    b_begin = np.where(random, corpus.sentences[other.first], middle)
    b_end = np.where(random, corpus.sentences[other.last], end)
    return Segments(begin, middle - begin, b_begin, b_end - b_begin, random.astype(np.int64))


def _sop(corpus: Corpus, chunk: Chunk, units: np.ndarray, room: int) -> Segments:
    """A and B follow each other, or are swapped in every other instance (Lan et al. 2020)."""
    begin, middle, end = _split(corpus, chunk, units)
    # One sentence is cut inside, and before that to what there is room for, so that its halves
    # still meet.
    alone = middle == end
    size = np.minimum(end - begin, room)
    begin = np.where(alone, begin + below(units[:, _FRONT_A], end - begin - size + 1), begin)
    middle = np.where(alone, begin + 1 + below(units[:, _SPLIT], size - 1), middle)
    end = np.where(alone, begin + size, end)
    swapped = (units[:, _OTHER] < 0.5) & (middle < end)  # a lone token has nothing to swap with
    return Segments(
        np.where(swapped, middle, begin),
        np.where(swapped, end - middle, middle - begin),
        np.where(swapped, begin, middle),
        np.where(swapped, middle - begin, end - middle),
        swapped.astype(np.int64),
    )


def _none(corpus: Corpus, chunk: Chunk, units: np.ndarray, room: int) -> Segments:
    """A alone."""
    begin, end = corpus.sentences[chunk.first], corpus.sentences[chunk.last]
    nothing = np.zeros_like(begin)
    return Segments(begin, end - begin, nothing, nothing, nothing)


PAIRS: dict[str, Callable[[Corpus, Chunk, np.ndarray, int], Segments]] = {
    "nsp": _nsp,
    "sop": _sop,
    "none": _none,
}


def _split(
    corpus: Corpus, chunk: Chunk, units: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Where A begins, where it gives way to B between two sentences, and where B ends.

    A chunk of one sentence is all A's.
    """
    after_a = chunk.first + 1 + below(units[:, _SPLIT], chunk.last - chunk.first - 1)
    return corpus.sentences[chunk.first], corpus.sentences[after_a], corpus.sentences[chunk.last]


def truncated_sizes(
    a_size: np.ndarray, b_size: np.ndarray, room: int
) -> tuple[np.ndarray, np.ndarray]:
    """What is left of two segments if the longer one loses tokens until both fit into `room`.

    The result of Devlin et al.'s loop, in which B loses one where they are equal.
    """
    a = np.minimum(a_size, np.maximum((room + 1) // 2, room - b_size))
    return a, np.minimum(b_size, room - a)


def _truncated(wide: Segments, units: np.ndarray, room: int) -> Segments:
    """Segments that fit: what each loses is in front and at its end, in uniformly random parts.

    Devlin et al. toss a coin for each token instead.
    """
    a, b = truncated_sizes(wide.a_size, wide.b_size, room)
    return Segments(
        wide.a_begin + below(units[:, _FRONT_A], wide.a_size - a + 1),
        a,
        wide.b_begin + below(units[:, _FRONT_B], wide.b_size - b + 1),
        b,
        wide.labels,
    )
