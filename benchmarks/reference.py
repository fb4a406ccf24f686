"""The reference: Hugging Face's BERT or ALBERT for pre-training, in the loop that its users write.

Also the judge of parity: the same weights and the same batch must give the same loss and the same
gradients, or no benchmark prints a ratio.
"""

import math
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from apart import Apart
from common import LR, Setting, Variant, hopeless
from invented import made_up_model
from stages import CACHED, Built, Way
from torch import Tensor

from mslt.config import ModelConfig, OptimizerConfig
from mslt.data.instances import Batch
from mslt.huggingface import config_to_hf, family_of, to_hf
from mslt.model import Encoder
from mslt.optim import decays

# Without the moving mean, the first moment that a step leaves behind is the gradient itself.
BARE = OptimizerConfig(name="adamw", beta1=0.0, clip_norm=0.0)

EAGER, COMPILED = "eager", "compiled"  # groups of variants, of which the best counts


class HuggingFace:
    """Whole-model training steps of their class with both heads: AdamW (fused), clipped gradients.

    Args:
        model: whose weights it begins with, and whose shape and dropout it has.
        optimizer: the constants, with weight decay where ours has it.
        device: where it runs.
        attention: `sdpa` or `eager`, as transformers calls its implementations.
        bf16: under autocast.
        compiled: by torch.compile.
    """

    def __init__(
        self,
        model: Encoder,
        optimizer: OptimizerConfig,
        device: str,
        *,
        attention: str = "sdpa",
        bf16: bool = False,
        compiled: bool = False,
    ) -> None:
        # Takes seconds to import, which a process that measures memory does without.
        from transformers import AutoConfig, AutoModelForPreTraining

        config = AutoConfig.for_model(**config_to_hf(model.config, model.depth))
        with torch.device(device):
            self.model = AutoModelForPreTraining.from_config(config, attn_implementation=attention)
        load = self.model.load_state_dict(to_hf(model.state_dict(), model.config), strict=False)
        assert not load.unexpected_keys
        assert all(".decoder." in key for key in load.missing_keys), load.missing_keys
        self.model.to(device).train()
        self.device = device
        self.pair_labels = family_of(model.config).pair_labels
        self.autocast = torch.autocast(device.partition(":")[0], torch.bfloat16, enabled=bf16)
        self.clip_norm = optimizer.clip_norm
        groups: dict[bool, list[Tensor]] = {True: [], False: []}
        for name, parameter in self.model.named_parameters():
            norm = "layernorm" in name.lower().replace("_", "")
            groups[decays(name) and not norm].append(parameter)
        self.optimizer = torch.optim.AdamW(
            [
                {"params": groups[True], "weight_decay": optimizer.weight_decay},
                {"params": groups[False], "weight_decay": 0.0},
            ],
            lr=LR,
            betas=(optimizer.beta1, optimizer.beta2),
            eps=optimizer.eps,
            fused=True,
        )
        self._call = torch.compile(self.model) if compiled else self.model

    def backward(self, batch: Batch) -> Tensor:
        """Loss of a batch, its gradients accumulated."""
        with self.autocast:
            loss = self._call(**inputs(batch, self.device, self.pair_labels)).loss
        loss.backward()
        return loss

    def step(self, batch: Batch) -> None:
        """One optimisation step."""
        self.backward(batch)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def inputs(
    batch: Batch, device: str, pair_labels: str = "next_sentence_label"
) -> dict[str, Tensor]:
    """A batch as transformers wants it: a label or -100 at every position."""
    length = batch.input_ids.shape[1]
    labels = np.full_like(batch.input_ids, -100)
    row, slot = np.nonzero(batch.masked_weights)
    labels[row, batch.masked_positions[row, slot]] = batch.masked_ids[row, slot]
    arrays = {
        "input_ids": batch.input_ids,
        "token_type_ids": batch.token_type_ids,
        "attention_mask": (np.arange(length) < batch.lengths[:, None]).astype(np.int64),
        "labels": labels,
        pair_labels: batch.pair_labels,
    }
    return {name: torch.from_numpy(a).to(device) for name, a in arrays.items()}


