"""What is between the products of a layer, in C: what torch's operations compute, and dropout."""

import copy
import shutil
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mslt.config import ModelConfig, OptimizerConfig
from mslt.dropout import Dropout
from mslt.fused import Ragged, attention, gelu_of, normed_sum
from mslt.growth import freeze
from mslt.kernels import Dropping, dropping, find
from mslt.linear import Linear
from mslt.machine import multiplies_int8
from mslt.masked_loss import in_the_cache
from mslt.model import Block, Encoder, equip, take_rows, through
from mslt.norm import LayerNorm
from mslt.objective import Inputs
from mslt.packed import Int8Product
from mslt.prefix import Prefix
from mslt.trainer import Settings, Trainer
from mslt.twin import Twin

pytestmark = pytest.mark.skipif(
    shutil.which("cc") is None, reason="there is no C compiler, so there are no kernels"
)

# Widths of whole vectors and of parts of one, which do not divide what rows are taken together by.
ROWS, WIDTHS = 131, [48, 21]
# Of what is computed in fp32 either way, and of what is then rounded to bf16 once more or less.
CLOSE = {torch.float32: {"rtol": 1e-5, "atol": 2e-5}, torch.bfloat16: {"rtol": 2e-2, "atol": 3e-2}}
DTYPES = list(CLOSE)
KEEP_ALL = Dropping(keep=1 << 16, scale=1.0)


@pytest.fixture(autouse=True)
def _the_same_numbers_each_time() -> None:
    torch.manual_seed(1)


def without_dropout(config: ModelConfig) -> ModelConfig:
    return replace(config, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)


def wider(config: ModelConfig) -> ModelConfig:
    """As fp8's products want it."""
    return replace(config, hidden_size=32, intermediate_size=64)


def gradients(output: torch.Tensor, leaves: list[torch.Tensor]) -> list[torch.Tensor]:
    slope = torch.randn(output.shape, generator=torch.Generator().manual_seed(5))
    return list(torch.autograd.grad(output, leaves, slope.to(output.dtype)))


def alike(ours, theirs, leaves, dtype) -> None:
    """Values and gradients, the latter of the size of their largest."""
    torch.testing.assert_close(ours.float(), theirs.float(), **CLOSE[dtype])
    for found, expected in zip(gradients(ours, leaves), gradients(theirs, leaves)):
        assert found.dtype == expected.dtype
        most = expected.float().abs().max()
        torch.testing.assert_close(found.float() / most, expected.float() / most, **CLOSE[dtype])


