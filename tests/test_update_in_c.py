"""Updates as functions in C, against torch's operations."""

from dataclasses import replace

import pytest
import torch
from made_up_updates import aged, gradients, lr, values
from torch import Tensor

from mslt.config import ModelConfig, OptimizerConfig
from mslt.kernels import find
from mslt.model import Encoder
from mslt.optim import Optimizer
from mslt.trainer import Settings, Trainer

pytestmark = pytest.mark.skipif(find(torch.float32) is None, reason="there is no C compiler")


def updated(
    config: ModelConfig, how: OptimizerConfig, dtype: torch.dtype | None, threads: int = 1
) -> tuple[dict[str, Tensor], dict[str, Tensor], Optimizer]:
    """Weights and copies after some updates by functions of a type, or by torch's operations."""
    torch.set_num_threads(threads)
    parameters = dict(Encoder(config, 2, seed=1).named_parameters())
    moments = aged(parameters)
    kernels = None if dtype is None else find(dtype)
    room = {"embeddings.token.weight": parameters["embeddings.token.weight"].numel() + 500}
    copies = dtype != torch.float32
    optimizer = Optimizer(parameters, how, moments, copies=copies, room=room, kernels=kernels)
    for step in range(5):
        for name, gradient in gradients(parameters, step).items():
            parameters[name].grad.copy_(gradient)
        optimizer.update(lr(step))
    return values(parameters), optimizer.copies() or {}, optimizer


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("clip_norm", [0.0, 0.5])
@pytest.mark.parametrize("width", [9, 12, 64])
@pytest.mark.parametrize("name", ["adamw", "lamb"])
def test_they_are_those_of_torch(tiny, name, width, clip_norm, dtype):
    """Whatever the rows: of 128 numbers, and of 1 and 16 for LAMB at widths of 9 and 12."""
    config = replace(tiny, hidden_size=width, num_attention_heads=1)
    how = OptimizerConfig(name, clip_norm=clip_norm)
    expected, _, theirs = updated(config, how, None)
    found, copies, ours = updated(config, how, dtype)
    for key, weight in expected.items():
        torch.testing.assert_close(found[key], weight, rtol=1e-5, atol=1e-6, msg=key)
        mine, its = ours.moments()[key], theirs.moments()[key]
        assert mine.updates == its.updates
        for a, b in zip(mine[:2], its[:2]):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6 * float(b.abs().max()), msg=key)
    for key, copy in copies.items():
        half, behind = copy.tensor_split([found[key].numel()])
        assert torch.equal(half, found[key].flatten().bfloat16())
        assert not behind.any()


@pytest.mark.parametrize("name", ["adamw", "lamb"])
def test_they_are_the_same_bit_for_bit_whatever_the_number_of_threads(tiny, name):
    one, two = (
        updated(tiny, OptimizerConfig(name), torch.bfloat16, threads)[0] for threads in (1, 2)
    )
    assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize("betas", [(0.0, 0.9), (0.9, 0.0), (0.0, 0.0)])
@pytest.mark.parametrize("name", ["adamw", "lamb"])
def test_moments_may_forget_at_once(tiny, name, betas):
    how = OptimizerConfig(name, beta1=betas[0], beta2=betas[1], clip_norm=0.0)
    expected, _, _ = updated(tiny, how, None)
    found, _, ours = updated(tiny, how, torch.float32)
    for key, (mean, square, _) in ours.moments().items():
        last = gradients(expected, 4)[key]
        if not betas[0]:
            torch.testing.assert_close(mean, last, rtol=1e-6, atol=0.0, msg=key)
        if not betas[1]:
            torch.testing.assert_close(square, last**2, rtol=1e-6, atol=0.0, msg=key)
        torch.testing.assert_close(found[key], expected[key], rtol=1e-4, atol=1e-5, msg=key)


def test_what_they_do_not_know_they_refuse(encoder, float64):
    optimizer = Optimizer(encoder(), OptimizerConfig(), kernels=find(torch.float32))
    with pytest.raises(TypeError, match=r"no function in C updates torch\.float64 on cpu"):
        optimizer.update(1e-2)


def test_a_model_in_fp64_is_left_to_torch(tiny, random_batch, float64):
    seen = []
    for kernels in (True, False):
        model = Encoder(tiny, 2, seed=1)
        settings = Settings(
            OptimizerConfig(), "fp32", micro_batch=8, pair=True, seed=7, kernels=kernels
        )
        trainer = Trainer(model, settings, {})
        for step in range(2):
            trainer.step(step, random_batch(step), 1e-2)
        seen.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert seen[0].dtype == torch.float64
    assert torch.equal(*seen)
