"""Fixtures that several tests share: a tiny corpus and its store."""

import random
from pathlib import Path

import pytest
import torch

from mslt.data.prepare import PrepareConfig, prepare

torch.set_num_threads(1)  # tests run side by side


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