def rivals(setting: Setting, compiled: bool) -> list[Variant]:
    """Every way of theirs to run eagerly, or compiled in the precision that suits the machine.

    Each in a process of its own, as its users run it.
    """

    def variant(precision: str, attention: str) -> Variant:
        how = COMPILED if compiled else EAGER
        name = f"transformers {how}, {precision}, {attention} attention"
        if precision in without:
            return Variant(name, _nothing, note=without[precision])
        step = Apart(setting.device, _steps, setting, precision, attention, compiled)
        return Variant(name, step, rivals=how, rest=step.rest)

    without = hopeless(setting.device, setting.job.precision)
    precisions = [setting.job.precision] if compiled else ["fp32", "bf16"]
    return [variant(p, attention) for p in precisions for attention in ("sdpa", "eager")]


def _steps(
    setting: Setting, precision: str, attention: str, compiled: bool
) -> Callable[[int], object]:
    """Steps of theirs, by number."""
    loop = HuggingFace(
        made_up_model(setting.model, setting.model.num_hidden_layers, setting.device),
        setting.job.config.optimizer,
        setting.device,
        attention=attention,
        bf16=precision == "bf16",
        compiled=compiled,
    )
    return lambda number: loop.step(setting.batch(number))


def _nothing(_: int) -> None:
    """The step of a variant that is left out."""


def best(variants: list[Variant], rivals: str) -> float | None:
    """Seconds per step of the fastest of a group, if it has any."""
    return min((v.median for v in variants if v.rivals == rivals and v.finished), default=None)


@dataclass(frozen=True)
class Parity:
    """How far ours is from the reference.

    Args:
        loss: difference, relative to the reference's loss; the worst batch's.
        gradient: norm of the difference of a tensor's gradients, of all batches together, relative
            to the norm of the reference's (or to a thousandth of the largest, if that is more); the
            worst tensor's.
        worst: its name.
        tolerance: the most that either may be.
        allowed: the most that the worst tensor's may be, where that is more.
        loss_alone: the gradients are told, but may differ more.
    """

    loss: float
    gradient: float
    worst: str
    tolerance: float
    loss_alone: bool = False
    allowed: float = 0.0

    @property
    def holds(self) -> bool:
        """Whether ratios may be printed. False where a number is not finite."""
        most = max(self.tolerance, self.allowed)
        return self.loss <= self.tolerance and (self.loss_alone or self.gradient <= most)

    def __str__(self) -> str:
        of = "; tolerance of the loss" if self.loss_alone else "; tolerance"
        return (
            f"loss differs by {self.loss:.1e}, gradients by at most {self.gradient:.1e} "
            f"({self.worst}){of} {self.tolerance:.0e}"
            + (f", there {self.allowed:.0e}" if self.allowed > self.tolerance else "")
        )


TOLERANCE = {"fp32": 1e-3, "bf16": 5e-2}
# Where the terms of a gradient cancel out, as the pair head's may, bf16 leaves little of it: then
# ours may be so many times as far off as theirs under autocast, which keeps more in fp32.
AS_THEIRS = 3.0
# Batches: of one, the few numbers of the pair head's gradient may cancel out to all but nothing.
COMPARED = 2
FAST_TOLERANCE = 1e-2  # of the loss, where forward-only layers compute in fewer bits


