"""Attention by chunks is attention, with its gradients, its padding and its dropout."""

import math

import pytest
import torch
import torch.nn.functional as F

from mslt import attention
from mslt.attention import attend
from mslt.dropout import keep_mask, kept_share

B, H, R, L, K = 3, 4, 8, 9, 8


def heads(dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    shapes = [(B, H, R, K), (B, H, L, K), (B, H, L, K)]
    return [torch.randn(s, generator=generator).to(dtype).requires_grad_() for s in shapes]


def plainly(q, k, v, seen, keep):
    """What the docstring says, in one line a step."""
    scores = q @ k.mT / math.sqrt(K)
    if seen is not None:
        scores = scores.masked_fill(~seen[:, None, None, :], -math.inf)
    weights = scores.softmax(-1)
    return (weights if keep is None else weights * keep / kept_share(0.2)) @ v


@pytest.fixture(
    params=[1, 3 * R * L * 4, 8 * R * L * 4, 1 << 20],
    ids=["one head", "three heads", "two sequences", "all of them"],
)
def chunks(request, monkeypatch):
    monkeypatch.setattr(attention, "CHUNK_BYTES", request.param)


@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize("p", [0.0, 0.2])
@pytest.mark.parametrize("padded", [False, True])
def test_values_and_gradients_are_those_of_the_definition(p, padded):
    seen = torch.arange(L) < torch.tensor([9, 4, 1])[:, None] if padded else None
    torch.manual_seed(5)
    keep = keep_mask((B * H, R, L), p).view(B, H, R, L) if p else None
    expected_inputs, inputs = heads(), heads()
    expected = plainly(*expected_inputs, seen, keep)
    torch.manual_seed(5)
    mixed = attend(*inputs, seen, p)
    assert (mixed - expected).abs().max() < 1e-5
    slope = torch.randn(mixed.shape)
    for ours, theirs in zip(
        torch.autograd.grad(mixed, inputs, slope),
        torch.autograd.grad(expected, expected_inputs, slope),
    ):
        assert (ours - theirs).abs().max() < 1e-5


@pytest.mark.usefixtures("chunks")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("p", [0.0, 0.2])
def test_without_gradients_the_values_are_the_same(p, dtype):
    seen = torch.arange(L) < torch.tensor([9, 4, 1])[:, None]
    torch.manual_seed(6)
    learning = attend(*heads(dtype), seen, p)
    torch.manual_seed(6)
    with torch.no_grad():
        assert (attend(*heads(dtype), seen, p) - learning).abs().max() < 1e-5


def test_bf16_stays_bf16_and_close():
    q, k, v = heads(torch.bfloat16)
    mixed = attend(q, k, v, None, 0.0)
    mixed.sum().backward()
    assert mixed.dtype == q.grad.dtype == torch.bfloat16
    assert (mixed.float() - F.scaled_dot_product_attention(*heads())).abs().max() < 0.05
