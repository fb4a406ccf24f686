"""The learning rate as a pure function of the step. Imports no torch."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Schedule:
    """Warm-up, then a shape: what the learning rate does over a span of steps.

    Args:
        lr: the peak learning rate (0.00088 in the paper, section 4.1, with LAMB).
        warmup_steps: steps of linear warm-up from zero (10,000 in section 4.2).
        shape: after the warm-up, `linear` falls to zero at the end of the span (Devlin et al.
            2018), `wsd` stays at the peak and falls linearly to zero over the last `decay_share`
            of the span (warm-up-stable-decay), `constant` stays.
        decay_share: share of the span in which `wsd` decays.
        per_stage: start afresh in every stage, warm-up included, instead of one continuous span
            over the whole plan. The paper is silent; see docs/choices.md.
    """

    lr: float = 0.00088
    warmup_steps: int = 10_000
    shape: Literal["linear", "wsd", "constant"] = "linear"
    decay_share: float = 0.2
    per_stage: bool = False

    def __post_init__(self) -> None:
        if not self.lr > 0:
            raise ValueError(f"schedule.lr must be above 0, not {self.lr}")
        if self.warmup_steps < 0:
            raise ValueError(f"schedule.warmup_steps must be 0 or more, not {self.warmup_steps}")
        if not 0 < self.decay_share <= 1:
            raise ValueError(f"schedule.decay_share must be in (0, 1], not {self.decay_share}")

    def at(self, step: int, steps: int) -> float:
        """The learning rate of `step` (counted from 0) in a span of `steps` steps."""
        warmup = min(self.warmup_steps, steps)
        if step < warmup:
            return self.lr * (step + 1) / warmup
        left = steps - step
        if self.shape == "linear":
            return self.lr * left / (steps - warmup)
        if self.shape == "wsd":
            decay = max(1, round(min(self.decay_share * steps, steps - warmup)))
            return self.lr * min(1.0, left / decay)
        return self.lr
