"""The loss of masked tokens, with its gradients computed on the way (Devlin et al. 2018).

Shapes: N predictions, V vocabulary, D width of what the output matrix is multiplied with.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mslt.kernels import Kernels
from mslt.linear import linear

# Logits that stand in memory at once: 32 MB of them in bf16. On a GPU 512 MB, since its kernels
# fill it with many rows only, and each chunk adds to a gradient of the vocabulary's size.
CHUNK_LOGITS, GPU_CHUNK_LOGITS = 1 << 24, 1 << 28

# Those of which a CPU makes losses and slopes at once, in fp32: best of 0.5 to 4 MB.
CACHED_LOGITS = 1 << 18


class Slopes(nn.Module):
    """What the loss of logits is, and along each of them.

    A module without weights, so that it is compiled as others are.
    """

    def __init__(self) -> None:
        super().__init__()
        self.kernels: Kernels | None = None

    def forward(
        self,
        logits_NV: Tensor,
        bias_V: Tensor,
        ids_N1: Tensor,
        weights_N1: Tensor,
        total_V: Tensor | None,
    ) -> Tensor:
        """Loss in nats, in fp32; slopes, weight (softmax - one-hot), replace the logits.

        Args:
            logits_NV: with the bias on a CPU, which adds it as it writes a product, and without it
                on a GPU.
            bias_V: that bias.
            ids_N1: the pieces to be predicted.
            weights_N1: of the predictions.
            total_V: where the slopes are added up over the predictions, in fp32, if anywhere.
        """
        if logits_NV.device.type == "cpu":
            if self.kernels is not None and self.kernels.dtype == logits_NV.dtype:
                return self.kernels.loss(logits_NV, ids_N1, weights_N1, total_V)
            return in_the_cache(logits_NV, ids_N1, weights_N1, total_V)
        if torch.compiler.is_compiling():
            return at_once(logits_NV, bias_V, ids_N1, weights_N1, total_V)
        # Else each operation would write as many numbers in fp32.
        size = max(1, CHUNK_LOGITS // len(bias_V))
        loss = bias_V.new_zeros((), dtype=torch.float32)
        for start in range(0, len(logits_NV), size):
            part = slice(start, start + size)
            loss += at_once(logits_NV[part], bias_V, ids_N1[part], weights_N1[part], total_V)
        return loss


def at_once(
    logits_NV: Tensor, bias_V: Tensor, ids_N1: Tensor, weights_N1: Tensor, total_V: Tensor | None
) -> Tensor:
    """What `Slopes` does, for a compiler to make a few kernels of."""
    logs_NV = torch.log_softmax(logits_NV.float() + bias_V.float(), -1)
    loss = -(logs_NV.gather(1, ids_N1) * weights_N1).sum()
    right_NV = torch.arange(logits_NV.shape[1], device=logits_NV.device) == ids_N1
    slopes_NV = (logs_NV.exp() - right_NV.float()) * weights_N1
    if total_V is not None:
        total_V += slopes_NV.sum(0)
    logits_NV.copy_(slopes_NV)
    return loss


@torch.compiler.disable
def in_the_cache(
    logits_NV: Tensor, ids_N1: Tensor, weights_N1: Tensor, total_V: Tensor | None
) -> Tensor:
    """The same a few rows at a time, which stay in a CPU's cache from the first pass on."""
    N, V = logits_NV.shape
    size = max(1, CACHED_LOGITS // V)
    room = logits_NV.new_empty(min(size, N), V, dtype=torch.float32)
    loss = room.new_zeros(())
    for start in range(0, N, size):
        part = slice(start, start + size)
        ids, weights = ids_N1[part], weights_N1[part]
        slope = room[: len(ids)].copy_(logits_NV[part])
        torch._log_softmax(slope, -1, half_to_float=False, out=slope)
        loss -= (slope.gather(1, ids) * weights).sum()
        slope.exp_().mul_(weights).scatter_add_(1, ids, -weights)
        if total_V is not None:
            total_V += slope.sum(0)
        logits_NV[part] = slope
    return loss


def masked_token_loss(
    hidden_ND: Tensor,
    token_VD: Tensor,
    bias_V: Tensor,
    ids_N: Tensor,
    weights_N: Tensor,
    slopes: nn.Module | None = None,
) -> Tensor:
    """Weighted sum of the cross-entropies of hidden token' + bias, in nats.

    Where gradients are wanted they are computed on the way, chunk by chunk, so that no more than
    CHUNK_LOGITS logits ever stand in memory, each is read but a few times, and a fixed output
    matrix costs no product for its gradient.

    Args:
        hidden_ND: a row for each prediction.
        token_VD: the output matrix. Rows of it that have no bias are no pieces, and zero.
        bias_V: of the logits.
        ids_N: the pieces to be predicted.
        weights_N: of the predictions.
        slopes: a `Slopes`, which may run compiled.
    """
    given = hidden_ND, token_VD, bias_V, ids_N[:, None], weights_N[:, None]
    loss: Tensor = _MaskedTokenLoss.apply(*given, slopes or Slopes())
    return loss


class _MaskedTokenLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden_ND, token_VD, bias_V, ids_N1, weights_N1, slopes):  # type: ignore[no-untyped-def]
        token = token_VD.to(hidden_ND.dtype)
        bias = bias_V.to(hidden_ND.dtype)
        on_cpu = hidden_ND.device.type == "cpu"
        gradients = _Gradients(hidden_ND, token, bias_V, ctx.needs_input_grad)
        loss = hidden_ND.new_zeros((), dtype=torch.float32)
        size = max(1, (CHUNK_LOGITS if on_cpu else GPU_CHUNK_LOGITS) // len(token))
        for start in range(0, len(ids_N1), size):
            part = slice(start, start + size)
            hidden = hidden_ND[part]
            logits = linear(hidden, token, bias) if on_cpu else torch.mm(hidden, token.T)
            pieces = logits[:, : len(bias)]
            loss += slopes(pieces, bias, ids_N1[part], weights_N1[part], gradients.bias)
            gradients.add(part, logits)
        # Not saved for autograd, which would keep them: what is given up need not be copied.
        ctx.gradients = [gradients.hidden, gradients.token, gradients.bias]
        ctx.dtypes = hidden_ND.dtype, token_VD.dtype, bias_V.dtype
        return loss

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        gradients, ctx.gradients = ctx.gradients, None
        return (
            *(
                None if gradient is None else gradient.mul_(grad).to(dtype)
                for gradient, dtype in zip(gradients, ctx.dtypes)
            ),
            None,
            None,
            None,
        )


class _Gradients:
    """Those of what makes the logits, of those that are wanted, chunk by chunk."""

    def __init__(
        self, hidden_ND: Tensor, token_VD: Tensor, bias_V: Tensor, wanted: Sequence[bool]
    ) -> None:
        self._from = hidden_ND, token_VD
        self.hidden = torch.empty_like(hidden_ND) if wanted[0] else None
        self.bias = torch.zeros_like(bias_V, dtype=torch.float32) if wanted[2] else None
        self.token: Tensor | None = None
        self._wants_token = wanted[1]

    def add(self, part: slice, slope_NV: Tensor) -> None:
        """Add what a chunk of rows gives, by the slope of the loss along its logits."""
        hidden, token = self._from
        if self.hidden is not None:
            torch.mm(slope_NV, token, out=self.hidden[part])
        if self._wants_token:
            # Clearing a matrix of the vocabulary's size costs as much as a third of this product.
            product = torch.mm(slope_NV.T, hidden[part])
            self.token = product if self.token is None else self.token.add_(product)
