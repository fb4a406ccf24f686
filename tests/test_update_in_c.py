"""Updates as functions in C, against torch's operations."""

from dataclasses import replace

import pytest
import torch
from made_up_updates import gradients, lr, values
from torch import Tensor

from mslt.config import ModelConfig, OptimizerConfig
from mslt.kernels import find
from mslt.model import Encoder
from mslt.optim import Moment, Optimizer

pytestmark = pytest.mark.skipif(find(torch.float32) is None, reason="there is no C compiler")


def updated(
    config: ModelConfig, how: OptimizerConfig, dtype: torch.dtype | None, threads: int = 1
) -> tuple[dict[str, Tensor], dict[str, Tensor], Optimizer]:
    """Weights and copies after some updates by functions of a type, or by torch's operations."""
    torch.set_num_threads(threads)
    parameters = dict(Encoder(config, 2, seed=1).named_parameters())
    moments = {
        name: Moment(torch.full_like(p, 1e-3), torch.full_like(p, 1e-2), updates)
        for updates, (name, p) in zip((3, 3, 20), parameters.items())
    }
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


def test_the_norm_of_many_gradients_is_exact() -> None:
    """Which torch's, of all of them at once, is not on a CPU."""
    many = torch.nn.Parameter(torch.zeros(1 << 23))
    optimizer = Optimizer({"a.weight": many}, OptimizerConfig())
    optimizer.grads.normal_(generator=torch.Generator().manual_seed(0))
    exact = optimizer.grads.double().norm()
    assert float(optimizer.norm()) == pytest.approx(float(exact), rel=1e-6)
