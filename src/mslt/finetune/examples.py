"""Examples as tokens, and batches of like length, so that little is computed for padding."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from mslt.finetune.glue import Example

POOL = 50  # batches' worth of shuffled examples that are sorted by length among themselves


@dataclass(frozen=True)
class Encoded:
    """Tokenised examples.

    Args:
        ids: tokens of each, [CLS] and [SEP] included.
        segments: 0 for the first text, 1 for the second.
        labels: one row for each: [N] answers of sentences, or [N, 2] first and last token of a
            span. Zeros where they are not known.
        pad: the padding's id.
    """

    ids: list[np.ndarray]
    segments: list[np.ndarray]
    labels: np.ndarray
    pad: int

    def __len__(self) -> int:
        return len(self.ids)

    def batch(self, rows: np.ndarray) -> "TaskBatch":
        """Some of them, padded to the longest."""
        lengths = np.array([len(self.ids[row]) for row in rows])
        ids = np.full((len(rows), lengths.max()), self.pad, dtype=np.int64)
        segments = np.zeros_like(ids)
        for i, row in enumerate(rows):
            ids[i, : lengths[i]] = self.ids[row]
            segments[i, : lengths[i]] = self.segments[row]
        return TaskBatch(ids, segments, lengths, self.labels[rows])


@dataclass(frozen=True)
class TaskBatch:
    """Rows of a step: ids and segments [B, L], lengths [B], labels [B] or [B, 2]."""

    input_ids: np.ndarray
    segment_ids: np.ndarray
    lengths: np.ndarray
    labels: np.ndarray

    def __getitem__(self, rows: slice) -> "TaskBatch":
        return TaskBatch(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


@dataclass(frozen=True)
class TaskInputs:
    """The same as tensors; `seen` [B, L] is None where nothing is padding."""

    input_ids: Tensor
    segment_ids: Tensor
    seen: Tensor | None
    labels: Tensor

    def __getitem__(self, rows: slice) -> "TaskInputs":
        seen = None if self.seen is None else self.seen[rows]
        return TaskInputs(self.input_ids[rows], self.segment_ids[rows], seen, self.labels[rows])

    @classmethod
    def of(cls, batch: TaskBatch, device: str) -> "TaskInputs":
        """Move a batch to the device."""
        length = batch.input_ids.shape[1]
        seen = None
        if (batch.lengths < length).any():
            seen = torch.arange(length) < torch.from_numpy(batch.lengths)[:, None]
            seen = seen.to(device)
        ids, segments, labels = (
            torch.from_numpy(array).to(device)
            for array in (batch.input_ids, batch.segment_ids, batch.labels)
        )
        return cls(ids, segments, seen, labels)


def encode(examples: Sequence[Example], tokenizer: Tokenizer, length: int) -> Encoded:
    """Sentences as tokens; the longer of two texts is cut first where they exceed `length`."""
    tokenizer.no_padding()
    tokenizer.enable_truncation(length, strategy="longest_first")
    texts: list[Any] = [e.text if len(e.text) > 1 else e.text[0] for e in examples]
    rows = tokenizer.encode_batch(texts)
    return Encoded(
        ids=[np.array(row.ids) for row in rows],
        segments=[np.array(row.type_ids) for row in rows],
        labels=np.array([e.label or 0.0 for e in examples], dtype=np.float32),
        pad=tokenizer.token_to_id("[PAD]") or 0,
    )


def training_order(encoded: Encoded, batch_size: int, seed: int, epoch: int) -> list[np.ndarray]:
    """Rows of each batch of an epoch: shuffled, near in length within a batch, each row once."""
    random = np.random.default_rng((seed, epoch))
    lengths = np.array([len(ids) for ids in encoded.ids])
    order = random.permutation(len(encoded))
    batches: list[np.ndarray] = []
    for start in range(0, len(order), POOL * batch_size):
        pool = order[start : start + POOL * batch_size]
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        batches += [pool[i : i + batch_size] for i in range(0, len(pool), batch_size)]
    return [batches[i] for i in random.permutation(len(batches))]


def reading_order(encoded: Encoded, batch_size: int) -> list[np.ndarray]:
    """Rows of batches that cover all examples, the longest first."""
    order = np.argsort([-len(ids) for ids in encoded.ids], kind="stable")
    return [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
