"""The parts of a layer, each by torch's operations or, where it has `Kernels`, by fewer passes.

Shapes: B sequences, H heads, R rows that ask, L rows that are asked, K width of a head, D width.

Of what a layer computes, kernels leave the products to torch. What comes between two of them is one
function: the bias, GELU and its slope; the bias, dropout, the residual and LayerNorm; the softmax
of scores and its dropout.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mslt.attention import Part, attend, parts
from mslt.dropout import Dropout
from mslt.kernels import Kernels, dropping
from mslt.linear import product
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


def attention(
    asking_BRD: Tensor | None,
    asked_BLS: Tensor,
    heads: int,
    seen_BL: Tensor | None,
    p: float,
    kernels: Kernels | None,
) -> Tensor:
    """What `attend` returns, of rows that linear layers put out and for one: [B, R, D].

    Args:
        asking_BRD: queries; None where they are in `asked`.
        asked_BLS: queries, keys and values, or keys and values alone, side by side.
        heads: how many.
        seen_BL: as in `attend`.
        p: as there.
        kernels: of `asked`'s type, if any.
    """
    if kernels is not None and asked_BLS.dtype == kernels.dtype:
        bias_BL = None
        if seen_BL is not None:
            bias_BL = torch.zeros(seen_BL.shape).masked_fill_(~seen_BL, -math.inf)
        y: Tensor = _Attention.apply(
            asking_BRD, asked_BLS, heads, bias_BL, dropping(p), kernels, torch.is_grad_enabled()
        )
        return y
    rows = asked_BLS.chunk(3, -1) if asking_BRD is None else (asking_BRD, *asked_BLS.chunk(2, -1))
    q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in rows)
    return attend(q, k, v, seen_BL, p).transpose(1, 2).flatten(2)


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
        return *_through_product(ctx, dy, x, weight, 0), dbias.to(weight.dtype), None, None, None


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
        through = _through_product(ctx, dy, x, weight, 1)
        return dsum, *through, dbias.to(weight.dtype), dgain, dshift, None, None, None, None


def _through_product(
    ctx: Any, dy: Tensor, x: Tensor, weight: Tensor, first: int
) -> tuple[Tensor | None, Tensor | None]:
    """Slopes along what a product is of, if they are wanted of the inputs from `first` on."""
    dy_NO, x_NI = dy.flatten(0, -2), x.reshape(-1, x.shape[-1])
    return (
        (dy_NO @ weight).view(x.shape) if ctx.needs_input_grad[first] else None,
        dy_NO.T @ x_NI if ctx.needs_input_grad[first + 1] else None,
    )


class _Attention(torch.autograd.Function):
    """A few sequences or heads at a time, as in `attention.py`; masks are drawn again, not kept."""

    @staticmethod
    def forward(ctx, asking, asked, heads, bias, drop, kernels, backward):  # type: ignore[no-untyped-def]
        at = _Heads(kernels, asking, asked, heads)
        weights = asked.new_empty(at.scores if backward else at.scores_of(at.parts[0]))
        y = asked.new_empty(*at.rows, at.width)
        for part in at.parts:
            q, k, v = at.split(part, asking, asked)
            w = weights[part] if backward else weights[: len(q), : q.shape[1]]
            torch.bmm(_flat(q), _flat(k).mT, out=_flat(w))
            added = None if bias is None else bias[part[0]]
            left = kernels.softmax(w, added, at.scale, at.first_row(part), drop)
            at.join(torch.bmm(_flat(left), _flat(v)), part, y, 0)
        ctx.save_for_backward(asking, asked, weights)
        ctx.heads, ctx.drop, ctx.kernels = heads, drop, kernels
        return y

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        asking, asked, weights = ctx.saved_tensors
        at, grad = _Heads(ctx.kernels, asking, asked, ctx.heads), grad.contiguous()
        dasking = None if asking is None else torch.empty_like(asking)
        dasked = torch.empty_like(asked)
        for part in at.parts:
            (q, k, v), w = at.split(part, asking, asked), weights[part]
            (g,) = at.split_columns(part, grad, (0,))
            ds = torch.bmm(_flat(g), _flat(v).mT).view(w.shape)
            left = ctx.kernels.softmax_backward(ds, w, at.scale, at.first_row(part), ctx.drop)
            dq, dk = torch.bmm(_flat(ds), _flat(k)), torch.bmm(_flat(ds).mT, _flat(q))
            at.join(dq, part, dasked if dasking is None else dasking, 0)
            at.join(dk, part, dasked, at.keys)
            at.join(torch.bmm(_flat(left).mT, _flat(g)), part, dasked, at.keys + at.width)
        return dasking, dasked, None, None, None, None, None


class _Heads:
    """Where the heads are in the rows that linear layers put out."""

    def __init__(
        self, kernels: Kernels, asking_BRD: Tensor | None, asked_BLS: Tensor, heads: int
    ) -> None:
        self._kernels = kernels
        self.width = asked_BLS.shape[2] // (3 if asking_BRD is None else 2)
        self.keys = self.width if asking_BRD is None else 0
        self.rows = (asked_BLS if asking_BRD is None else asking_BRD).shape[:2]
        self.scores = self.rows[0], heads, self.rows[1], asked_BLS.shape[1]
        self.parts = parts(self.scores, asked_BLS.element_size())
        self._of_head = self.width // heads
        self.scale = self._of_head**-0.5

    def scores_of(self, part: Part) -> tuple[int, ...]:
        """Their shape [B, H, R, L]."""
        counts = (len(range(*which.indices(n))) for which, n in zip(part, self.scores))
        return *counts, *self.scores[2:]

    def first_row(self, part: Part) -> int:
        """Rows of scores that are before those of the part."""
        heads, rows = self.scores[1:3]
        return (part[0].start * heads + part[1].start) * rows

    def split(self, part: Part, asking: Tensor | None, asked: Tensor) -> list[Tensor]:
        """Queries, keys and values [B, H, R or L, K]."""
        of_keys = self.keys, self.keys + self.width
        if asking is None:
            return self.split_columns(part, asked, (0, *of_keys))
        return self.split_columns(part, asking, (0,)) + self.split_columns(part, asked, of_keys)

    def split_columns(self, part: Part, rows: Tensor, starts: tuple[int, ...]) -> list[Tensor]:
        """Those in the columns that begin at each start [B, H, R or L, K]."""
        K = self._of_head
        first, count = part[1].start * K, self.scores_of(part)[1]
        return [self._kernels.split_heads(rows[part[0]], at + first, count, K) for at in starts]

    def join(self, heads: Tensor, part: Part, rows: Tensor, start: int) -> None:
        """Write heads, of whatever shape, to the columns from `start` on."""
        count, K = self.scores_of(part)[:2], self._of_head
        place = start + part[1].start * K
        self._kernels.join_heads(heads.view(*count, -1, K), rows[part[0]], place)


def _flat(x_BHRL: Tensor) -> Tensor:
    """[B H, R, L]."""
    return x_BHRL.flatten(0, 1)
