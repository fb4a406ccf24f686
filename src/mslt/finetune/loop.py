"""Training a model on a task, by the step that pre-training takes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mslt.config import OptimizerConfig
from mslt.devices import Precision
from mslt.finetune.examples import Encoded, TaskInputs, reading_order, training_order
from mslt.finetune.model import SentenceHead, TaskModel
from mslt.finetune.tasks import HIGHEST, LOWEST
from mslt.growth import freeze
from mslt.objective import Objective
from mslt.schedule import Schedule
from mslt.trainer import Settings, Trainer
from mslt.world import World

READ_BATCH = 64  # sequences that are predicted at once
WARMUP = 10**9  # as long as a schedule allows: a tenth of the steps


@dataclass(frozen=True)
class How:
    """How a model is fine-tuned.

    Args:
        lr: peak learning rate; a tenth of the steps warm up, the rest decays to zero.
        epochs: over the training set.
        batch_size: examples of a step.
        seed: of the new head, the order and the dropout.
        precision: of the layers' arithmetic.
        device: as torch spells it.
    """

    lr: float
    epochs: int
    batch_size: int
    seed: int
    precision: Precision = "fp32"
    device: str = "cpu"


def _losses(
    model: TaskModel, inputs: TaskInputs, x_BLD: None, layers: int, *, recompute: bool = False
) -> tuple[Tensor]:
    """Sum over the sequences of the loss of their answers."""
    logits = model.logits(inputs.input_ids, inputs.segment_ids, inputs.seen)
    if not isinstance(model.head, SentenceHead):
        ends_B2 = inputs.labels.long()
        if inputs.seen is not None:
            logits = logits.masked_fill(~inputs.seen[..., None], -1e4)
        first, last = (
            F.cross_entropy(logits[..., i], ends_B2[:, i], reduction="sum") for i in (0, 1)
        )
        return ((first + last) / 2,)
    if logits.shape[1] == 1:
        return ((logits[:, 0] - inputs.labels).square().sum(),)
    return (F.cross_entropy(logits, inputs.labels.long(), reduction="sum"),)


class Diverged(ValueError):
    """What training has come to is not finite any more."""


OBJECTIVE = Objective(("loss",), TaskInputs.of, lambda batch: (len(batch.lengths),), _losses)


def fine_tune(
    model: TaskModel,
    encoded: Encoded,
    how: How,
    tell: Callable[[int, int, Tensor], None] = lambda step, steps, loss: None,
) -> int:
    """Train in place.

    Args:
        model: on the CPU or the device.
        encoded: the training set.
        how: rate, epochs and the like.
        tell: called after each step with steps done, steps in all and the loss of the step.

    Returns:
        The steps that it took.

    Raises:
        Diverged: the loss, which is looked at now and then and after the last step, or a weight is
            not finite any more.
    """
    model.to(how.device)
    freeze(model, 0)
    settings = Settings(
        optimizer=OptimizerConfig(name="adamw"),
        precision=how.precision,
        micro_batch=how.batch_size,
        pair=False,
        seed=how.seed,
    )
    trainer = Trainer(model, settings, {}, World(device=how.device), objective=OBJECTIVE)
    orders = [training_order(encoded, how.batch_size, how.seed, e) for e in range(how.epochs)]
    batches = [rows for order in orders for rows in order]
    schedule = Schedule(lr=how.lr, warmup_steps=WARMUP)
    for step, rows in enumerate(batches):
        batch: Any = encoded.batch(rows)
        values = trainer.step(step, batch, schedule.at(step, len(batches)))
        seen = step % 100 == 0 or step + 1 == len(batches)
        if seen and not torch.isfinite(values["loss"]):
            raise Diverged(f"the loss is {float(values['loss'])} at step {step + 1}")
        tell(step + 1, len(batches), values["loss"])
    if not all(bool(torch.isfinite(weights).all()) for weights in model.parameters()):
        raise Diverged(f"weights are not finite after step {len(batches)}")
    return len(batches)


@torch.no_grad()
def predict(model: TaskModel, encoded: Encoded, device: str = "cpu") -> list[np.ndarray]:
    """Logits of every example, in their order: [C], or [L, 2] without padding.

    Raises:
        Diverged: they are not finite.
    """
    model.to(device).eval()
    found: list[np.ndarray] = [np.empty(0)] * len(encoded)
    for rows in reading_order(encoded, READ_BATCH):
        inputs = TaskInputs.of(encoded.batch(rows), device)
        logits = model.logits(inputs.input_ids, inputs.segment_ids, inputs.seen).cpu().numpy()
        if not np.isfinite(logits).all():
            raise Diverged("what the model says is not finite")
        for row, values in zip(rows, logits):
            spans = values.ndim == 2
            found[row] = values[: len(encoded.ids[row])].copy() if spans else values.copy()
    return found


def answers(logits: Sequence[np.ndarray]) -> np.ndarray:
    """The class that each says, or the number, within the range of answers: [N]."""
    stacked = np.stack(list(logits))
    if stacked.shape[1] == 1:
        return stacked[:, 0].clip(LOWEST, HIGHEST)
    return stacked.argmax(1)
