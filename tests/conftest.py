"""What several tests need: one thread, a tiny shape, and random batches that fit it."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from mslt.config import ModelConfig
from mslt.data.instances import Batch

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny() -> ModelConfig:
    """Up to twelve layers, 16 wide, for 40 pieces and 16 positions. With dropout, as in BERT."""
    return ModelConfig(
        vocab_size=40,
        hidden_size=16,
        num_hidden_layers=12,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=16,
    )


@pytest.fixture(scope="session")
def random_batch() -> Callable[..., Batch]:
    """A batch of `sequences` of 12 tokens as a function of the seed: padding, unused slots."""

    def batch(seed: int = 0, sequences: int = 8, length: int = 12, slots: int = 3) -> Batch:
        draw = np.random.default_rng(seed)
        lengths = draw.integers(length // 2, length + 1, sequences)
        real = np.arange(length) < lengths[:, None]
        used = np.arange(slots) < draw.integers(1, slots + 1, sequences)[:, None]
        positions = [np.sort(draw.permutation(length // 2)[:slots]) for _ in range(sequences)]
        return Batch(
            input_ids=draw.integers(5, 40, (sequences, length)) * real,
            token_type_ids=(np.arange(length) >= lengths[:, None] // 2) * real.astype(np.int64),
            lengths=lengths,
            masked_positions=np.stack(positions) * used,
            masked_ids=draw.integers(5, 40, (sequences, slots)) * used,
            masked_weights=used.astype(np.float32),
            pair_labels=draw.integers(0, 2, sequences),
        )

    return batch
