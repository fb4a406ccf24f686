"""LayerNorm in bf16 on a CPU: its output is torch's, its gradients are those of fp32."""

import pytest
import torch
import torch.nn.functional as F

from mslt import norm
from mslt.norm import LayerNorm

N, D = 4096, 16


def off(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.float() - expected).detach().norm() / expected.detach().norm())


@pytest.mark.parametrize("rows", [1000, N])
def test_over_many_rows_the_gradients_in_bf16_are_those_of_fp32(rows, monkeypatch):
    """Of x, to the rounding of bf16; of weight and bias, which are sums in fp32, to fp32's."""
    monkeypatch.setattr(norm, "CHUNK_BYTES", rows * D * 4)
    torch.manual_seed(0)
    layer = LayerNorm(D, eps=1e-12)
    torch.nn.init.normal_(layer.weight)
    x = torch.randn(2, N // 2, D).bfloat16().requires_grad_()
    slope = torch.randn(x.shape).bfloat16()
    seen = torch.autograd.grad(layer(x), (x, layer.weight, layer.bias), slope)
    full = x.detach().float().requires_grad_()
    y = F.layer_norm(full, (D,), layer.weight, layer.bias, 1e-12)
    expected = torch.autograd.grad(y, (full, layer.weight, layer.bias), slope.float())
    assert layer(x).dtype == seen[0].dtype == torch.bfloat16
    assert off(layer(x), y) < 3e-3
    assert off(seen[0], expected[0]) < 3e-3
    assert off(seen[1], expected[1]) < 1e-5
    assert off(seen[2], expected[2]) < 1e-5


def test_in_fp32_it_is_torchs_own():
    x, layer, other = torch.randn(3, D), LayerNorm(D), torch.nn.LayerNorm(D)
    assert torch.equal(layer(x), other(x))
