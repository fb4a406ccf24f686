"""Training instances as a pure function of the seed and of an instance's number in the run."""

from dataclasses import dataclass, fields
from math import ceil

import numpy as np

from mslt.config import InstanceConfig
from mslt.data import pairs
from mslt.data.draws import bits, permuted, units
from mslt.data.masking import VocabularyFacts, mask
from mslt.data.store import Split

SHORTEST = 8  # tokens of a sequence, as for a stage of a plan

# What the seed's random numbers are for.
_INSTANCE, _EPOCH_OFFSET, _EPOCH_ORDER = range(3)


@dataclass(frozen=True)
class Batch:
    """Sequences [CLS] A [SEP] B [SEP] with masks. B of them, L tokens long, M prediction slots.

    A slice of a batch is a batch of those of its sequences.

    Args:
        input_ids: pieces, padding at the end: int64 [B, L].
        token_type_ids: 0 up to the first [SEP], 1 in B and its [SEP], 0 in padding: int64 [B, L].
        lengths: tokens that are not padding: int64 [B].
        masked_positions: where to predict, ascending, then 0 in slots without use: int64 [B, M].
        masked_ids: what was there, 0 in slots without use: int64 [B, M].
        masked_weights: 1, and 0 in slots without use: float32 [B, M].
        pair_labels: 0 where B follows A, 1 where it is random or swapped: int64 [B]. All 0 where
            there is no B.
        ids: number of each instance; two of one number and length are the same: int64 [B].
    """

    input_ids: np.ndarray
    token_type_ids: np.ndarray
    lengths: np.ndarray
    masked_positions: np.ndarray
    masked_ids: np.ndarray
    masked_weights: np.ndarray
    pair_labels: np.ndarray
    ids: np.ndarray

    def __getitem__(self, rows: slice) -> "Batch":
        return Batch(*(getattr(self, f.name)[rows] for f in fields(self)))


class Instances:
    """The training instances of a run, by step.

    An epoch cuts the corpus into as many equal slots as it takes instances to fill its tokens, and
    visits them in an order of its own. The token in each slot where an instance is anchored, its
    segments and its masks are other ones in each epoch, or in each of `dupe_factor` epochs, after
    which the same batches come again. Nothing is remembered between calls, so that any process may
    make any part of any batch.

    Args:
        split: the tokens; every sentence has a token and every document a sentence.
        config: how sentences become instances.
        vocabulary: of the tokenizer that made the tokens.
        seed: of everything that is random.
        batch_size: instances per step.

    Raises:
        ValueError: no text, or a single document where the second segment needs another.
    """

    def __init__(
        self,
        split: Split,
        config: InstanceConfig,
        vocabulary: VocabularyFacts,
        seed: int,
        batch_size: int,
    ) -> None:
        documents = len(split.documents) - 1
        if documents < 1 or len(split.tokens) == 0:
            raise ValueError("there is no text to make training instances of")
        if config.pair == "nsp" and documents < 2:
            raise ValueError(
                "instances.pair nsp needs two documents or more, for random next sentences; "
                "there is one (blank lines separate documents; sop and none need no other)"
            )
        self.corpus = pairs.Corpus(split)
        self.config = config
        self.vocabulary = vocabulary
        self.batch_size = batch_size
        self._instance_key = bits(seed, _INSTANCE)
        self._epoch_offset_key = bits(seed, _EPOCH_OFFSET)
        self._epoch_order_key = bits(seed, _EPOCH_ORDER)

    def batch(self, step: int, seq_len: int, rows: slice = slice(None)) -> Batch:
        """The instances of a step, or those of its rows that are wanted.

        Instance `batch_size * step + row` is the same one whatever the batch size and the rows.
        Where the instances repeat, `step` counts from the last repetition on.

        Raises:
            ValueError: seq_len is too short for two segments.
        """
        room = self._room(seq_len)
        if period := self.period(seq_len):
            step %= period
        number = self.batch_size * step + np.arange(self.batch_size)[rows]
        keys = bits(self._instance_key, number)
        segments = pairs.segments(
            self.corpus,
            self.anchors(number, seq_len),
            units(keys[:, None], np.arange(pairs.DRAWS)),
            pair=self.config.pair,
            short_prob=self.config.short_prob,
            room=room,
        )
        ids, types, content, lengths = self._laid_out(segments, seq_len)
        masked = mask(
            ids,
            content,
            keys,
            self.vocabulary,
            mask_prob=self.config.mask_prob,
            whole_word=self.config.whole_word,
        )
        return Batch(
            input_ids=masked.input_ids,
            token_type_ids=types,
            lengths=lengths,
            masked_positions=masked.positions,
            masked_ids=masked.ids,
            masked_weights=masked.weights,
            pair_labels=segments.labels,
            ids=number,
        )

    def period(self, seq_len: int) -> int:
        """Steps after which the batches of a length come again; 0 where they never do.

        `dupe_factor` epochs, rounded up to whole steps, so that a batch comes again as it was.
        """
        return ceil(self.config.dupe_factor * self.epoch_instances(seq_len) / self.batch_size)

    def epoch(self, step: int, seq_len: int) -> float:
        """How many times the corpus has been seen before a step, if all have had this length."""
        return self.batch_size * step / self.epoch_instances(seq_len)

    def epoch_instances(self, seq_len: int) -> int:
        """Instances that hold as many tokens as the corpus, where its documents are long."""
        room, short = self._room(seq_len), self.config.short_prob
        content = (1 - short) * room + short * (room + 2) / 2
        return ceil(self.corpus.tokens.size / content)

    def _room(self, seq_len: int) -> int:
        """Tokens beside [CLS] and [SEP]."""
        if seq_len < SHORTEST:
            raise ValueError(f"seq_len must be {SHORTEST} or more, not {seq_len}")
        return seq_len - (2 if self.config.pair == "none" else 3)

    def anchors(self, number: np.ndarray, seq_len: int) -> np.ndarray:
        """The token of the corpus around which each instance is made [B]."""
        count = self.epoch_instances(seq_len)
        epoch, place = np.divmod(number, count)
        slot = permuted(place, count, bits(self._epoch_order_key, epoch))
        offset = units(self._epoch_offset_key, epoch)
        tokens = self.corpus.tokens.size
        anchor = ((slot + offset) * (tokens / count)).astype(np.int64)
        return np.minimum(anchor, tokens - 1)  # the last offset may round up to the end

    def _laid_out(
        self, segments: pairs.Segments, seq_len: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Ids [B, L], token types [B, L], which ids are content [B, L], and lengths [B]."""
        vocabulary = self.vocabulary
        first_sep = 1 + segments.a_size
        if self.config.pair == "none":
            last_sep = first_sep
        else:
            last_sep = first_sep + 1 + segments.b_size
        column, row = np.arange(seq_len), np.arange(len(first_sep))
        second = column > first_sep[:, None]
        begins = np.where(
            second, (segments.b_begin - first_sep - 1)[:, None], (segments.a_begin - 1)[:, None]
        )
        # Special tokens and padding read some token too, which is then overwritten.
        ids = self.corpus.tokens.take(begins + column, mode="clip").astype(np.int64)
        content = column < last_sep[:, None]
        content[:, 0] = False
        content[row, first_sep] = False
        ids[~content] = vocabulary.pad
        ids[:, 0] = vocabulary.cls
        ids[row, first_sep] = vocabulary.sep
        ids[row, last_sep] = vocabulary.sep
        types = (second & (column <= last_sep[:, None])).astype(np.int64)
        return ids, types, content, last_sep + 1
