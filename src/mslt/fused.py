"""The parts of a layer, each by torch's operations or, where it has `Kernels`, by fewer passes.

Shapes: B sequences, H heads, R rows that ask, L rows that are asked, K width of a head, D width.

Of what a layer computes, kernels leave the products to torch. What comes between two of them is one
function: the bias, GELU and its slope; the bias, dropout, the residual and LayerNorm; the softmax
of scores and its dropout.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mslt.attention import Part, attend, parts
from mslt.dropout import Dropout
from mslt.kernels import Kernels, dropping
from mslt.linear import product, slopes_of_product
from mslt.norm import LayerNorm


def gelu_of(linear: nn.Linear, x_BRD: Tensor, approximate: str, kernels: Kernels | None) -> Tensor:
    """GELU(linear(x)): [B, R, I]."""
    if kernels is None or x_BRD.dtype != kernels.dtype:
        return F.gelu(linear(x_BRD), approximate=approximate)
    y: Tensor = _GeluOf.apply(
        x_BRD, linear.weight, linear.bias, approximate, kernels, torch.is_grad_enabled()
    )
    return y


def normed_sum(
    residual_BRD: Tensor,
    linear: nn.Linear,
    x: Tensor,
    dropout: Dropout,
    norm: LayerNorm,
    kernels: Kernels | None,
) -> Tensor:
    """norm(residual + dropout(linear(x))): [B, R, D]."""
    if kernels is None or x.dtype != kernels.dtype or norm.weight.dtype != torch.float32:
        after: Tensor = norm(dropout.onto(residual_BRD, linear(x)))
        return after
    drop = dropping(dropout.p if dropout.training else 0.0)
    how = norm.eps, drop, kernels, torch.is_grad_enabled()
    y: Tensor = _NormedSum.apply(
        residual_BRD.contiguous(), x, linear.weight, linear.bias, norm.weight, norm.bias, *how
    )
    return y


# Rows are a multiple of it: oneDNN takes 8 to 12 ms a layer to prepare products of a new size.
SAME_ROWS = 64


class Ragged:
    """Sequences of several lengths, one after the other without padding: [T, D].

    Args:
        seen_BL: True for tokens, which come first, False for padding.
        kernels: that bring rows there and back.
    """

    def __init__(self, seen_BL: Tensor, kernels: Kernels) -> None:
        self.kernels = kernels
        self.bias_BL = _bias(seen_BL)
        self.starts = F.pad(seen_BL.sum(1).cumsum(0), (1, 0))
        self.shape = seen_BL.shape
        self._tokens = int(self.starts[-1])
        self.rows = -(-self._tokens // SAME_ROWS) * SAME_ROWS
        assert seen_BL[:, 1:].le(seen_BL[:, :-1]).all()

    def pack(self, x_BLD: Tensor) -> Tensor:
        """[T, D]: the rows of tokens, and zeros behind them."""
        x: Tensor = _Moved.apply(x_BLD.contiguous(), self.packed, self.unpacked)
        return x

    def unpack(self, x_TD: Tensor) -> Tensor:
        """[B, L, D]: back to where they were; zeros for padding."""
        x: Tensor = _Moved.apply(x_TD, self.unpacked, self.packed)
        return x

    def take(self, x_TD: Tensor, rows_BR: Tensor) -> Tensor:
        """[B, R, D]: the rows of each sequence that are asked for, all of tokens."""
        return x_TD[rows_BR + self.starts[:-1, None]]

    def packed(self, x_BLD: Tensor) -> Tensor:
        """As `pack`, without gradients."""
        x_TD = self.room(x_BLD, x_BLD.shape[2])
        self.kernels.join_heads(x_BLD[None, :, None], x_TD, self.starts, 0)
        return x_TD

    def room(self, like: Tensor, width: int) -> Tensor:
        """[T, width], to be filled where there are tokens: what is behind them is zero.

        So the rows behind add nothing to a gradient, whatever layers make of them.
        """
        x = like.new_empty(self.rows, width)
        x[self._tokens :] = 0
        return x

    def unpacked(self, x_TD: Tensor) -> Tensor:
        """As `unpack`, without gradients."""
        (B, L), D = self.shape, x_TD.shape[1]
        return self.kernels.split_heads(x_TD, self.starts, 0, (1, B, 1, L, D))[0, :, 0]


def ragged(x: Tensor, seen_BL: Tensor | None, kernels: Kernels | None) -> Ragged | None:
    """What takes the padding out of numbers of x's type, if there is any and it can be."""
    if seen_BL is None or kernels is None or x.dtype != kernels.dtype:
        return None
    return Ragged(seen_BL, kernels)