def learning(module, dtype):
    """Its parameters, with LayerNorm's in fp32."""
    for part in module.modules():
        for tensor in part.parameters(recurse=False):
            tensor.data = torch.randn_like(tensor) * 0.3
            if not isinstance(part, LayerNorm):
                tensor.data = tensor.data.to(dtype)
    return list(module.parameters())


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_is_torchs(dtype, width, approximate):
    linear, x = Linear(16, width), (torch.randn(ROWS, 16) * 3).to(dtype).requires_grad_()
    leaves = [x, *learning(linear, dtype)]
    ours = gelu_of(linear, x, approximate, find(dtype))
    alike(ours, F.gelu(linear(x), approximate=approximate), leaves, dtype)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu_is_right_wherever_it_is_asked_for(approximate):
    x = torch.cat([torch.linspace(-12, 12, 100_000), torch.tensor([-1e30, -200.0, 200.0, 1e30])])
    found = find(torch.float32)
    y, slopes = found.gelu(x[:, None].contiguous(), torch.zeros(1), approximate, slopes=True)
    exact = x.double().requires_grad_()
    expected = F.gelu(exact, approximate=approximate)
    (slope,) = torch.autograd.grad(expected.sum(), exact)
    torch.testing.assert_close(y[:, 0].double(), expected.detach(), rtol=2e-6, atol=1e-6)
    torch.testing.assert_close(slopes[:, 0].double(), slope, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("width", WIDTHS)
def test_a_normed_sum_is_torchs(dtype, width):
    linear, norm = Linear(16, width), LayerNorm(width)
    x, residual = (torch.randn(ROWS, n).to(dtype).requires_grad_() for n in (16, width))
    leaves = [x, residual, *learning(linear, dtype), *learning(norm, dtype)]
    given = residual, linear, x, Dropout(0.0), norm
    alike(normed_sum(*given, find(dtype)), normed_sum(*given, None), leaves, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("length", [16, 37, 300])
@pytest.mark.parametrize("rows", [None, 5])
def test_attention_is_torchs(dtype, length, rows):
    """With padding; at 300 not all heads of a sequence are dealt with at once in fp32."""
    width, heads = 48, 4
    asked = torch.randn(3, length, width * (2 if rows else 3)).to(dtype).requires_grad_()
    asking = torch.randn(3, rows, width).to(dtype).requires_grad_() if rows else None
    seen = torch.arange(length) < torch.tensor([[length], [9], [1]])
    leaves = [asked] if asking is None else [asked, asking]
    ours, theirs = (attention(asking, asked, heads, seen, 0.0, k) for k in (find(dtype), None))
    alike(ours, theirs, leaves, dtype)
    with torch.no_grad():
        assert torch.equal(ours, attention(asking, asked, heads, seen, 0.0, find(dtype)))


LENGTHS = torch.tensor([[37], [9], [1]])
SEEN = torch.arange(37) < LENGTHS


def test_padding_is_taken_out_and_put_back():
    x = torch.randn(3, 37, 20, requires_grad=True)
    sequences = Ragged(SEEN, find(torch.float32))
    packed = sequences.pack(x)
    tokens = int(SEEN.sum())
    assert len(packed) == 64 > tokens
    assert torch.equal(packed[:tokens], x[SEEN])
    assert not packed[tokens:].any()
    assert torch.equal(sequences.unpack(packed), x * SEEN[..., None])
    rows = torch.tensor([[0, 36], [8, 3], [0, 0]])
    assert torch.equal(sequences.take(packed, rows), take_rows(x, rows))
    slope = torch.randn_like(packed)
    (grad,) = torch.autograd.grad(packed, x, slope)
    assert torch.equal(grad[SEEN], slope[:tokens])
    assert not grad[~SEEN].any()
    y = slope.clone().requires_grad_()
    (grad,) = torch.autograd.grad(sequences.unpack(y), y, x.detach())
    assert torch.equal(grad[:tokens], x[SEEN])
    assert not grad[tokens:].any()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows", [None, torch.tensor([[0, 36, 5], [0, 8, 8], [0, 0, 0]])])
@pytest.mark.parametrize("recompute", [False, True])
def test_padding_does_not_go_through_layers(tiny, dtype, rows, recompute):
    blocks = nn.ModuleList(Block(without_dropout(tiny)) for _ in range(3))
    parameters = learning(blocks, dtype)
    x = torch.randn(3, 37, tiny.hidden_size).to(dtype).requires_grad_()
    seen, slopes = [], []
    for found in (find(dtype), None):
        equip(blocks, found)
        y = through(list(blocks), x, SEEN, found, rows_BR=rows, recompute=recompute)
        seen.append(y if rows is not None else y * SEEN[..., None])
        if found is not None and rows is None:
            assert not y[~SEEN].any()
        slopes.append(gradients(seen[-1], [x, *parameters]))  # while layers are as they were
    torch.testing.assert_close(*(y.float() for y in seen), **CLOSE[dtype])
    # Three layers in bf16 are further off than one.
    close = CLOSE[dtype] if dtype == torch.float32 else {"rtol": 0.1, "atol": 0.1}
    for ours, theirs in zip(*slopes):
        most = theirs.float().abs().max()
        torch.testing.assert_close(ours.float() / most, theirs.float() / most, **close)


@pytest.mark.parametrize("kind", ["exact", "fp32", "bf16", "int8", "fp8"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_forward_only_layers_leave_padding_out_too(tiny, random_batch, kind, precision):
    if kind == "int8" and not multiplies_int8():
        pytest.skip("torch has no int8 products here")
    inputs = Inputs.of(random_batch(sequences=6, length=16), "cpu")
    assert inputs.seen is not None
    model = Encoder(without_dropout(wider(tiny)), 2, seed=1)
    seen = []
    for ours in (True, False):
        copies: dict[str, Tensor] | None = {} if precision == "bf16" else None
        twin = Twin(model, copies=copies, complete=lambda name: None).model
        equip(twin, find(twin.dtype) if ours else None)
        seen.append(Prefix(twin, 2, kind)(inputs).float())
    assert not seen[0][~inputs.seen].any()
    exact = precision == "fp32" and kind in ("exact", "fp32")
    close = {"rtol": 1e-4, "atol": 1e-4} if exact else {"rtol": 0.1, "atol": 0.15}
    torch.testing.assert_close(seen[0][inputs.seen], seen[1][inputs.seen], **close)


def masks(p: float, rows: int, width: int, seed: int) -> torch.Tensor:
    """Which numbers are kept, by what `normed_sum` adds up to."""
    torch.manual_seed(seed)
    zeros, ones = torch.zeros(width), torch.ones(width)
    x = torch.ones(rows, width)
    _, (sums, _, _) = find(torch.float32).normed_sum(
        torch.zeros_like(x), x, zeros, ones, zeros, 1e-5, dropping(p), backward=True
    )
    return sums


@pytest.mark.parametrize("width", [48, 64])
def test_dropout_keeps_the_share_that_it_should(width):
    left = masks(0.1, 4096, width, seed=1)
    assert left.unique().tolist() == pytest.approx([0.0, 1 / 0.9], rel=1e-4)
    kept = (left > 0).float()
    # Five times the deviation of a mean of as many.
    assert kept.mean().item() == pytest.approx(0.9, abs=5 * 0.3 / kept.numel() ** 0.5)
    for axis in (0, 1):
        assert kept.mean(axis).sub(0.9).abs().max() < 6 * 0.3 / kept.shape[axis] ** 0.5


def test_places_rows_and_draws_are_dropped_out_independently():
    kept = (masks(0.5, 2048, 64, seed=1) > 0).double() - 0.5
    other = (masks(0.5, 2048, 64, seed=2) > 0).double() - 0.5
    assert torch.equal((masks(0.5, 2048, 64, seed=1) > 0).double() - 0.5, kept)
    shifts = [kept.roll(by, axis) for axis in (0, 1) for by in (1, 2, 16, 32)]
    for another in (other, *shifts):
        assert (kept * another).mean().abs() < 5 * 0.25 / kept.numel() ** 0.5


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_what_was_dropped_out_has_no_gradient_and_the_rest_has_its_own(dtype):
    linear, norm = Linear(16, 48), LayerNorm(48)
    learning(linear, dtype)
    found = find(dtype)
    x = torch.ones(ROWS, 48, dtype=dtype)
    bias, ones, zeros = x.new_zeros(48), torch.ones(48), torch.zeros(48)
    drop = dropping(0.3)
    _, kept = found.normed_sum(x * 0, x, bias, ones, zeros, norm.eps, drop, backward=True)
    dsum, dx, (_, _, dbias) = found.normed_sum_backward(
        torch.randn(ROWS, 48).to(dtype), kept, ones, drop
    )
    torch.testing.assert_close(dx.float(), (dsum.float() * kept[0].float()), **CLOSE[dtype])
    # The sum is of slopes that are not rounded to 8 bits yet.
    torch.testing.assert_close(dbias, dx.float().sum(0), rtol=2e-2, atol=0.2)


def test_attention_s_mask_is_the_same_forward_and_backward():
    """Values of one-hot vectors show the weights that were left, and so do their gradients."""
    length, found = 64, find(torch.float32)
    asked = torch.randn(2, length, 3 * length)
    asked[..., 2 * length :] = torch.eye(length)
    asked.requires_grad_()
    torch.manual_seed(3)
    left = attention(None, asked, 1, None, 0.5, found)
    assert 0.45 < (left == 0).float().mean() < 0.55
    plain = attention(None, asked, 1, None, 0.0, found)
    assert torch.allclose(left[left != 0], 2 * plain[left != 0], rtol=1e-4)
    slope = torch.randn_like(left)
    ours = gradients_of(left, asked, slope)
    theirs = gradients_of(dropped_attention(asked, (left != 0).float() * 2, length), asked, slope)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


def gradients_of(y: torch.Tensor, x: torch.Tensor, slope: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(y, x, slope)[0]


def dropped_attention(asked: torch.Tensor, mask: torch.Tensor, width: int) -> torch.Tensor:
    q, k, v = asked.split(width, -1)
    return ((q @ k.mT * width**-0.5).softmax(-1) * mask) @ v


def of_a_layer(tiny: ModelConfig, dtype: torch.dtype) -> list[torch.Tensor]:
    torch.manual_seed(11)
    block = Block(tiny)
    learning(block, dtype)
    equip(block, find(dtype))
    x = torch.randn(5, 24, tiny.hidden_size).to(dtype).requires_grad_()
    y = block(x)
    return [y, *gradients(y, [x, *block.parameters()])]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_number_of_threads_changes_no_bit(tiny, dtype, monkeypatch):
    # Products may, so there are none of a size that is dealt out.
    before, found = torch.get_num_threads(), []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        found.append(of_a_layer(tiny, dtype))
    torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(*found))


@pytest.mark.parametrize("where", ["gelu", "norm", "softmax", "quantize"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_come_out_as_such(where, bad):
    found, x = find(torch.float32), torch.randn(4, 40)
    x[1, 33] = bad
    zeros, ones = torch.zeros(40), torch.ones(40)
    if where == "gelu":
        out, _ = found.gelu(x, zeros, "none", slopes=False)
    elif where == "norm":
        out, _ = found.normed_sum(x, x, zeros, ones, zeros, 1e-5, KEEP_ALL, backward=True)
    elif where == "softmax":
        out = found.softmax(x[None, None].clone(), None, 1.0, 0, KEEP_ALL)[0, 0]
    else:
        assert found.quantize(x, 127)[1] != found.quantize(x, 127)[1]
        return
    assert not out[1].isfinite().all()
    assert out[[0, 2, 3]].isfinite().all()


def test_padding_has_no_weight_at_all():
    bias = torch.zeros(1, 40)
    bias[0, 7:] = -torch.inf
    weights = find(torch.float32).softmax(torch.randn(1, 2, 3, 40), bias, 1.0, 0, KEEP_ALL)
    assert not weights[..., 7:].any()
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, 2, 3))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [1, 16, 37, 5000])
def test_bytes_are_what_numbers_are_worth(dtype, size):
    x = torch.randn(size).to(dtype)
    y, worth = find(dtype).quantize(x, 127)
    assert worth == pytest.approx(float(x.abs().max()) / 127, rel=1e-6)
    back = (y.float() - 128) * worth
    torch.testing.assert_close(back, x.float(), rtol=0, atol=0.5001 * worth)


def test_int8_products_are_alike():
    linear, x = Linear(64, 32), torch.randn(10, 64)
    ours, theirs = (Int8Product(linear, k)(x) for k in (find(torch.float32), None))
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-2)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("below", [0, 2])
def test_training_is_that_of_torch(tiny, random_batch, precision, recompute, below):
    seen = []
    for ours in (False, True):
        model = Encoder(without_dropout(tiny), 4, seed=1)
        freeze(model, below)
        how = Settings(
            *(OptimizerConfig("adamw"), precision, 8),
            pair=True,
            seed=7,
            recompute=recompute,
            kernels=ours,
        )
        trainer = Trainer(model, how, {})
        seen.append([trainer.step(step, random_batch(step), 1e-3) for step in range(3)])
    for theirs, ours in zip(*seen):
        for name in theirs:
            close = 1e-4 if precision == "fp32" else 2e-2
            assert float(ours[name]) == pytest.approx(float(theirs[name]), rel=close), name


def test_recomputed_layers_drop_out_the_same(tiny, random_batch):
    seen = []
    for recompute in (False, True):
        how = Settings(OptimizerConfig("adamw"), "fp32", 8, pair=True, seed=7, recompute=recompute)
        trainer = Trainer(Encoder(tiny, 3, seed=1), how, {})
        seen.append(float(trainer.step(0, random_batch(), 1e-3)["grad_norm"]))
    assert seen[0] == seen[1]


def test_copies_of_a_layer_have_the_same_kernels(tiny):
    block = Block(tiny)
    equip(block, find(torch.float32))
    assert copy.deepcopy(block).mlp.kernels is find(torch.float32)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("width", [*WIDTHS, 300])
def test_loss_and_slopes_of_logits_are_those_of_torch(dtype, width):
    """Of rows that are apart, and whose first logits are far above the others."""
    logits = 3 * torch.randn(ROWS, width + 5).to(dtype)
    logits[:3, 0] = 60
    ids, weights = torch.randint(0, width, (ROWS, 1)), torch.rand(ROWS, 1)
    weights[5] = 0
    ours, theirs = logits.clone(), logits.clone()
    total, expected = torch.ones(width), torch.ones(width)
    loss = find(dtype).loss(ours[:, :width], ids, weights, total)
    torch.testing.assert_close(loss, in_the_cache(theirs[:, :width], ids, weights, expected))
    torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-6)
    torch.testing.assert_close(total, expected)
    again = logits.clone()
    assert torch.equal(find(dtype).loss(again[:, :width], ids, weights, None), loss)
    assert torch.equal(again, ours)


def test_the_loss_of_logits_that_are_no_numbers_is_none():
    logits = torch.zeros(2, 20)
    logits[1, 3] = torch.nan
    ids, weights = torch.zeros(2, 1, dtype=torch.int64), torch.ones(2, 1)
    assert find(torch.float32).loss(logits, ids, weights, None).isnan()
