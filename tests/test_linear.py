"""Linear layers in bf16 on a CPU: torch's output bit for bit, and its gradients."""

import pytest
import torch
import torch.nn.functional as F

from mslt.linear import Linear, linear
from mslt.machine import has_onednn_bf16


@pytest.mark.parametrize("shape", [(48, 24), (3, 16, 24), (0, 24)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_computes_what_torch_computes(shape, dtype):
    torch.manual_seed(0)
    given = [torch.randn(s).to(dtype).requires_grad_() for s in (shape, (40, 24), (40,))]
    slope = torch.randn(*shape[:-1], 40).to(dtype)
    ours, theirs = linear(*given), F.linear(*given)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
    for seen, expected in zip(*(torch.autograd.grad(y, given, slope) for y in (ours, theirs))):
        torch.testing.assert_close(seen, expected, rtol=1e-2, atol=1e-2)


def test_only_the_gradients_that_are_wanted_are_computed():
    layer = Linear(8, 8).bfloat16()
    layer.weight.requires_grad_(False)
    x = torch.randn(4, 8).bfloat16()
    layer(x).sum().backward()
    assert layer.weight.grad is None
    assert torch.equal(layer.bias.grad, torch.full((8,), 4.0).bfloat16())
    layer.requires_grad_(False)
    assert not layer(x).requires_grad


@pytest.mark.skipif(not has_onednn_bf16(), reason="this CPU has no products in bf16")
def test_in_bf16_the_bias_is_added_by_the_product():
    layer = Linear(8, 8).bfloat16()
    assert "_Linear" in str(layer(torch.randn(4, 8).bfloat16()).grad_fn)
    assert "Addmm" in str(layer.float()(torch.randn(4, 8)).grad_fn)
