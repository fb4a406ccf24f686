"""Dropout's masks are drawn faster than torch's, and are dropout all the same."""

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from mslt.dropout import Dropout, deal_words, dropout, hashed, keep_mask, kept_share


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9, 1e-3])
def test_elements_are_dropped_with_their_probability_and_the_mean_is_kept(p):
    torch.manual_seed(1)
    y = dropout(torch.ones(1000, 1003), p, training=True)
    dropped = float((y == 0).float().mean())
    assert dropped == pytest.approx(p, abs=4 * (p * (1 - p) / y.numel()) ** 0.5 + 2**-17)
    assert y.unique().tolist() == pytest.approx([0, 1 / (1 - p)], rel=1e-3)
    assert float(y.mean()) == pytest.approx(1, abs=5 * (p / (1 - p) / y.numel()) ** 0.5)


def test_the_kept_share_is_exact_to_a_65536th_and_never_nothing():
    assert kept_share(0.1) == pytest.approx(0.9, abs=2**-17)
    assert kept_share(0.0) == 1
    assert kept_share(0.999_999_9) == 2**-16


def test_neighbours_and_calls_are_independent():
    torch.manual_seed(2)
    one, two = (keep_mask((512, 511), 0.5).float() * 2 - 1 for _ in range(2))
    for a, b in [(one, two), (one[:, 1:], one[:, :-1]), (one[1:], one[:-1]), (one, one.roll(4, 1))]:
        assert abs(float((a * b).mean())) < 5 / a.numel() ** 0.5


def test_torchs_seed_governs_the_masks():
    torch.manual_seed(3)
    one = keep_mask((7, 5), 0.5)
    torch.manual_seed(3)
    assert torch.equal(one, keep_mask((7, 5), 0.5))
    assert not torch.equal(one, keep_mask((7, 5), 0.5))


def test_the_gradient_passes_where_the_value_did_also_when_computed_again():
    x = torch.randn(64, 32, requires_grad=True)
    for run in (lambda f: f(x), lambda f: checkpoint(f, x, use_reentrant=False)):
        torch.manual_seed(4)
        y = run(lambda x: dropout(x, 0.3, training=True))
        (slope,) = torch.autograd.grad(y.sum(), x)
        assert torch.allclose(slope * x, y)


@pytest.mark.parametrize(("p", "training"), [(0.0, True), (0.5, False)])
def test_nothing_is_dropped_in_evaluation_or_at_probability_0(p, training):
    x = torch.randn(3, 4)
    assert Dropout(p).train(training)(x) is x


def test_a_dropped_output_is_added_to_its_residual():
    """In one pass, as in two: values and both gradients."""
    layer, slope = Dropout(0.3).train(), torch.randn(64, 32)
    found = []
    for way in (layer.onto, lambda residual, x: residual + layer(x)):
        given = [torch.randn(64, 32, generator=torch.Generator().manual_seed(i)) for i in (1, 2)]
        residual, x = (tensor.requires_grad_() for tensor in given)
        torch.manual_seed(5)
        y = way(residual, x)
        found.append((y.detach(), *torch.autograd.grad(y, (residual, x), slope)))
    for one, other in zip(*found):
        torch.testing.assert_close(one, other)
    assert torch.equal(found[0][1], slope)
    assert 0.2 < (found[0][2] == 0).float().mean() < 0.4


# --- hashed, as compiled layers on a GPU have it ------------------------------------------------


def words(first: int, second: int) -> torch.Tensor:
    return torch.tensor([first, second], dtype=torch.int32)


@pytest.mark.parametrize("p", [0.1, 0.5, 1e-3])
def test_hashed_elements_are_dropped_with_their_probability(p):
    y = hashed(torch.ones(1000, 1003), p, words(2**31 - 1, 12345))
    dropped = float((y == 0).float().mean())
    assert dropped == pytest.approx(p, abs=4 * (p * (1 - p) / y.numel()) ** 0.5)
    assert y.unique().tolist() == pytest.approx([0, 1 / (1 - p)])


def test_hashed_neighbours_and_words_that_differ_in_a_bit_are_independent():
    """Nor is one mask another one moved, as with a single word that is added to places."""
    size = 1 << 19
    ones, given = torch.ones(size), [(5, 7), (5, 6), (4, 6), (5 + 2**30, 8), (6, 8), (0, 0)]
    signs = [(hashed(ones, 0.5, words(*pair)) > 0).float() * 2 - 1 for pair in given]
    first, *others = signs
    for shift in (1, 2, 3, 128, 768, 768 * 128):
        assert abs(float((first[shift:] * first[:-shift]).mean())) < 5 / (size - shift) ** 0.5
    for other in others:
        for shift in (0, 1, -1):
            assert abs(float((first * other.roll(shift)).mean())) < 5 / size**0.5


def test_hashed_rows_keep_as_many_as_coins_would():
    """The spread of the number kept in rows of 768, and in columns."""
    y = hashed(torch.ones(4096, 768), 0.1, words(99, 3)) > 0
    for axis, count in ((1, 768), (0, 4096)):
        kept = y.float().sum(axis)
        assert float(kept.var()) == pytest.approx(0.09 * count, rel=6 * (2 / len(kept)) ** 0.5)


def test_words_are_dealt_to_every_dropout_and_govern_it():
    model = torch.nn.Sequential(Dropout(0.5), torch.nn.Linear(8, 8), Dropout(0.5)).train()
    dealt = deal_words(model, torch.device("cpu"))
    assert not model.state_dict().keys() & {"0.words", "2.words"}
    dealt.random_()
    x = torch.randn(64, 8, requires_grad=True)
    one, other = model(x), model(x)
    assert torch.equal(one, other)
    assert not torch.equal(model[0](x) == 0, model[2](x) == 0)
    (slope,) = torch.autograd.grad(model[0](x).sum(), x)
    torch.testing.assert_close(slope * x, model[0](x))
    dealt.random_()
    assert not torch.equal(one, model(x))
    assert model.eval()[0](x) is x
