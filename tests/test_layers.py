"""Fixed layers as one function: what they compute operation by operation, dropout included."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from mslt import kernels, layers
from mslt.config import ModelConfig, OptimizerConfig
from mslt.growth import freeze
from mslt.kernels import Kernels, find
from mslt.layers import Layers
from mslt.model import Encoder, equip, through
from mslt.norm import LayerNorm
from mslt.objective import Inputs
from mslt.prefix import Prefix
from mslt.trainer import Settings, Trainer

pytestmark = pytest.mark.skipif(
    shutil.which("cc") is None, reason="there is no C compiler, so there are no kernels"
)

HALF = torch.bfloat16
LENGTHS = [70, 1, 33, 64, 7]


@pytest.fixture(autouse=True)
def _the_same_numbers_each_time() -> None:
    torch.manual_seed(1)


@pytest.fixture(params=["own", "any"])
def found(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Kernels]:
    """With this processor's own instructions, tiles among them if it has any, and without."""
    if request.param == "any":
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        flags = tuple(flag for flag in kernels.FLAGS if flag != "-march=native")
        monkeypatch.setattr(kernels, "FLAGS", flags)
        find.cache_clear()
    made = find(HALF)
    assert made is not None
    yield made
    find.cache_clear()


@pytest.fixture
def config(tiny: ModelConfig) -> ModelConfig:
    """Sides of 64, 96 and, of a head, 32."""
    return replace(tiny, num_hidden_layers=3, hidden_size=64, intermediate_size=96)


def model_of(config: ModelConfig) -> Encoder:
    """With weights of a trained model's size, in bf16 but for LayerNorm's."""
    model = Encoder(config)
    for module in model.blocks.modules():
        for tensor in module.parameters(recurse=False):
            tensor.data += 0.1 * torch.randn_like(tensor)
            if not isinstance(module, LayerNorm):
                tensor.data = tensor.data.to(HALF)
    return model


def seen(lengths: list[int], length: int = 70) -> Tensor:
    return torch.arange(length) < torch.tensor(lengths)[:, None]


def off(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).float().norm() / expected.float().norm())


@torch.no_grad()
@pytest.mark.parametrize("act", ["gelu", "gelu_new"])
def test_they_compute_what_layers_compute(found, config, act):
    model = model_of(replace(config, hidden_act=act)).eval()
    x, tokens = torch.randn(5, 70, 64).to(HALF), seen(LENGTHS)
    expected = through(model.layers(0, 3), x, tokens, None)
    whole = Layers(model.layers(0, 3), found)
    y = whole(x, tokens, 0, 3, training=False)
    assert off(y[tokens], expected[tokens]) < 0.01
    assert not y[~tokens].any()
    part = whole(whole(x, tokens, 0, 1, training=False), tokens, 1, 3, training=False)
    assert torch.equal(part, y)
    one = whole(x[2:3], tokens[2:3], 0, 3, training=False)
    assert torch.equal(one, y[2:3])  # a sequence knows nothing of the others


@torch.no_grad()
def test_they_drop_out_what_layers_drop_out(found, config):
    model = model_of(config).train()
    equip(model, found)
    x = torch.randn(3, 70, 64).to(HALF)
    outs = []
    for again in range(3):
        torch.manual_seed(7)
        if again:
            outs.append(Layers(model.layers(0, 3), found)(x, None, 0, 3, training=True))
        else:
            outs.append(through(model.layers(0, 3), x, None, found))
    assert torch.equal(outs[1], outs[2])
    assert off(outs[1], outs[0]) < 0.01
    others = Layers(model.layers(0, 3), found)(x, None, 0, 3, training=True)
    assert off(others, outs[0]) > 0.1


@torch.no_grad()
def test_threads_and_what_passes_together_change_no_bit(found, config, monkeypatch):
    model, threads = model_of(config), torch.get_num_threads()
    x, tokens = torch.randn(5, 70, 64).to(HALF), seen(LENGTHS)
    outs = []
    for count, together in ((1, 1), (1, 100), (2, 1000), (3, 80), (7, 1)):
        torch.set_num_threads(count)
        monkeypatch.setattr(layers, "TOGETHER", together)
        torch.manual_seed(7)
        outs.append(Layers(model.layers(0, 3), found)(x, tokens, 0, 3, training=True))
    torch.set_num_threads(threads)
    assert all(torch.equal(outs[0], other) for other in outs[1:])


