"""Scaled dot-product attention that is fast forward and backward, on a GPU and on a CPU.

Shapes: B sequences, H heads, R rows that ask, L rows that are asked, K width of a head; N = B H.

torch's CPU kernel knows no dropout: with it, it falls back to a path that draws masks element by
element and is slow at 512 tokens. Here a few heads at a time go through all of attention, so that
their scores stay in the core's cache.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from mslt.dropout import keep_mask, kept_share

# Scores of this size stay in the second-level cache of a core; best of 0.5 to 4 MB.
CHUNK_BYTES = 1 << 20


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
    backward = torch.is_grad_enabled() and (q_BHRK.requires_grad or k_BHLK.requires_grad)
    if on_cpu and (p > 0 or (backward and k_BHLK.shape[2] <= 256)):
        bias_B1L = None
        if seen_BL is not None:
            bias_BL = torch.zeros(seen_BL.shape, dtype=q_BHRK.dtype)
            bias_B1L = bias_BL.masked_fill_(~seen_BL, -math.inf)[:, None]
        return _in_chunks(q_BHRK, k_BHLK, v_BHLK, bias_B1L, p)
    mask = None if seen_BL is None else seen_BL[:, None, None, :]
    return F.scaled_dot_product_attention(q_BHRK, k_BHLK, v_BHLK, attn_mask=mask, dropout_p=p)


# Compiled code calls it as it is: its chunks and random numbers are not for the compiler.
@torch.compiler.disable
def _in_chunks(
    q_BHRK: Tensor, k_BHLK: Tensor, v_BHLK: Tensor, bias_B1L: Tensor | None, p: float
) -> Tensor:
    mixed_BHRK: Tensor = _Attend.apply(q_BHRK, k_BHLK, v_BHLK, bias_B1L, p)
    return mixed_BHRK


class _Attend(torch.autograd.Function):
    """Attention a few heads at a time; the weights are saved for the backward pass."""

    @staticmethod
    def forward(ctx, q_BHRK, k_BHLK, v_BHLK, bias_B1L, p):  # type: ignore[no-untyped-def]
        B, H, R, K = q_BHRK.shape
        q, k, v = (x.reshape(B * H, -1, K) for x in (q_BHRK, k_BHLK, v_BHLK))
        N, L = B * H, k.shape[1]
        bias = None if bias_B1L is None else bias_B1L.repeat_interleave(H, 0)
        weights_NRL = q.new_empty(N, R, L)
        keep_NRL = keep_mask((N, R, L), p) if p else None
        out_NRK = torch.empty_like(q)
        for part in _parts(weights_NRL):
            w = weights_NRL[part]
            torch.baddbmm(w, q[part], k[part].mT, beta=0, alpha=K**-0.5, out=w)
            if bias is not None:
                w += bias[part]
            torch.softmax(w, -1, out=w)
            torch.bmm(w if keep_NRL is None else w * keep_NRL[part], v[part], out=out_NRK[part])
        if keep_NRL is not None:
            out_NRK *= 1 / kept_share(p)
        ctx.save_for_backward(q, k, v, weights_NRL, keep_NRL)
        ctx.p = p
        return out_NRK.view(B, H, R, K)

    @staticmethod
    def backward(ctx, grad_BHRK):  # type: ignore[no-untyped-def]
        q, k, v, weights_NRL, keep_NRL = ctx.saved_tensors
        B, H, R, K = grad_BHRK.shape
        grad = grad_BHRK.reshape(B * H, R, K)
        if keep_NRL is not None:
            grad = grad * (1 / kept_share(ctx.p))
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        for part in _parts(weights_NRL):
            w, dw = weights_NRL[part], torch.bmm(grad[part], v[part].mT)
            if keep_NRL is None:
                torch.bmm(w.mT, grad[part], out=dv[part])
            else:
                torch.bmm((w * keep_NRL[part]).mT, grad[part], out=dv[part])
                dw *= keep_NRL[part]
            scores = torch._softmax_backward_data(dw, w, -1, w.dtype)
            torch.baddbmm(dq[part], scores, k[part], beta=0, alpha=K**-0.5, out=dq[part])
            torch.baddbmm(dk[part], scores.mT, q[part], beta=0, alpha=K**-0.5, out=dk[part])
        return dq.view(B, H, R, K), dk.view(B, H, -1, K), dv.view(B, H, -1, K), None, None


def _parts(weights_NRL: Tensor) -> list[slice]:
    """Runs of heads whose scores fit CHUNK_BYTES."""
    N = len(weights_NRL)
    size = max(1, CHUNK_BYTES // (weights_NRL[0].numel() * weights_NRL.element_size()))
    return [slice(start, start + size) for start in range(0, N, size)]
