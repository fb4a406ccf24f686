"""Fixtures that several tests share: a tiny corpus and its store, a tiny shape and batches."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from made_up_run import end_stages, new_run
from made_up_updates import Parameters, parameters_of

from mslt.config import ModelConfig
from mslt.data.instances import Batch
from mslt.data.prepare import PrepareConfig, prepare
from mslt.export import export
from mslt.run import Run

torch.set_num_threads(1)  # tests run side by side


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Whatever a test has set."""
    yield
    torch.set_num_threads(1)


@pytest.fixture
def float64() -> Iterator[None]:
    """What new tensors are of."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def text(documents: int, seed: int = 0) -> str:
    """Documents of a few paragraphs in a made-up language of 40 words."""
    draw = random.Random(seed)
    words = ["".join(draw.choices("abcdefghij", k=draw.randint(2, 7))) for _ in range(40)]

    def sentence() -> str:
        return " ".join(draw.choices(words, k=draw.randint(4, 9))).capitalize() + "."

    def paragraph() -> str:
        return " ".join(sentence() for _ in range(draw.randint(2, 5)))

    return "\n\n".join(
        "\n".join(paragraph() for _ in range(draw.randint(2, 4))) for _ in range(documents)
    )


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A token store of sixty tiny documents."""
    folder = tmp_path_factory.mktemp("store")
    (folder / "text.txt").write_text(text(60), encoding="utf-8")
    config = PrepareConfig(vocab_size=120, heldout=0.1, workers=1)
    prepare([str(folder / "text.txt")], folder / "store", config, progress=False)
    return folder / "store"


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A token store of a few batches."""
    folder = tmp_path_factory.mktemp("small")
    (folder / "text.txt").write_text(text(8), encoding="utf-8")
    config = PrepareConfig(vocab_size=120, heldout=0.25, workers=1)
    prepare([str(folder / "text.txt")], folder / "store", config, progress=False)
    return folder / "store"


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
            ids=np.arange(sequences),
        )

    return batch


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A made-up run whose three stages have ended."""
    run = new_run(tmp_path_factory.mktemp("finished") / "run")
    end_stages(run, 3)
    return run


@pytest.fixture(scope="module")
def exported(finished: Run) -> Path:
    """That run, exported for Hugging Face."""
    return export(finished.path, finished.path.parent / "exported")


@pytest.fixture
def encoder(tiny: ModelConfig) -> Callable[[], Parameters]:
    """Makes the parameters that are updated."""
    return lambda: parameters_of(tiny)
