"""The forward-only layers: the same mathematics when exact, close to it when fast."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mslt.config import ModelConfig, OptimizerConfig
from mslt.data.instances import Batch
from mslt.growth import forward_only, freeze
from mslt.machine import generator
from mslt.model import Encoder
from mslt.objective import Inputs, losses
from mslt.packed import _most_after_gelu
from mslt.prefix import Prefix, pick_kind
from mslt.trainer import Settings, Trainer

SETTINGS = Settings(OptimizerConfig(name="adamw"), "fp32", micro_batch=4, pair=True, seed=3)
KINDS = ("exact", "fp32", "bf16", "int8", "fp8")


@pytest.fixture
def model(tiny: ModelConfig) -> Encoder:
    """Three layers with weights of a trained model's size, the lowest two fixed."""
    model = Encoder(tiny, 3, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for block in model.blocks:
            for parameter in block.parameters():
                parameter += torch.randn(parameter.shape, generator=generator) * 0.1
    freeze(model, 2)
    return model


def without_dropout(config: ModelConfig) -> ModelConfig:
    return replace(config, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)


@pytest.mark.parametrize(
    ("kind", "most"), [("exact", 0), ("fp32", 0), ("bf16", 2e-2), ("int8", 3e-2), ("fp8", 6e-2)]
)
def test_the_output_is_that_of_the_models_own_layers(model, random_batch, kind, most):
    inputs = Inputs.of(random_batch(), "cpu")
    with torch.no_grad():
        expected = model.eval().bottom(inputs.input_ids, inputs.segment_ids, inputs.seen, 2)
    model.embeddings.dropout.p = 0.0
    for block in model.blocks:
        block.attention.dropout.p = block.mlp.dropout.p = block.attention.weights_dropout_prob = 0.0
    found = Prefix(model, 2, kind)(inputs)
    assert not found.requires_grad
    assert found.dtype == torch.float32
    assert float((found - expected).norm() / expected.norm()) <= most


@pytest.mark.parametrize("kind", KINDS)
def test_only_exact_layers_have_dropout(model, random_batch, kind):
    inputs = Inputs.of(random_batch(), "cpu")
    prefix = Prefix(model.train(), 2, kind)
    assert torch.equal(prefix(inputs), prefix(inputs)) == (kind != "exact")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_sequences_pass_a_few_at_a_time_without_knowing_of_each_other(
    model, random_batch, monkeypatch, kind, precision
):
    """Padding included. In int8 they are scaled by the largest among those at once."""
    inputs = Inputs.of(random_batch(), "cpu")
    assert inputs.seen is not None
    model.blocks.to(precision)
    for block in model.blocks:
        block.attention.dropout.p = block.mlp.dropout.p = block.attention.weights_dropout_prob = 0.0
    model.embeddings.dropout.p = 0.0
    prefix, found = Prefix(model, 2, kind), []
    monkeypatch.setattr("mslt.prefix.NARROW", 0)
    for tokens in (1, 2 * inputs.input_ids.shape[1], 1_000_000):
        monkeypatch.setattr("mslt.prefix.CACHED_TOKENS", tokens)
        found.append(prefix(inputs, lambda place: None).float())
    usual = 1e-5 if precision == torch.float32 else 0.02
    rounding = {"exact": usual, "fp32": 1e-5, "bf16": 0.02, "int8": 0.04, "fp8": 0.04}[kind]
    for other in found[1:]:
        assert float((other - found[0]).norm() / found[0].norm()) <= rounding


@pytest.mark.parametrize("kind", ["exact", "int8"])
def test_dropout_and_scales_do_not_depend_on_the_threads(model, random_batch, monkeypatch, kind):
    """They are of a few sequences together, by the place of the first; bit for bit."""
    one = random_batch(sequences=2)
    batch = Batch(*(np.concatenate([value] * 4) for value in vars(one).values()))
    inputs, seeds = Inputs.of(batch, "cpu"), []
    monkeypatch.setattr("mslt.prefix.CACHED_TOKENS", 2 * inputs.input_ids.shape[1])
    monkeypatch.setattr("mslt.prefix.NARROW", 0)

    def seed(place: int) -> None:
        seeds.append(place)
        generator().manual_seed(place)

    monkeypatch.setattr("mslt.machine._cores", lambda: 4)
    found, threads = [], torch.get_num_threads()
    for count in (1, 4):
        torch.set_num_threads(count)
        found.append(Prefix(model, 2, kind)(inputs, seed))
    torch.set_num_threads(threads)
    assert torch.equal(*found)
    assert sorted(seeds) == [0, 0, 2, 2, 4, 4, 6, 6]
    parts = found[0].split(2)
    assert [torch.equal(parts[0], part) for part in parts[1:]] == 3 * [kind != "exact"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_model_itself_stays_as_it_is(model, random_batch, kind):
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    Prefix(model, 2, kind)(Inputs.of(random_batch(), "cpu"))
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_split_model_has_the_loss_and_gradients_of_the_whole(tiny, random_batch):
    inputs = Inputs.of(random_batch(), "cpu")
    grads = []
    for split in (False, True):
        model = Encoder(without_dropout(tiny), 3, seed=1)
        freeze(model, 2)
        x = Prefix(model, 2, "exact")(inputs) if split else None
        sum(losses(model, inputs, x, 2 if split else 0)).backward()
        grads.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert grads[0].keys() == grads[1].keys()
    assert all((grads[0][name] - grads[1][name]).abs().max() < 1e-6 for name in grads[0])


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("kind", KINDS)
def test_training_above_fast_layers_is_close_to_training_above_exact_ones(
    tiny, random_batch, kind, precision
):
    seen = []
    for prefix in ("exact", kind):
        model = Encoder(without_dropout(tiny), 3, seed=1)
        freeze(model, 2)
        settings = replace(SETTINGS, prefix=prefix, prefix_batch=8, precision=precision)
        trainer = Trainer(model, settings, {})
        seen.append([float(trainer.step(s, random_batch(s), 1e-3)["mlm_loss"]) for s in range(4)])
    assert seen[0] == pytest.approx(seen[1], abs=0.02)


def test_recomputed_layers_have_the_same_losses_and_updates_with_dropout(tiny, random_batch):
    models = []
    for recompute in (False, True):
        models.append(Encoder(tiny, 3, seed=1))
        freeze(models[-1], 0)
        trainer = Trainer(models[-1], replace(SETTINGS, recompute=recompute), {})
        for step in range(3):
            trainer.step(step, random_batch(step), 1e-3)
    one, other = (dict(model.named_parameters()) for model in models)
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_forward_only_counts_the_layers_below_the_first_that_learns(tiny):
    model = Encoder(tiny, 3)
    for below in (0, 1, 2):
        freeze(model, below)
        assert forward_only(model) == below
    model.requires_grad_(False)
    assert forward_only(model) == 3


def of(width: int, inner: int = 0) -> ModelConfig:
    return ModelConfig(
        vocab_size=48, hidden_size=width, intermediate_size=inner, num_attention_heads=1
    )


def test_a_kind_that_the_device_lacks_is_refused():
    with pytest.raises(ValueError, match="int8 needs an x86 CPU"):
        pick_kind("int8", "cuda:0", of(256), None)
    with pytest.raises(ValueError, match="fp8 needs widths that 16 divides"):
        pick_kind("fp8", "cpu", of(100), None)
    with pytest.raises(ValueError, match="fp8 needs widths that 16 divides"):
        pick_kind("fp8", "cpu", of(768, 1000), None)
    assert pick_kind("exact", "cpu", of(256), None) == "exact"
    assert pick_kind("fast", "cpu", of(256), None) in ("bf16", "int8", "fp32")


@pytest.mark.parametrize(
    ("amx", "speedup", "vnni", "narrow", "wide", "wider"),
    [
        (True, 9.0, True, "bf16", "bf16", "bf16"),
        (False, 2.4, True, "bf16", "int8", "int8"),
        (False, 2.4, False, "bf16", "bf16", "bf16"),
        (False, 1.0, True, "int8", "int8", "int8"),
        (False, 0.1, False, "int8", "int8", "int8"),
    ],
)
def test_fast_is_bf16_where_that_is_fast_and_int8_elsewhere_or_in_a_wide_model(
    monkeypatch, amx, speedup, vnni, narrow, wide, wider
):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: vnni)
    monkeypatch.setattr("mslt.prefix.multiplies_int8", lambda: True)
    monkeypatch.setattr("mslt.machine.bf16_speedup", lambda: speedup)
    kinds = [pick_kind("fast", "cpu", of(width), None) for width in (128, 256, 384)]
    assert kinds == [narrow, wide, wider]
    monkeypatch.setattr("mslt.layers.Layers.fit", lambda *_, int8: int8)
    kinds = [pick_kind("fast", "cpu", of(width), None) for width in (256, 384)]
    assert kinds == (["bf16", "int8"] if amx else [wide, wider])


@pytest.mark.parametrize(
    ("capability", "bf16", "expected"),
    [
        ((9, 0), True, ["fp8", "bf16", "bf16"]),
        ((8, 9), True, ["fp8", "bf16", "bf16"]),
        ((8, 0), True, ["bf16"] * 3),
        ((7, 0), False, ["fp32"] * 3),
    ],
)
def test_fast_on_a_gpu_is_fp8_where_it_has_that_and_the_model_is_wide(
    monkeypatch, capability, bf16, expected
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16)
    assert [pick_kind("fast", "cuda:0", of(width), None) for width in (768, 256, 1000)] == expected
    if capability < (8, 9):
        with pytest.raises(ValueError, match="needs widths"):
            pick_kind("fp8", "cuda:0", of(768), None)


def test_what_follows_gelu_is_never_larger_than_what_8_bits_are_scaled_to(model, random_batch):
    """Whatever goes in; and never by so much that they would be too coarse."""
    block = model.blocks[0]
    most = float(_most_after_gelu(block))
    for scale in (1e-3, 1.0, 1e3):
        x = torch.randn(5000, 16) * scale
        inner = F.gelu(block.mlp.up(block.attention.norm(x)))
        assert float(inner.max()) < most < 50 * float(inner.std())
