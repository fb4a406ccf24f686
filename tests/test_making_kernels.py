"""How kernels are compiled, kept and found again, and what there is without them."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mslt import kernels
from mslt.config import OptimizerConfig
from mslt.kernels import find
from mslt.model import Encoder
from mslt.trainer import Settings, Trainer

pytestmark = pytest.mark.skipif(
    shutil.which("cc") is None, reason="there is no C compiler, so there are no kernels"
)


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home of its own, in which none were made yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    find.cache_clear()
    yield tmp_path / "mslt"
    find.cache_clear()


def test_they_are_made_once_and_kept(fresh, monkeypatch):
    assert find(torch.float32) is not None
    (made,) = fresh.iterdir()
    find.cache_clear()
    monkeypatch.setattr(kernels, "_compile", None)
    assert find(torch.float32) is not None
    assert list(fresh.iterdir()) == [made]


@pytest.mark.parametrize(
    "compiler", ["no-such-compiler", "false", "true", "cc --no-such-option", "cc 'unclosed"]
)
def test_without_a_compiler_that_works_there_are_none(fresh, monkeypatch, compiler):
    monkeypatch.setenv("CC", compiler)
    assert find(torch.float32) is None


def test_where_nothing_can_be_kept_there_are_none(fresh):
    fresh.write_text("a file where the folder should be")
    assert find(torch.float32) is None


def test_a_damaged_one_is_made_anew(fresh, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(kernels, "_compile", lambda _, place: place.write_bytes(b"\x7fELF"))
        assert find(torch.float32) is None
    (made,) = fresh.iterdir()
    find.cache_clear()
    assert find(torch.float32) is not None
    assert list(fresh.iterdir()) == [made]


def test_there_are_none_for_other_numbers():
    assert find(torch.float16) is None


def test_training_goes_on_without_them(fresh, monkeypatch, tiny, random_batch):
    monkeypatch.setenv("CC", "false")
    how = Settings(OptimizerConfig("adamw"), "fp32", micro_batch=8, pair=True, seed=7)
    trainer = Trainer(Encoder(tiny, 2), how, {})
    assert trainer.computing.blocks[0].mlp.kernels is None
    assert torch.isfinite(trainer.step(0, random_batch(), 1e-3)["mlm_loss"])


def test_without_a_home_there_are_none(fresh, monkeypatch):
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    assert find(torch.float32) is None


def test_without_a_processor_s_name_there_are_none(fresh, monkeypatch):
    def unreadable() -> str:
        raise FileNotFoundError("/proc/cpuinfo")

    monkeypatch.setattr(kernels, "_processor", unreadable)
    assert find(torch.float32) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_any_processor_will_do_and_there_is_nothing_to_warn_of(fresh, monkeypatch, dtype):
    """Without this one's own instructions: numbers and what is none come out alike."""
    own = find(dtype)
    assert own is not None
    flags = [flag for flag in kernels.FLAGS if flag != "-march=native"]
    monkeypatch.setattr(kernels, "FLAGS", (*flags, "-Wall", "-Wextra", "-Werror"))
    find.cache_clear()
    plain = find(dtype)
    assert plain is not None
    bits = torch.tensor([0x7FFFFFFF, -1, 0x7F800000, 0x7FC00000, 1 << 30], dtype=torch.int32)
    shift = torch.cat([bits.view(torch.float32), torch.randn(36)])
    x = torch.randn(70, 41).to(dtype)
    ones, keep_all = torch.ones(41), kernels.dropping(0.0)
    outs = [
        each.normed_sum(x, x, x[0], ones, shift, 1e-5, keep_all, backward=True)[0]
        for each in (own, plain)
    ]
    close = {"rtol": 1e-2, "atol": 1e-2} if dtype == torch.bfloat16 else {}
    torch.testing.assert_close(*outs, equal_nan=True, **close)
    assert outs[1][:, [0, 1, 3]].isnan().all()
