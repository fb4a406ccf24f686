"""Scaled dot-product attention that is fast forward and backward, on a GPU and on a CPU.

Shapes: B sequences, H heads, R rows that ask, L rows that are asked, K width of a head; N heads of
as many sequences as are dealt with at once.

torch's CPU kernel knows no dropout: with it, it falls back to a path that draws masks element by
element and is slow at 512 tokens. Here a few sequences at a time go through all of attention, so
that their scores, and the copies of their heads that products need, stay in the core's cache.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mslt.dropout import Words, below_threshold, kept_share

# Scores of this size stay in the second-level cache of a core; best of 0.25 to 32 MB.
CHUNK_BYTES = 1 << 20

Part = tuple[slice, slice]  # of the sequences, and of their heads


def attend(
    q_BHRK: Tensor, k_BHLK: Tensor, v_BHLK: Tensor, seen_BL: Tensor | None, p: float
) -> Tensor:
    """softmax(q k' / sqrt(K)) v, with dropout of the weights: [B, H, R, K].

    Args:
        q_BHRK: queries.
        k_BHLK: keys.
        v_BHLK: values.
        seen_BL: True for tokens, False for padding, which no row looks at; None without padding.
        p: probability of dropping a weight; 0 outside training.
    """
    on_cpu = q_BHRK.device.type == "cpu"
    bias_B11L = None
    if seen_BL is not None:
        bias_BL = torch.zeros(seen_BL.shape, dtype=q_BHRK.dtype, device=q_BHRK.device)
        bias_B11L = bias_BL.masked_fill(~seen_BL, -math.inf)[:, None, None]
    backward = torch.is_grad_enabled() and (q_BHRK.requires_grad or k_BHLK.requires_grad)
    ours = p > 0 or q_BHRK.dtype == torch.bfloat16 or (backward and k_BHLK.shape[2] <= 256)
    if on_cpu and ours:
        return _in_chunks(q_BHRK, k_BHLK, v_BHLK, bias_B11L, p, backward)
    # A bias rather than booleans, which take torch longer to make one of.
    return F.scaled_dot_product_attention(q_BHRK, k_BHLK, v_BHLK, bias_B11L, dropout_p=p)


# Compiled code calls it as it is: its chunks and random numbers are not for the compiler.
@torch.compiler.disable
def _in_chunks(
    q_BHRK: Tensor,
    k_BHLK: Tensor,
    v_BHLK: Tensor,
    bias_B11L: Tensor | None,
    p: float,
    backward: bool,
) -> Tensor:
    mixed_BHRK: Tensor = _Attend.apply(q_BHRK, k_BHLK, v_BHLK, bias_B11L, p, backward)
    return mixed_BHRK


class _Attend(torch.autograd.Function):
    """Attention a few sequences at a time; weights and masks are saved for the backward pass.

    Masks are of the weights' type, 0 or 1: a product with booleans would convert them first, which
    takes longer than the product.
    """

    @staticmethod
    def forward(ctx, q_BHRK, k_BHLK, v_BHLK, bias_B11L, p, backward):  # type: ignore[no-untyped-def]
        B, H, R, K = q_BHRK.shape
        pieces = parts((B, H, R, k_BHLK.shape[2]), q_BHRK.element_size())
        # Without a backward pass, room for one part after the other will do.
        rows = B if backward else pieces[0][0].stop
        weights_BHRL = q_BHRK.new_empty(rows, H, R, k_BHLK.shape[2])
        keep_BHRL = torch.empty_like(weights_BHRL) if p else None
        words = Words() if p else None
        out_BHRK = _heads_of_rows(q_BHRK)
        for part in pieces:
            q, k, v = (_heads(x[part]) for x in (q_BHRK, k_BHLK, v_BHLK))
            place = part if backward else (slice(len(q_BHRK[part])), part[1])
            w = _heads(weights_BHRL[place])
            torch.baddbmm(w, q, k.mT, beta=0, alpha=K**-0.5, out=w)
            if bias_B11L is not None:
                weights_BHRL[place] += bias_B11L[part[0]]
            torch.softmax(w, -1, out=w)
            if keep_BHRL is None or words is None:
                _put(torch.bmm(w, v), out_BHRK[part])
            else:
                keep = _heads(keep_BHRL[place])
                torch.ge(words.draw(tuple(w.shape)), below_threshold(p), out=keep)
                _put(torch.bmm(w * keep, v), out_BHRK[part], 1 / kept_share(p))
        ctx.save_for_backward(q_BHRK, k_BHLK, v_BHLK, weights_BHRL, keep_BHRL)
        ctx.p = p
        return out_BHRK

    @staticmethod
    def backward(ctx, grad_BHRK):  # type: ignore[no-untyped-def]
        q_BHRK, k_BHLK, v_BHLK, weights_BHRL, keep_BHRL = ctx.saved_tensors
        K = q_BHRK.shape[3]
        dq, dk, dv = (_heads_of_rows(x) for x in (q_BHRK, k_BHLK, v_BHLK))
        for part in parts(weights_BHRL.shape, weights_BHRL.element_size()):
            q, k, v, w = (_heads(x[part]) for x in (q_BHRK, k_BHLK, v_BHLK, weights_BHRL))
            grad = _heads(grad_BHRK[part])
            dropped = w
            if keep_BHRL is not None:
                keep = _heads(keep_BHRL[part])
                grad = grad * (1 / kept_share(ctx.p))
                dropped = w * keep
            _put(torch.bmm(dropped.mT, grad), dv[part])
            dw = torch.bmm(grad, v.mT)
            if keep_BHRL is not None:
                dw *= keep
            scores = torch._softmax_backward_data(dw, w, -1, w.dtype)
            _put(torch.bmm(scores, k), dq[part], K**-0.5)
            _put(torch.bmm(scores.mT, q), dk[part], K**-0.5)
        return dq, dk, dv, None, None, None


def _heads(x_BHRK: Tensor) -> Tensor:
    """[N, R, K]: those of some sequences, one after the other in memory."""
    return x_BHRK.reshape(-1, *x_BHRK.shape[2:])


def _put(x_NRK: Tensor, into_BHRK: Tensor, times: float = 1.0) -> None:
    """Write what `_heads` has put one after the other to its place."""
    torch.mul(x_NRK.view(into_BHRK.shape), times, out=into_BHRK)


def _heads_of_rows(x_BHRK: Tensor) -> Tensor:
    """Room for [B, H, R, K] where the heads of a row are neighbours, as linear layers have it."""
    B, H, R, K = x_BHRK.shape
    return x_BHRK.new_empty(B, R, H, K).transpose(1, 2)


def parts(shape: tuple[int, ...], size: int) -> list[Part]:
    """Runs of sequences whose scores fit CHUNK_BYTES, or of heads where one sequence's do not.

    Args:
        shape: of the scores [B, H, R, L].
        size: of each, in bytes.
    """
    B, H, R, L = shape
    heads = max(1, CHUNK_BYTES // (R * L * size))
    rows = max(1, heads // H)
    return [
        (slice(row, row + rows), slice(head, head + heads))
        for row in range(0, B, rows)
        for head in range(0, H, heads)
    ]