def parity(setting: Setting, way: Way) -> Parity:
    """Steps of ours against the reference: loss and gradients of all that learns in a stage.

    Dropout is off, since no two implementations draw the same one. The weights are random in every
    tensor, biases and LayerNorms included, so that none can stand for another. The reference runs
    the whole model forward and backward in fp32, all rows and all logits, whatever the stage. In
    bf16 it runs under autocast too, to see what bf16 leaves of each gradient.
    """
    job = replace(setting.job, config=replace(setting.job.config, optimizer=BARE))
    model = made_up_model(without_dropout(setting.model), way.stage.depth, setting.device)
    stir(model)
    fast = way.mode not in ("", "exact")
    ours, rounding, losses = Differences(), Differences(), []
    built = Built(replace(setting, job=job), way, model)
    for number in range(COMPARED):
        batch = setting.batch(number)
        expected_loss, slopes = plain_gradients(model, batch, setting.device)
        # The first ones are not what is timed: what is cached is read from the second on, and a GPU
        # repeats what it has recorded in the third.
        first = 3 if setting.device.startswith("cuda") else int(way.mode == CACHED)
        for _ in range(first):
            built.trainer.step(number, batch, lr=0.0)
        metrics = built.trainer.step(number, batch, lr=0.0)
        moments = built.trainer.moments()
        found = to_hf({name: m.mean for name, m in moments.items()}, model.config)
        ours.add(found, slopes)
        loss = float(metrics["mlm_loss"] + metrics["pair_loss"])
        losses.append(abs(loss - expected_loss) / expected_loss)
        if job.precision == "bf16" and not fast:
            theirs = plain_gradients(model, batch, setting.device, bf16=True)[1]
            rounding.add({name: theirs[name] for name in found}, slopes)
    least = TOLERANCE[job.precision]
    off, left = ours.relative(), rounding.relative()
    allowed = {name: max(least, AS_THEIRS * left.get(name, 0.0)) for name in off}
    worst = max(off, key=lambda name: off[name] / allowed[name] if allowed[name] else off[name])
    return Parity(
        loss=float(np.max(losses)),  # which keeps what is no number
        gradient=off[worst],
        worst=worst,
        tolerance=FAST_TOLERANCE if fast else least,
        loss_alone=fast,
        allowed=allowed[worst],
    )


def plain_gradients(
    model: Encoder, batch: Batch, device: str, *, bf16: bool = False
) -> tuple[float, dict[str, Tensor]]:
    """Loss of the reference on a batch, and the gradients of all that has one, by name."""
    reference = HuggingFace(model, BARE, device, bf16=bf16)
    if device.startswith("cuda"):  # in fp32 it would need more memory than there is
        reference.model.gradient_checkpointing_enable()
    loss = reference.backward(batch).item()
    named = reference.model.named_parameters()
    return loss, {name: p.grad for name, p in named if p.grad is not None}


class Differences:
    """How much each gradient differs, over several batches, as `Parity` measures it."""

    def __init__(self) -> None:
        self._of_differences: Counter[str] = Counter()  # squared norms
        self._of_reference: Counter[str] = Counter()

    def add(self, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
        """Those of a batch, by name."""
        for name, gradient in found.items():
            # The true gradient of a key's bias is zero, so what is there is rounding alone.
            if not name.endswith("key.bias"):
                self._of_differences[name] += (gradient - expected[name]).norm().item() ** 2
                self._of_reference[name] += expected[name].norm().item() ** 2

    def relative(self) -> dict[str, float]:
        """By name."""
        floor = 1e-6 * max(self._of_reference.values(), default=0.0)
        return {
            name: math.sqrt(square / max(self._of_reference[name], floor))
            for name, square in self._of_differences.items()
        }


def without_dropout(model: ModelConfig) -> ModelConfig:
    """The same shape."""
    return replace(model, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)


@torch.no_grad()
def stir(model: Encoder) -> None:
    """Add noise to every parameter, always the same."""
    generator = torch.Generator(model.device).manual_seed(0)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator, device=model.device)
        parameter += 0.02 * noise


def refuse_without(what: str, found: Parity) -> None:
    """Print the parity, and exit with 1 where it does not hold."""
    print(f"parity of {what}: {found}", flush=True)
    if not found.holds:
        sys.exit(f"no ratio: {what} does not compute what the reference computes")
