"""What the README shows works."""

import re
from pathlib import Path

import pytest
import torch

import mslt

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_example_grows_and_freezes_a_model_in_ones_own_loop():
    example = next(block for block in blocks("python") if "mslt.grow" in block)
    seen = []

    def my_batch(step, seq_len):
        draw = torch.Generator().manual_seed(step)
        seen.append(step)
        return (
            torch.randint(5, 8192, (2, seq_len), generator=draw),
            torch.zeros(2, seq_len, dtype=torch.long),
            torch.randint(1, seq_len, (2, 10), generator=draw),
            torch.randint(5, 8192, (2, 10), generator=draw),
            torch.randint(0, 2, (2,), generator=draw),
        )

    small = example.replace("hidden_size=128", "hidden_size=16").replace("steps=50", "steps=10")
    names = {"my_batch": my_batch}
    exec(small, names)
    model = names["model"]
    assert isinstance(model, mslt.Encoder)
    assert model.depth == 12
    assert seen == list(range(10))


def test_public_names_are_there_and_others_are_not():
    for name in mslt.__all__:
        assert getattr(mslt, name) is not None
        assert name in dir(mslt)
    with pytest.raises(AttributeError, match="no attribute 'train_everything'"):
        _ = mslt.train_everything


def test_every_file_that_the_documents_point_to_is_there():
    root = Path(__file__).parents[1]
    for page in [root / "README.md", *(root / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"