@torch.no_grad()
def test_in_eight_bits_they_compute_almost_the_same(found, config):
    model = model_of(replace(config, intermediate_size=128)).eval()
    x, tokens = torch.randn(5, 70, 64).to(HALF), seen(LENGTHS)
    expected = Layers(model.layers(0, 3), found)(x, tokens, 0, 3, training=False)
    whole = Layers(model.layers(0, 3), found, int8=True)
    y = whole(x, tokens, 0, 3, training=False)
    assert 0 < off(y[tokens], expected[tokens]) < 0.04
    assert torch.equal(whole(x[2:3], tokens[2:3], 0, 3, training=False), y[2:3])
    x[2, 5] = torch.inf
    y = whole(x, tokens, 0, 3, training=False)
    assert y[2][tokens[2]].isnan().all()
    assert y[[0, 1, 3, 4]].isfinite().all()


@torch.no_grad()
def test_of_no_sequences_nothing_comes(found, config):
    whole = Layers(model_of(config).layers(0, 1), found)
    assert whole(torch.empty(0, 70, 64).to(HALF), None, 0, 1, training=True).shape == (0, 70, 64)


@torch.no_grad()
def test_long_sequences_and_layers_that_are_the_same(found, config):
    model = model_of(config).eval()
    x, tokens = torch.randn(2, 600, 64).to(HALF), seen([600, 555], 600)
    same = [model.blocks[1]] * 2
    expected = through(same, x, tokens, None)
    y = Layers(same, found)(x, tokens, 0, 2, training=False)
    assert off(y[tokens], expected[tokens]) < 0.01


@torch.no_grad()
def test_what_is_no_number_stays_in_its_sequence(found, config):
    x, tokens = torch.randn(5, 70, 64).to(HALF), seen(LENGTHS)
    x[2, 5] = torch.nan
    y = Layers(model_of(config).layers(0, 2), found)(x, tokens, 0, 2, training=False)
    assert y[2][tokens[2]].isnan().all()
    assert y[[0, 1, 3, 4]].isfinite().all()


def test_only_sides_of_whole_tiles_are_taken_and_only_where_there_are_tiles(config, monkeypatch):
    kept = find(HALF)
    for tiles in (False, True):
        monkeypatch.setattr(kept, "tiles", tiles)
        assert Layers.fit(config, kept) == tiles
    for other in ({"num_attention_heads": 4}, {"intermediate_size": 100}):
        assert not Layers.fit(replace(config, **other), kept)
    assert not Layers.fit(config, kept, int8=True)  # 96 bytes
    assert not Layers.fit(config, find(torch.float32))
    assert not Layers.fit(config, None)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", ["exact", "bf16", "int8"])
def test_training_above_them_is_training_above_layers(
    config, random_batch, monkeypatch, kind, precision
):
    """Weights, kept by reference or copied, are those that the layers have."""
    losses, taken = [], []
    still = replace(config, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    still = replace(still, intermediate_size=128)
    for tiles in (False, True):
        monkeypatch.setattr(find(HALF), "tiles", tiles)
        model = Encoder(still)
        freeze(model, 2)
        how = Settings(OptimizerConfig("adamw"), precision, 8, pair=True, seed=3, prefix=kind)
        trainer = Trainer(model, how, {})
        taken.append(trainer.prefix._whole is not None)
        losses.append([float(trainer.step(s, random_batch(s), 1e-3)["mlm_loss"]) for s in range(3)])
    assert taken == [False, kind == "bf16" or precision == "bf16"]
    assert losses[0] == pytest.approx(losses[1], rel=5e-3)


def test_exact_ones_drop_out_by_step_and_place(config, random_batch, monkeypatch):
    monkeypatch.setattr(find(HALF), "tiles", True)
    model = model_of(config)
    freeze(model, 2)
    equip(model, find(HALF))
    prefix, inputs = Prefix(model, 2, "exact"), Inputs.of(random_batch(), "cpu")
    one, two, other = (prefix(inputs, lambda _, n=n: torch.manual_seed(n)) for n in (3, 3, 4))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)
