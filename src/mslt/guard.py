"""Steps whose numbers are broken, or out of all proportion, are refused before anything moves.

A refused step leaves weights, moments and their counts as they were: its batch is passed over and
the next step goes on. What the guard remembers is part of the saved state, so that a resumed run
decides as an unbroken one. Imports no torch.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import median

PATIENCE = 5  # steps in a row that may be refused
WINDOW = 128  # accepted steps that a spike is measured against ...
FEWEST = 32  # ... and how many of them it takes
SIGMAS = 10.0  # how far above their median a spike is, in robust standard deviations, ...
LEAST_LOSS = 0.25  # ... and at least so many nats,
LEAST_NORM = math.log(3)  # or as a factor of the gradients' norm

_SIGMA = 1.4826  # of normal noise, in median absolute deviations


class Diverged(ValueError):
    """Training gives no finite numbers any more.

    Args:
        reason: which number is broken.
        step: the step of that number, counted from 1.
        sound: steps done before the trouble began.
        more: what else there is to say.
    """

    def __init__(self, reason: str, step: int, sound: int, more: str = "") -> None:
        super().__init__(
            f"{reason} at step {step}: training has diverged{more}. Lower schedule.lr or lengthen "
            f"schedule.warmup_steps; what was saved is from before"
        )
        self.reason, self.step, self.sound = reason, step, sound


@dataclass(frozen=True)
class Watch:
    """What the guard remembers.

    Args:
        recent: loss and log of the gradients' norm in the stage's last accepted steps.
        refused: steps refused in a row, up to now.
        passed_over: batches that were passed over by going back: a step's batch is this many
            further on in the data.
    """

    recent: tuple[tuple[float, float], ...] = ()
    refused: int = 0
    passed_over: int = 0


class Guard:
    """Judges the numbers of each step before the weights move.

    Args:
        watch: what is remembered of the steps before.
        spikes: whether spikes are refused too, besides numbers that are not finite.
    """

    def __init__(self, watch: Watch, *, spikes: bool) -> None:
        self.watch = watch
        self.spikes = spikes
        self.reason = ""  # why the last step was refused; empty where it was not
        self._broken = False

    def enter_stage(self) -> None:
        """Forget the stage before: growth makes loss and gradients jump."""
        self.watch = replace(self.watch, recent=())

    def accept(self, values: Mapping[str, float]) -> bool:
        """Whether to take a step.

        Several spikes in a row are none: that is how it is now, and how it was is forgotten.

        Args:
            values: losses, and `grad_norm` before clipping.
        """
        watch, recent = self.watch, self.watch.recent
        broken = [f"{name} is {x}" for name, x in values.items() if not math.isfinite(x)]
        self._broken, self.reason = bool(broken), broken[0] if broken else ""
        if self.spikes and not broken:
            self.reason = _spike(_numbers(values), recent)
            if self.reason and watch.refused >= PATIENCE:
                self.reason, recent = "", ()
        if self.reason:
            self.watch = replace(watch, refused=watch.refused + 1)
        else:
            self.watch = replace(watch, recent=(*recent, _numbers(values))[-WINDOW:], refused=0)
        return not self.reason

    @property
    def lost(self) -> bool:
        """Whether too many steps in a row were refused, the last for a number that is broken."""
        return self._broken and self.watch.refused >= PATIENCE


def _numbers(values: Mapping[str, float]) -> tuple[float, float]:
    """The sum of the losses, and the log of the gradients' norm."""
    loss = sum(value for name, value in values.items() if name.endswith("_loss"))
    return loss, math.log(max(values["grad_norm"], 1e-30))


def _spike(numbers: tuple[float, float], recent: Sequence[tuple[float, float]]) -> str:
    """What is far above its median over the recent steps; nothing where nothing is."""
    if len(recent) < FEWEST:
        return ""
    for i, (name, least) in enumerate((("the loss", LEAST_LOSS), ("grad_norm", LEAST_NORM))):
        middle = median(row[i] for row in recent)
        above = numbers[i] - middle
        # A GPU waits for the answer, which as a rule takes no second median.
        if above > least and above > SIGMAS * _SIGMA * median(abs(r[i] - middle) for r in recent):
            now, usual = (math.exp(x) if i else x for x in (numbers[i], middle))
            return f"{name} is {now:.4g}, a spike above the usual {usual:.4g}"
    return ""