class _Moved(torch.autograd.Function):
    """there(x), where `back` is what brings a gradient to x."""

    @staticmethod
    def forward(ctx, x, there, back):  # type: ignore[no-untyped-def]
        ctx.back = back
        return there(x)

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        return ctx.back(grad.contiguous()), None, None


def _bias(seen_BL: Tensor) -> Tensor:
    return torch.zeros(seen_BL.shape).masked_fill_(~seen_BL, -math.inf)


def attention(
    asking_BRD: Tensor | None,
    asked: Tensor,
    heads: int,
    seen: Tensor | Ragged | None,
    p: float,
    kernels: Kernels | None,
) -> Tensor:
    """What `attend` returns, of rows that linear layers put out and for one.

    Args:
        asking_BRD: queries; None where they are in `asked`.
        asked: queries, keys and values, or keys and values alone, side by side: [B, L, S], or
            [T, S] of ragged sequences.
        heads: how many.
        seen: as in `attend`, or what the sequences are.
        p: as there.
        kernels: of `asked`'s type, if any.

    Returns:
        [B, R, D] for those that ask, or of `asked`'s shape but for its width.
    """
    if kernels is not None and asked.dtype == kernels.dtype:
        how = dropping(p), kernels, torch.is_grad_enabled()
        y: Tensor = _Attention.apply(asking_BRD, asked, heads, seen, *how)
        return y
    assert not isinstance(seen, Ragged)
    rows = asked.chunk(3, -1) if asking_BRD is None else (asking_BRD, *asked.chunk(2, -1))
    q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in rows)
    return attend(q, k, v, seen, p).transpose(1, 2).flatten(2)


class _GeluOf(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, approximate, kernels, backward):  # type: ignore[no-untyped-def]
        y, slopes = kernels.gelu(product(x, weight), bias, approximate, slopes=backward)
        ctx.save_for_backward(x, weight, slopes)
        ctx.kernels = kernels
        return y

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        x, weight, slopes = ctx.saved_tensors
        dy, dbias = ctx.kernels.gelu_backward(grad.contiguous(), slopes)
        return *slopes_of_product(ctx, dy, x, weight, 0), dbias.to(weight.dtype), None, None, None


class _NormedSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx, residual, x, weight, bias, gain, shift, eps, drop, kernels, backward):  # type: ignore[no-untyped-def]
        y, found = kernels.normed_sum(
            residual, product(x, weight), bias, gain, shift, eps, drop, backward=backward
        )
        ctx.save_for_backward(x, weight, gain, *found)
        ctx.drop, ctx.kernels = drop, kernels
        return y

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        x, weight, gain, *found = ctx.saved_tensors
        dsum, dy, (dgain, dshift, dbias) = ctx.kernels.normed_sum_backward(
            grad.contiguous(), found, gain, ctx.drop
        )
        through = slopes_of_product(ctx, dy, x, weight, 1)
        return dsum, *through, dbias.to(weight.dtype), dgain, dshift, None, None, None, None


class _Attention(torch.autograd.Function):
    """A few sequences or heads at a time, as in `attention.py`; masks are drawn again, not kept."""

    @staticmethod
    def forward(ctx, asking, asked, heads, seen, drop, kernels, backward):  # type: ignore[no-untyped-def]
        at = _Heads(kernels, asking, asked, heads, seen)
        weights = asked.new_empty(at.scores if backward else at.scores_of(at.parts[0]))
        y = at.room(asked if asking is None else asking, at.width)
        for part in at.parts:
            q, k, v = at.split(part, asking, asked)
            w = weights[part] if backward else weights[: len(q), : q.shape[1]]
            torch.bmm(_flat(q), _flat(k).mT, out=_flat(w))
            added = None if at.bias_BL is None else at.bias_BL[part[0]]
            left = kernels.softmax(w, added, at.scale, at.first_row(part), drop)
            mixed = at.heads(part, asked, at.asking, 1)
            torch.bmm(_flat(left), _flat(v), out=_flat(mixed[0]))
            at.join(mixed, part, y, at.asking)
        ctx.save_for_backward(asking, asked, weights)
        ctx.at, ctx.drop, ctx.kernels = at, drop, kernels
        return y

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        asking, asked, weights = ctx.saved_tensors
        at, grad = ctx.at, grad.contiguous()
        dasking = None if asking is None else torch.empty_like(asking)
        dasked = at.room(asked, asked.shape[-1])
        for part in at.parts:
            (q, k, v), w = at.split(part, asking, asked), weights[part]
            (g,) = at.split_parts(part, grad, at.asking, 1)
            ds = torch.bmm(_flat(g), _flat(v).mT).view(w.shape)
            left = ctx.kernels.softmax_backward(ds, w, at.scale, at.first_row(part), ctx.drop)
            made = at.heads(part, asked, at.asked, 3 if dasking is None else 2)
            first = made[:1] if dasking is None else at.heads(part, asked, at.asking, 1)
            torch.bmm(_flat(ds), _flat(k), out=_flat(first[0]))
            torch.bmm(_flat(ds).mT, _flat(q), out=_flat(made[-2]))
            torch.bmm(_flat(left).mT, _flat(g), out=_flat(made[-1]))
            at.join(made, part, dasked, at.asked)
            if dasking is not None:
                at.join(first, part, dasking, at.asking)
        return dasking, dasked, None, None, None, None, None


