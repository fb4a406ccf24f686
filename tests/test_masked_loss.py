"""The masked-token loss, whose gradients are computed on the way, against torch's own parts."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mslt import masked_loss
from mslt.masked_loss import at_once, in_the_cache, masked_token_loss

N, V, D = 21, 50, 8


def made_up(dtype: torch.dtype) -> tuple[list[Tensor], Tensor, Tensor]:
    torch.manual_seed(0)
    given = [torch.randn(shape).to(dtype).requires_grad_() for shape in ((N, D), (V, D), (V,))]
    weights = torch.ones(N)
    weights[::4] = 0.0
    return given, torch.randint(0, V, (N,)), weights


def plainly(given: list[Tensor], ids: Tensor, weights: Tensor) -> Tensor:
    hidden, token, bias = given
    return (F.cross_entropy(hidden @ token.T + bias, ids, reduction="none") * weights).sum()


@pytest.mark.parametrize("logits", [N * V, 5 * V, 1])
@pytest.mark.parametrize("cached", [N * V, 2 * V, 1])
def test_however_it_is_cut_the_loss_and_its_gradients_are_cross_entropys(
    monkeypatch, logits, cached
):
    """fp32 sums in another order: 1e-5."""
    monkeypatch.setattr(masked_loss, "CHUNK_LOGITS", logits)
    monkeypatch.setattr(masked_loss, "CACHED_LOGITS", cached)
    given, ids, weights = made_up(torch.float32)
    ours, theirs = masked_token_loss(*given, ids, weights), plainly(given, ids, weights)
    torch.testing.assert_close(ours, theirs)
    for seen, expected in zip(*(torch.autograd.grad(3 * y, given) for y in (ours, theirs))):
        torch.testing.assert_close(seen, expected, rtol=1e-5, atol=1e-5)


def test_in_bf16_only_logits_and_gradients_are_rounded():
    """To 8 bits: the loss of 21 tokens, of 3 to 4 nats each, is off by less than a hundredth."""
    given, ids, weights = made_up(torch.bfloat16)
    full = [x.detach().float().requires_grad_() for x in given]
    ours, theirs = masked_token_loss(*given, ids, weights), plainly(full, ids, weights)
    torch.testing.assert_close(ours, theirs, rtol=0.01, atol=0.0)
    found = torch.autograd.grad(ours, given)
    for seen, expected in zip(found, torch.autograd.grad(theirs, full)):
        assert seen.dtype == torch.bfloat16
        assert (seen.float() - expected).norm() < 0.01 * expected.norm()


def test_a_fixed_matrix_gets_no_gradient_and_changes_no_other():
    given, ids, weights = made_up(torch.float32)
    both = torch.autograd.grad(masked_token_loss(*given, ids, weights), given)
    given[1].requires_grad_(False)
    loss = masked_token_loss(*given, ids, weights)
    loss.backward()
    assert given[1].grad is None
    assert torch.equal(given[0].grad, both[0])
    assert torch.equal(given[2].grad, both[2])


def test_the_output_matrix_may_have_rows_that_are_no_pieces():
    """As it has on a GPU; here a CPU's products are asked for the same."""
    given, ids, weights = made_up(torch.float32)
    more = torch.cat([given[1].detach(), torch.zeros(6, D)]).requires_grad_()
    logits = given[0] @ more.T + F.pad(given[2], (0, 6))
    ours, theirs = logits.detach().clone(), (logits[:, :V]).detach().clone()
    total, expected = torch.zeros(V), torch.zeros(V)
    columns = ids[:, None], weights[:, None]
    loss = at_once(ours[:, :V], torch.zeros(V), *columns, total)
    torch.testing.assert_close(loss, in_the_cache(theirs, *columns, expected))
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(ours[:, :V], theirs, rtol=1e-5, atol=1e-6)
    assert not ours[:, V:].any()


def test_a_bias_that_no_product_has_added_counts():
    given, ids, weights = made_up(torch.float32)
    hidden, token, bias = (x.detach() for x in given)
    found = at_once(hidden @ token.T, bias, ids[:, None], weights[:, None], None)
    torch.testing.assert_close(found, plainly([hidden, token, bias], ids, weights))
