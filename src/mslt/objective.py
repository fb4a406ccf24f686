"""The two losses of BERT: masked tokens and sentence pairs (Devlin et al. 2018, section 3.1)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from mslt.data.instances import Batch
from mslt.machine import to_device
from mslt.masked_loss import masked_token_loss
from mslt.model import Encoder, with_cls


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
        seen = np.arange(length) < batch.lengths[:, None]
        return cls(
            to_device(batch.input_ids, device),
            to_device(batch.token_type_ids, device),
            None if seen.all() else to_device(seen, device),
            to_device(batch.masked_positions, device),
            to_device(batch.masked_ids, device),
            to_device(batch.masked_weights, device),
            to_device(batch.pair_labels, device),
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
        model.head.slopes,
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


def _pair_loss(pair_B2: Tensor, inputs: Inputs) -> Tensor:
    return F.cross_entropy(pair_B2.float(), inputs.pair_labels.long(), reduction="sum")