@dataclass(frozen=True)
class _Rows:
    """Rows of sequences: where each begins and the last one ends, and how many one has at most."""

    starts: Tensor
    most: int

    @classmethod
    def alike(cls, count: int, rows: int) -> "_Rows":
        """Of so many sequences, all of so many rows."""
        return cls(torch.arange(0, count * rows + 1, rows), rows)


class _Heads:
    """Where the heads are in the rows that linear layers put out."""

    def __init__(
        self,
        kernels: Kernels,
        asking_BRD: Tensor | None,
        asked: Tensor,
        heads: int,
        seen: Tensor | Ragged | None,
    ) -> None:
        self._kernels = kernels
        self.width = asked.shape[-1] // (3 if asking_BRD is None else 2)
        self._seen = seen
        self.bias_BL: Tensor | None
        if isinstance(seen, Ragged):
            (B, L), self.bias_BL = seen.shape, seen.bias_BL
            self.asked = _Rows(seen.starts, L)
        else:
            B, L = asked.shape[:2]
            self.bias_BL = _bias(seen) if seen is not None else None
            self.asked = _Rows.alike(B, L)
        self.asking = self.asked if asking_BRD is None else _Rows.alike(B, asking_BRD.shape[1])
        self.scores = B, heads, self.asking.most, L
        self.parts = parts(self.scores, asked.element_size())
        self._of_head = self.width // heads
        self.scale = self._of_head**-0.5

    def room(self, like: Tensor, width: int) -> Tensor:
        """For rows as many as these, and so wide."""
        if isinstance(self._seen, Ragged) and like.dim() == 2:
            return self._seen.room(like, width)
        return like.new_empty(*like.shape[:-1], width)

    def scores_of(self, part: Part) -> tuple[int, ...]:
        """Their shape [B, H, R, L]."""
        counts = (len(range(*which.indices(n))) for which, n in zip(part, self.scores))
        return *counts, *self.scores[2:]

    def first_row(self, part: Part) -> int:
        """Rows of scores that are before those of the part."""
        heads, rows = self.scores[1:3]
        return (part[0].start * heads + part[1].start) * rows

    def heads(self, part: Part, like: Tensor, rows: _Rows, count: int) -> Tensor:
        """Room for so many times the heads of the part [count, B, H, R or L, K]."""
        return like.new_empty(count, *self.scores_of(part)[:2], rows.most, self._of_head)

    def split(self, part: Part, asking: Tensor | None, asked: Tensor) -> Sequence[Tensor]:
        """Queries, keys and values [B, H, R or L, K]."""
        if asking is None:
            return self.split_parts(part, asked, self.asked, 3)
        first = self.split_parts(part, asking, self.asking, 1)
        return *first, *self.split_parts(part, asked, self.asked, 2)

    def split_parts(self, part: Part, x: Tensor, rows: _Rows, count: int) -> Sequence[Tensor]:
        """Heads of each of so many even parts of the rows [B, H, R or L, K]."""
        (B, H), K = self.scores_of(part)[:2], self._of_head
        x_NS, shape = x.flatten(0, -2), (count, B, H, rows.most, K)
        place = self._starts(part, rows), part[1].start * K
        return self._kernels.split_heads(x_NS, *place, shape).unbind()

    def join(self, heads_GBHRK: Tensor, part: Part, x: Tensor, rows: _Rows) -> None:
        """Write heads to where `split_parts` reads them."""
        place = self._starts(part, rows), part[1].start * self._of_head
        self._kernels.join_heads(heads_GBHRK, x.flatten(0, -2), *place)

    def _starts(self, part: Part, rows: _Rows) -> Tensor:
        return rows.starts[part[0].start : part[0].stop + 1]


def _flat(x_BHRL: Tensor) -> Tensor:
    """[B H, R, L]."""
    return x_BHRL.flatten(0, 1)
