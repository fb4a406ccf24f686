"""What is true on a CPU is true on a GPU. Where there is none, all of this is skipped."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import pytest
import torch
from made_up_updates import aged
from tiny_run import TINY, losses, steps
from torch import nn

from mslt.config import ModelConfig, OptimizerConfig
from mslt.data.instances import Batch
from mslt.dropout import hashed
from mslt.graphs import Graphs
from mslt.growth import freeze
from mslt.masked_loss import Slopes, masked_token_loss
from mslt.model import Encoder
from mslt.objective import Inputs
from mslt.optim import Optimizer
from mslt.prefix import Prefix, pick_kind
from mslt.trainer import Settings, Trainer
from mslt.world import World

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")

GPU = "cuda:0"
SETTINGS = Settings(OptimizerConfig("adamw"), "fp32", micro_batch=8, pair=True, seed=7)


@pytest.fixture
def wide(tiny: ModelConfig) -> ModelConfig:
    """Of even sizes, but for the vocabulary, and without dropout, which no two devices share."""
    return replace(
        tiny,
        vocab_size=90,
        hidden_size=64,
        num_attention_heads=2,
        intermediate_size=128,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )


def model_of(config: ModelConfig, below: int, device: str) -> Encoder:
    model = Encoder(config, 3, seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    freeze(model, below)
    return model.to(device)


def trained(
    config: ModelConfig, settings: Settings, below: int, device: str, batch: Callable[..., Batch]
) -> tuple[list[float], torch.Tensor]:
    """Losses and norms of six steps, each of which ends with a short micro-batch, and weights."""
    trainer = Trainer(model_of(config, below, device), settings, {}, World(device=device))
    found = []
    for step in range(6):
        values = trainer.step(step, batch(step, sequences=20), 1e-3, lambda _: True)
        found += [float(value) for value in values.values()]
    return found, torch.cat([p.detach().cpu().flatten() for p in trainer.model.parameters()])


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("below", [0, 2])
@pytest.mark.parametrize("name", ["adamw", "lamb"])
def test_training_is_that_of_a_cpu(wide, random_batch, compiled, below, name):
    """In fp32, and with graphs from the third micro-batch of a kind on."""
    torch._dynamo.reset()
    how = replace(SETTINGS, optimizer=OptimizerConfig(name))
    expected, weights = trained(wide, how, below, "cpu", random_batch)
    found, others = trained(wide, replace(how, compile=compiled), below, GPU, random_batch)
    assert found == pytest.approx(expected, rel=1e-4)
    torch.testing.assert_close(others, weights, rtol=1e-3, atol=3e-4)


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(("kind", "below"), [("exact", 0), ("exact", 2), ("bf16", 2), ("fp8", 2)])
@pytest.mark.parametrize("name", ["adamw", "lamb"])
def test_training_in_bf16_is_near_that_in_fp32(wide, random_batch, compiled, kind, below, name):
    torch._dynamo.reset()
    plain = replace(SETTINGS, optimizer=OptimizerConfig(name))
    expected, _ = trained(wide, plain, below, "cpu", random_batch)
    how = replace(plain, precision="bf16", compile=compiled, prefix=kind, prefix_batch=16)
    found, _ = trained(wide, how, below, GPU, random_batch)
    assert found == pytest.approx(expected, rel=0.05)


@pytest.mark.parametrize("recompute", [False, True])
def test_graphs_and_recomputing_draw_the_dropout_that_steps_without_them_draw(
    wide, random_batch, recompute
):
    """By the step and the place in it, whatever was drawn before."""
    config = replace(wide, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.1)
    how = replace(SETTINGS, compile=True, recompute=recompute)
    torch._dynamo.reset()
    whole = Trainer(model_of(config, 2, GPU), how, {}, World(device=GPU))
    batches = [random_batch(step, sequences=16) for step in range(8)]
    for step, batch in enumerate(batches):
        whole.step(step, batch, 0.0)
    later = [float(whole.step(9, batches[0], 0.0)["mlm_loss"]) for _ in range(2)]
    fresh = Trainer(model_of(config, 2, GPU), how, {}, World(device=GPU))
    first = float(fresh.step(9, batches[0], 0.0)["mlm_loss"])
    assert later == pytest.approx([first, first], rel=1e-5)
    other = float(fresh.step(10, batches[0], 0.0)["mlm_loss"])
    assert other != pytest.approx(first, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("compiled", [False, True])
def test_the_loss_of_masked_tokens_and_its_gradients_are_those_of_a_cpu(
    monkeypatch, dtype, compiled
):
    torch._dynamo.reset()
    monkeypatch.setattr("mslt.masked_loss.GPU_CHUNK_LOGITS", 7 * 56)
    N, V, D = 21, 50, 16
    torch.manual_seed(0)
    given = [torch.randn(shape) for shape in ((N, D), (V, D), (V,))]
    ids, weights = torch.randint(0, V, (N,)), (torch.arange(N) % 4 > 0).float()
    mine = [x.clone().requires_grad_() for x in given]
    expected = masked_token_loss(*mine, ids, weights)
    expected.backward()
    more = nn.functional.pad(given[1], (0, 0, 0, 6))  # rows that are no pieces
    theirs = [x.to(GPU, dtype).requires_grad_() for x in (given[0], more, given[2])]
    slopes = Slopes()
    if compiled:
        slopes.compile(dynamic=False)
    found = masked_token_loss(*theirs, ids.to(GPU), weights.to(GPU), slopes)
    found.backward()
    close = {"rtol": 1e-4, "atol": 1e-4} if dtype == torch.float32 else {"rtol": 0.05, "atol": 0.1}
    torch.testing.assert_close(found.cpu(), expected, **close)
    for ours, its in zip(theirs, mine):
        assert ours.grad is not None
        torch.testing.assert_close(ours.grad.float().cpu()[: len(its)], its.grad, **close)
    assert not theirs[1].grad[V:].any()


@pytest.mark.parametrize(("kind", "most"), [("exact", 1e-5), ("bf16", 0.02), ("fp8", 0.08)])
@pytest.mark.parametrize("compiled", [False, True])
def test_forward_only_layers_give_what_those_of_a_cpu_give(
    wide, random_batch, kind, most, compiled
):
    torch._dynamo.reset()
    batch = random_batch()
    expected = Prefix(model_of(wide, 2, "cpu"), 2, "exact")(Inputs.of(batch, "cpu"))
    prefix = Prefix(model_of(wide, 2, GPU), 2, kind)
    if compiled:
        prefix.compile()
    found = prefix(Inputs.of(batch, GPU)).float().cpu()
    assert float((found - expected).norm() / expected.norm()) <= most


def test_compiled_dropout_drops_what_it_drops_on_a_cpu():
    x, words = torch.randn(300, 77), torch.tensor([2**31 - 5, 77], dtype=torch.int32)
    compiled = torch.compile(hashed, dynamic=False)
    theirs = x.to(GPU).requires_grad_()
    found = compiled(theirs, 0.1, words.to(GPU))
    torch.testing.assert_close(found.cpu(), hashed(x, 0.1, words))
    found.sum().backward()
    torch.testing.assert_close((theirs.grad * theirs).detach(), found.detach())


def test_a_batch_may_be_made_and_passed_before_the_step_is_accepted(wide, random_batch):
    """Weights are those of a run that does one after the other."""
    torch._dynamo.reset()
    found = []
    for ahead in (False, True):
        how = replace(SETTINGS, compile=True, look_ahead=ahead, precision="bf16", micro_batch=4)
        trainer = Trainer(model_of(wide, 2, GPU), how, {}, World(device=GPU))
        batches = [random_batch(step, sequences=10) for step in range(9)]
        for step, batch in enumerate(batches[:8]):
            later = partial(batches.__getitem__, step + 1)
            trainer.step(step, batch, 1e-3, lambda _: True, later)
        found.append(torch.cat([p.detach().flatten() for p in trainer.model.parameters()]))
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ["exact", "bf16"])
@pytest.mark.parametrize(("micro", "prefix"), [(4, 16), (4, 8), (2, 4)])
def test_what_forward_only_layers_put_out_outlives_other_records(
    wide, random_batch, kind, micro, prefix
):
    """Several micro-batches in a group, several groups, and another trainer's steps in between."""
    torch._dynamo.reset()
    found = []
    for compiled in (False, True):
        how = replace(SETTINGS, compile=compiled, precision="bf16", prefix=kind, look_ahead=True)
        how = replace(how, micro_batch=micro, prefix_batch=prefix)
        trainers = [Trainer(model_of(wide, b, GPU), how, {}, World(device=GPU)) for b in (2, 0)]
        batches = [random_batch(step, sequences=16) for step in range(8)]
        for step, batch in enumerate(batches[:7]):
            later = partial(batches.__getitem__, step + 1)
            for trainer in trainers:
                values = trainer.step(step, batch, 1e-3, lambda _: True, later)
                found.append([float(value) for value in values.values()])
    plain, recorded = found[:14], found[14:]
    for seen, expected in zip(recorded, plain):
        assert seen == pytest.approx(expected, rel=0.02)


