"""Which pieces the model has to predict, and what it sees in their place (Devlin et al. 2018)."""

from dataclasses import dataclass
from functools import cached_property
from math import ceil

import numpy as np

from mslt.data.draws import below, bits, units

# Where an instance's random numbers for masks begin, far from each other and those of `pairs`.
_ORDER, _REPLACE = 1 << 30, 1 << 31

_MASK_SHARE, _RANDOM_SHARE = 0.8, 0.1  # the rest of the predicted pieces stays as it is


@dataclass(frozen=True)
class VocabularyFacts:
    """What instances need to know of a tokenizer.

    Args:
        pad: id of [PAD].
        cls: id of [CLS].
        sep: id of [SEP].
        mask: id of [MASK].
        special: which ids are special tokens, [UNK] among them: bool [V].
        continuation: which ids go on with the word before them (##): bool [V].
    """

    pad: int
    cls: int
    sep: int
    mask: int
    special: np.ndarray
    continuation: np.ndarray

    @property
    def size(self) -> int:
        """Pieces (V)."""
        return len(self.special)

    @cached_property
    def ordinary(self) -> np.ndarray:
        """Ids that are no special tokens, int64."""
        return np.flatnonzero(~self.special)


@dataclass(frozen=True)
class Masked:
    """Sequences with masks, and what was there.

    Args:
        input_ids: what the model sees [B, L].
        positions: where it predicts, ascending, then 0 in slots without use [B, M].
        ids: the pieces that were there, 0 in slots without use [B, M].
        weights: 1, and 0 in slots without use: float32 [B, M].
    """

    input_ids: np.ndarray
    positions: np.ndarray
    ids: np.ndarray
    weights: np.ndarray


def prediction_slots(mask_prob: float, seq_len: int) -> int:
    """The most predictions in a sequence (M): 20 at length 128, 77 at 512, for 15 %."""
    return ceil(round(mask_prob * seq_len, 6))  # 0.07 * 100 is a little above 7


def mask(
    ids: np.ndarray,
    content: np.ndarray,
    keys: np.ndarray,
    vocabulary: VocabularyFacts,
    *,
    mask_prob: float,
    whole_word: bool,
) -> Masked:
    """Hide `mask_prob` of each sequence's content, one piece at the least.

    80 % of the predicted pieces become [MASK], 10 % a random ordinary piece and 10 % stay.

    Args:
        ids: pieces [B, L]; overwritten.
        content: which of them may be predicted: not [CLS], [SEP] or padding: bool [B, L].
        keys: a random number for each sequence: uint64 [B].
        vocabulary: the special ids.
        mask_prob: share of the content that is predicted, halves rounded up.
        whole_word: take the pieces of a word together. Words come in random order, and one that
            exceeds what is left to predict is passed over, so it may be less than the share.
    """
    length = ids.shape[1]
    slots = prediction_slots(mask_prob, length)
    budget = (mask_prob * content.sum(axis=1) + 0.5).astype(np.int64)
    budget = np.clip(budget, 1, slots)
    if whole_word:
        where = _word_positions(content, vocabulary.continuation[ids], keys, budget, slots)
    else:
        where = _piece_positions(content, keys, budget, slots)
    used = where < length
    positions = np.where(used, where, 0)
    original = np.take_along_axis(ids, positions, axis=1)
    # Slots without use write back what stands at position 0.
    shown = np.where(used, _shown(original, keys, vocabulary), original)
    np.put_along_axis(ids, positions, shown, axis=1)
    return Masked(ids, positions, original * used, used.astype(np.float32))


def _shown(original: np.ndarray, keys: np.ndarray, vocabulary: VocabularyFacts) -> np.ndarray:
    """What stands in place of each predicted piece [B, M]."""
    slots = original.shape[1]
    u = units(keys[:, None], np.arange(_REPLACE, _REPLACE + 2 * slots))
    how, piece = u[:, :slots], below(u[:, slots:], len(vocabulary.ordinary))
    changed = np.where(how < _MASK_SHARE, vocabulary.mask, vocabulary.ordinary[piece])
    return np.where(how < _MASK_SHARE + _RANDOM_SHARE, changed, original)


def _shuffled(keys: np.ndarray, among: np.ndarray) -> np.ndarray:
    """The columns where `among` is true in random order, then L, for each row [B, L].

    Random high bits and the column in the low bits of one number: sorting needs no indices.
    """
    length = among.shape[1]
    lanes = np.arange(_ORDER, _ORDER + (length + 1) // 2)
    halves = bits(keys[:, None], lanes).view(np.uint32)
    column = np.arange(length, dtype=np.uint32)
    low = np.uint32((1 << length.bit_length()) - 1)
    key = np.where(among, (halves[:, :length] & ~low) | column, ~np.uint32(0) - low + length)
    key.sort(axis=1)
    return key & low


def _piece_positions(
    content: np.ndarray, keys: np.ndarray, budget: np.ndarray, slots: int
) -> np.ndarray:
    """`budget` positions of each row, ascending, then L [B, M]."""
    length = content.shape[1]
    where = _shuffled(keys, content)[:, :slots]
    where[np.arange(slots) >= budget[:, None]] = length
    where.sort(axis=1)
    return where.astype(np.int64)


def _word_positions(
    content: np.ndarray, continuation: np.ndarray, keys: np.ndarray, budget: np.ndarray, slots: int
) -> np.ndarray:
    """Positions of whole words, at most `budget` in each row, ascending, then L [B, M]."""
    rows, length = content.shape
    begins = content & ~continuation
    begins[:, 1:] |= content[:, 1:] & ~content[:, :-1]  # a word that was cut at a segment's start
    word = np.maximum.accumulate(np.where(begins, np.arange(length), 0), axis=1)
    row = np.arange(rows)
    flat = (row[:, None] * length + word)[content]
    size = np.bincount(flat, minlength=rows * length).reshape(rows, length)
    order = _shuffled(keys, begins)
    chosen = np.zeros((rows, length + 1), bool)  # the last column takes what is no word
    size = np.concatenate([size, np.zeros((rows, 1), size.dtype)], axis=1)
    left = budget.copy()
    for next_word in order.T:
        need = size[row, next_word]
        fits = need <= left
        chosen[row, next_word] = fits
        left -= need * fits
        if not left.any():
            break
    picked = np.take_along_axis(chosen, word, axis=1) & content
    where = np.where(picked, np.arange(length), length)
    where.sort(axis=1)
    return where[:, :slots]
