"""The two losses of BERT: masked tokens and sentence pairs (Devlin et al. 2018, section 3.1)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mslt.data.instances import Batch
from mslt.model import Encoder


@dataclass(frozen=True)
class Inputs:
    """A batch as tensors on the device; see `mslt.data.instances.Batch` for the shapes.

    `seen` is None where no sequence of the batch is padded, so that attention needs no mask.
    """

    input_ids: Tensor
    segment_ids: Tensor
    seen: Tensor | None
    masked_positions: Tensor
    masked_ids: Tensor
    masked_weights: Tensor
    pair_labels: Tensor

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
        )


def losses(model: Encoder, inputs: Inputs) -> tuple[Tensor, Tensor]:
    """Masked-token and sentence-pair loss in nats, summed over predictions and over sequences.

    Sums, not means: the caller divides by the counts of the whole batch, so that how it is cut
    into micro-batches or processes changes nothing.
    """
    mlm_BMV, pair_B2 = _logits(model, inputs)
    return _mlm_loss(mlm_BMV, inputs), _pair_loss(pair_B2, inputs)


def scores(model: Encoder, inputs: Inputs) -> dict[str, Tensor]:
    """Sums over a batch: both losses, and how many predictions of each kind were right."""
    mlm_BMV, pair_B2 = _logits(model, inputs)
    mlm_right_BM = mlm_BMV.argmax(-1) == inputs.masked_ids
    return {
        "mlm_loss": _mlm_loss(mlm_BMV, inputs),
        "mlm_right": (mlm_right_BM * inputs.masked_weights).sum(),
        "pair_loss": _pair_loss(pair_B2, inputs),
        "pair_right": (pair_B2.argmax(-1) == inputs.pair_labels).sum(),
    }


def _logits(model: Encoder, inputs: Inputs) -> tuple[Tensor, Tensor]:
    return model(inputs.input_ids, inputs.segment_ids, inputs.seen, inputs.masked_positions)


def _mlm_loss(mlm_BMV: Tensor, inputs: Inputs) -> Tensor:
    loss_N = F.cross_entropy(
        mlm_BMV.flatten(0, 1).float(), inputs.masked_ids.flatten().long(), reduction="none"
    )
    return (loss_N * inputs.masked_weights.flatten()).sum()


def _pair_loss(pair_B2: Tensor, inputs: Inputs) -> Tensor:
    return F.cross_entropy(pair_B2.float(), inputs.pair_labels.long(), reduction="sum")