def test_a_recorded_trainer_goes_on_after_a_refused_step_and_an_evaluation(wide, random_batch):
    torch._dynamo.reset()
    found = []
    for compiled in (False, True):
        how = replace(SETTINGS, compile=compiled)
        trainer = Trainer(model_of(wide, 2, GPU), how, {}, World(device=GPU))
        for step in range(8):
            taken = step != 5
            trainer.step(step, random_batch(step, sequences=16), 1e-3, lambda _, t=taken: t)
            found.append(trainer.evaluate([random_batch(99)])["mlm_loss"])
    assert found[8:] == pytest.approx(found[:8], rel=1e-3)
    assert found[5] == found[4]


@pytest.mark.parametrize("name", ["adamw", "lamb"])
def test_a_recorded_update_goes_by_each_step_s_rate_and_each_moment_s_age(wide, name):
    torch._dynamo.reset()
    graphs, config, found = Graphs(), OptimizerConfig(name), []
    for device in ("cpu", GPU):
        parameters = dict(model_of(wide, 0, device).named_parameters())
        moments = aged(parameters)
        more = {} if device == "cpu" else {"record": partial(graphs, "update"), "compile": True}
        optimizer = Optimizer(parameters, config, moments, **more)
        for step in range(6):
            generator = torch.Generator().manual_seed(step)
            for p in parameters.values():
                p.grad.copy_(torch.randn(p.shape, generator=generator))
            optimizer.update(1e-2 / (1 + step))
        found.append(torch.cat([p.detach().cpu().flatten() for p in parameters.values()]))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("clip_norm", [0.0, 1e-3, 1e6])
