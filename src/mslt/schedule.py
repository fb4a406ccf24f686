"""The learning rate as a pure function of the step. Imports no torch."""

from dataclasses import dataclass
from math import inf
from typing import Literal, get_args

Shape = Literal["linear", "wsd", "constant"]
DECAY_SHARE = 0.2  # of `wsd`, where it is not given
MOST_WARMUP = 10  # one part in ten of a span, so that a shortened run still trains at its peak rate


@dataclass(frozen=True)
class Schedule:
    """Warm-up, then a shape: what the learning rate does over a span of steps.

    Args:
        lr: the peak learning rate (0.00088 in the paper, section 4.1, with LAMB).
        warmup_steps: steps of linear warm-up from zero (10,000 in section 4.2), but at most a
            tenth of the span.
        shape: after the warm-up, `linear` falls to zero at the end of the span (Devlin et al.
            2018), `wsd` stays at the peak and falls linearly to zero over the last `decay_share`
            of the span (warm-up-stable-decay), `constant` stays.
        decay_share: share of the span in which `wsd` decays (default 0.2).
        per_stage: start afresh in every stage, warm-up included, instead of one continuous span
            over the whole plan. The paper is silent; see docs/choices.md.
    """

    lr: float = 0.00088
    warmup_steps: int = 10_000
    shape: Shape = "linear"
    decay_share: float | None = None
    per_stage: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.lr < inf:
            raise ValueError(f"schedule.lr must be above 0, not {self.lr}")
        if self.warmup_steps < 0:
            raise ValueError(f"schedule.warmup_steps must be 0 or more, not {self.warmup_steps}")
        if self.shape not in get_args(Shape):
            raise ValueError(f"schedule.shape must be linear, wsd or constant, not {self.shape!r}")
        if self.decay_share is None:
            return
        if self.shape != "wsd":
            raise ValueError(f"schedule.decay_share has no effect on the shape {self.shape}")
        if not 0 < self.decay_share <= 1:
            raise ValueError(f"schedule.decay_share must be in (0, 1], not {self.decay_share}")

    def warmup(self, steps: int) -> int:
        """Steps of warm-up in a span of `steps` steps."""
        return min(self.warmup_steps, steps // MOST_WARMUP)

    def at(self, step: int, steps: int) -> float:
        """The learning rate of `step` (counted from 0) in a span of `steps` steps."""
        warmup = self.warmup(steps)
        if step < warmup:
            return self.lr * (step + 1) / warmup
        left = steps - step
        if self.shape == "linear":
            return self.lr * left / (steps - warmup)
        if self.shape == "wsd":
            share = self.decay_share or DECAY_SHARE
            decay = max(1, round(min(share * steps, steps - warmup)))
            return self.lr * min(1.0, left / decay)
        return self.lr
