"""The two losses of BERT: masked tokens and sentence pairs (Devlin et al. 2018, section 3.1)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mslt.data.instances import Batch
from mslt.linear import linear
from mslt.model import Encoder, with_cls

# Logits that stand in memory at once: 32 MB of them in bf16.
CHUNK_LOGITS = 1 << 24

# Those of which a CPU makes losses and slopes at once, in fp32: best of 0.5 to 4 MB.
CACHED_LOGITS = 1 << 18


@dataclass(frozen=True)
class Inputs:
    """A batch as tensors on the device; see `mslt.data.instances.Batch` for the shapes.

    `seen` is None where no sequence of the batch is padded, so that attention needs no mask; `ids`
    stays where it is.
    """

    input_ids: Tensor
    segment_ids: Tensor
    seen: Tensor | None
    masked_positions: Tensor
    masked_ids: Tensor
    masked_weights: Tensor
    pair_labels: Tensor
    ids: np.ndarray

    def __getitem__(self, rows: slice) -> "Inputs":
        """Those of some of the sequences."""
        parts: dict[str, Any] = {}
        for field in fields(self):
            whole = getattr(self, field.name)
            parts[field.name] = None if whole is None else whole[rows]
        return Inputs(**parts)

    @classmethod
    def of(cls, batch: Batch, device: str) -> "Inputs":
        """Move a batch to the device."""
        length = batch.input_ids.shape[1]
        seen = None
        if (batch.lengths < length).any():
            seen = torch.arange(length) < torch.from_numpy(batch.lengths)[:, None]
            seen = seen.to(device, non_blocking=True)

        def tensor(array: object) -> Tensor:
            return torch.as_tensor(array).to(device, non_blocking=True)

        return cls(
            tensor(batch.input_ids),
            tensor(batch.token_type_ids),
            seen,
            tensor(batch.masked_positions),
            tensor(batch.masked_ids),
            tensor(batch.masked_weights),
            tensor(batch.pair_labels),
            batch.ids,
        )


def losses(
    model: Encoder,
    inputs: Inputs,
    x_BLD: Tensor | None = None,
    layers: int = 0,
    *,
    recompute: bool = False,
) -> tuple[Tensor, Tensor]:
    """Masked-token and sentence-pair loss in nats, summed over predictions and over sequences.

    Sums, not means: the caller divides by the counts of the whole batch, so that how it is cut
    into micro-batches or processes changes nothing.

    Args:
        model: what is trained.
        inputs: what it reads and should say.
        x_BLD: what the lowest `layers` layers have made of the inputs, where that is known.
        layers: how many those are.
        recompute: save memory, as `Encoder.top` has it.
    """
    if x_BLD is None:
        x_BLD = model.bottom(inputs.input_ids, inputs.segment_ids, inputs.seen, layers)
    rows_BR = with_cls(inputs.masked_positions)
    x_BRD = model.top(x_BLD, inputs.seen, rows_BR, layers, recompute=recompute)
    mlm = masked_token_loss(
        model.head.transformed(x_BRD[:, 1:]).flatten(0, 1),
        model.output_matrix,
        model.head.bias,
        inputs.masked_ids.flatten(),
        inputs.masked_weights.flatten(),
    )
    return mlm, _pair_loss(model.head.next_sentence(x_BRD[:, 0]), inputs)


@dataclass(frozen=True)
class Objective:
    """What a training step minimises: the sum of its parts, each a mean over the whole batch.

    Args:
        names: of the parts, as metrics call them.
        inputs: tensors on a device of a batch, which knows its sequences' `lengths`, is cut by
            slices, and whose tensors are cut so too and have `input_ids` [B, L] among them.
        counts: by what each part's sum over a batch is divided for its mean.
        losses: each part's sum over a micro-batch; takes what `losses` takes.
    """

    names: tuple[str, ...]
    inputs: Callable[[Any, str], Any]
    counts: Callable[[Any], Sequence[float]]
    losses: Callable[..., Sequence[Tensor]]


def pretraining(pair: bool) -> Objective:
    """Masked tokens, and with `pair` the sentence pairs too."""
    parts = 2 if pair else 1
    return Objective(
        names=("mlm_loss", "pair_loss")[:parts],
        inputs=Inputs.of,
        counts=lambda batch: (float(batch.masked_weights.sum()), len(batch.lengths))[:parts],
        losses=lambda *given, **how: losses(*given, **how)[:parts],
    )


def scores(model: Encoder, inputs: Inputs) -> dict[str, Tensor]:
    """Sums over a batch: both losses, and how many predictions of each kind were right."""
    mlm_BMV, pair_B2 = model(
        inputs.input_ids, inputs.segment_ids, inputs.seen, inputs.masked_positions
    )
    mlm_right_BM = mlm_BMV.argmax(-1) == inputs.masked_ids
    loss_N = F.cross_entropy(
        mlm_BMV.flatten(0, 1).float(), inputs.masked_ids.flatten(), reduction="none"
    )
    return {
        "mlm_loss": (loss_N * inputs.masked_weights.flatten()).sum(),
        "mlm_right": (mlm_right_BM * inputs.masked_weights).sum(),
        "pair_loss": _pair_loss(pair_B2, inputs),
        "pair_right": (pair_B2.argmax(-1) == inputs.pair_labels).sum(),
    }


def masked_token_loss(
    hidden_ND: Tensor, token_VD: Tensor, bias_V: Tensor, ids_N: Tensor, weights_N: Tensor
) -> Tensor:
    """Weighted sum of the cross-entropies of hidden token' + bias, in nats.

    Where gradients are wanted they are computed on the way, chunk by chunk, so that no more than
    CHUNK_LOGITS logits ever stand in memory, each is read but a few times, and a fixed output
    matrix costs no product for its gradient.
    """
    loss: Tensor = _MaskedTokenLoss.apply(hidden_ND, token_VD, bias_V, ids_N, weights_N)
    return loss


class _MaskedTokenLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, hidden_ND, token_VD, bias_V, ids_N, weights_N):  # type: ignore[no-untyped-def]
        token = token_VD.to(hidden_ND.dtype)
        bias = bias_V.to(hidden_ND.dtype)
        wanted = ctx.needs_input_grad
        slopes = _Slopes(hidden_ND, token, bias_V, wanted)
        loss = hidden_ND.new_zeros((), dtype=torch.float32)
        size = max(1, CHUNK_LOGITS // len(token_VD))
        for start in range(0, len(ids_N), size):
            part = slice(start, start + size)
            logits = linear(hidden_ND[part], token, bias)
            loss += slopes.along(logits, ids_N[part, None], weights_N[part, None])
            slopes.add(part, logits)
        # Not saved for autograd, which would keep them: what is given up need not be copied.
        ctx.slopes = [slopes.hidden, slopes.token, slopes.bias]
        ctx.dtypes = hidden_ND.dtype, token_VD.dtype, bias_V.dtype
        return loss

    @staticmethod
    def backward(ctx, grad):  # type: ignore[no-untyped-def]
        slopes, ctx.slopes = ctx.slopes, None
        return (
            *(
                None if slope is None else slope.mul_(grad).to(dtype)
                for slope, dtype in zip(slopes, ctx.dtypes)
            ),
            None,
            None,
        )


class _Slopes:
    """Gradients of what makes the logits, of those that are wanted, chunk by chunk."""

    def __init__(
        self, hidden_ND: Tensor, token_VD: Tensor, bias_V: Tensor, wanted: Sequence[bool]
    ) -> None:
        self._from = hidden_ND, token_VD
        self.hidden = torch.empty_like(hidden_ND) if wanted[0] else None
        self.bias = torch.zeros_like(bias_V, dtype=torch.float32) if wanted[2] else None
        self.token: Tensor | None = None
        self._wants_token = wanted[1]

    def along(self, logits_NV: Tensor, ids_N1: Tensor, weights_N1: Tensor) -> Tensor:
        """Loss of logits, in nats; its slopes along them, weight (softmax - one-hot), replace them.

        In fp32, a few rows at a time on a CPU: they stay in its cache from the first pass to the
        last.
        """
        N, V = logits_NV.shape
        size = max(1, CACHED_LOGITS // V) if logits_NV.device.type == "cpu" else N
        room = logits_NV.new_empty(min(size, N), V, dtype=torch.float32)
        loss = room.new_zeros(())
        for start in range(0, N, size):
            part = slice(start, start + size)
            ids, weights = ids_N1[part], weights_N1[part]
            slope = room[: len(ids)].copy_(logits_NV[part])
            torch._log_softmax(slope, -1, half_to_float=False, out=slope)
            loss -= (slope.gather(1, ids) * weights).sum()
            slope.exp_().mul_(weights).scatter_add_(1, ids, -weights)
            if self.bias is not None:
                self.bias += slope.sum(0)
            logits_NV[part] = slope
        return loss

    def add(self, part: slice, slope_NV: Tensor) -> None:
        """Add what a chunk of rows gives, by the slope of the loss along its logits."""
        hidden, token = self._from
        if self.hidden is not None:
            torch.mm(slope_NV, token, out=self.hidden[part])
        if self._wants_token:
            # Clearing a matrix of the vocabulary's size costs as much as a third of this product.
            product = torch.mm(slope_NV.T, hidden[part])
            self.token = product if self.token is None else self.token.add_(product)


def _pair_loss(pair_B2: Tensor, inputs: Inputs) -> Tensor:
    return F.cross_entropy(pair_B2.float(), inputs.pair_labels.long(), reduction="sum")