def test_adamw_is_torchs(clip_norm):
    torch.manual_seed(0)
    config = OptimizerConfig("adamw", clip_norm=clip_norm)
    ours, theirs = (nn.Parameter(torch.ones(1000, 33, device=GPU)) for _ in range(2))
    optimizer = Optimizer({"a.weight": ours}, config)
    reference = torch.optim.AdamW(
        [theirs], 1e-2, (config.beta1, config.beta2), config.eps, config.weight_decay
    )
    for _ in range(5):
        theirs.grad = torch.randn_like(theirs)
        ours.grad.copy_(theirs.grad)
        nn.utils.clip_grad_norm_([theirs], clip_norm or float("inf"))
        reference.step()
        optimizer.update(1e-2)
        torch.testing.assert_close(ours, theirs)


def test_fast_is_the_fewest_bits_that_the_gpu_has():
    capability = torch.cuda.get_device_capability(GPU)
    assert pick_kind("fast", GPU, ModelConfig(hidden_size=1024), None) == (
        "fp8" if capability >= (8, 9) else "bf16"
    )
    assert pick_kind("fast", GPU, ModelConfig(hidden_size=64), None) == "bf16"


@pytest.mark.parametrize(("compiled", "count"), [("off", 10), ("on", 30)])
def test_a_run_goes_through_all_its_stages_as_on_a_cpu(
    store: Path, tmp_path: Path, compiled: Literal["on", "off"], count: int
) -> None:
    """Of 30 steps each stage has some that are repeated from records."""
    torch._dynamo.reset()
    tiny = replace(TINY, steps=count, save_every=10)
    config = replace(tiny, device=GPU, precision="auto", compile=compiled, micro_batch=0)
    steps(config, store, tmp_path / "run", count)
    found = [loss for kind, _, loss, _ in losses(tmp_path / "run") if kind == "train"]
    steps(tiny, store, tmp_path / "cpu", count)
    expected = [loss for kind, _, loss, _ in losses(tmp_path / "cpu") if kind == "train"]
    assert found == pytest.approx(expected, rel=0.05)
