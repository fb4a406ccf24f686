"""What a run shows while it runs: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from tqdm import tqdm

from mslt.config import Config
from mslt.plan import Plan, Stage
from mslt.run import Run
from mslt.words import describe, duration

LINE_SECONDS = 10.0  # between plain lines


class Console:
    """Progress of one run.

    Args:
        plan: its stages.
        batch_size: sequences per step.
        step: where it begins.
        quiet: show nothing; for tests and for runs inside other commands.
    """

    def __init__(self, plan: Plan, batch_size: int, step: int = 0, *, quiet: bool = False) -> None:
        self.plan = plan
        self.batch_size = batch_size
        self.quiet = quiet
        self._terminal = sys.stdout.isatty() and not quiet
        self._bar: Any = None
        self._first = step
        self._stage = ""
        self._printed = 0.0
        self._warned = False
        self._left = Remaining(plan)

    def __enter__(self) -> "Console":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.close()

    def say(self, text: str) -> None:
        """Print lines without disturbing the bar."""
        if self.quiet:
            return
        if self._bar is not None:
            self._bar.write(text, file=sys.stdout)
        else:
            print(text, flush=True)

    def warn_once(self, text: str) -> None:
        """Say something that would be true again at the next evaluation."""
        if not self._warned:
            self.say(text)
        self._warned = True

    def header(self, config: Config, facts: Mapping[str, Any], out: Path) -> None:
        """What is about to run."""
        model, text = config.model, facts["text"]["train"]
        self.say(
            f"{out}: {model.num_hidden_layers} layers of {model.hidden_size}, "
            f"{model.vocab_size:,} pieces, {config.optimizer.name}, {facts['precision']} on "
            f"{facts['device']}, {text['tokens']:,} tokens of text"
        )
        if start := facts.get("start"):
            self.say(f"  begins with the {start['depth']} layers of {start['name']}")
        for i, stage in enumerate(self.plan.stages):
            self.say(f"  stage {i + 1}: {describe(stage)}, {stage.steps:,} steps")
        schedule = config.schedule
        span = self.plan.stages[0].steps if schedule.per_stage else self.plan.steps
        each = " in each stage" if schedule.per_stage else ""
        self.say(
            f"  peak learning rate {schedule.lr:g}{each} after {schedule.warmup(span):,} steps "
            f"of warm-up; {config.batch_size:,} sequences per step"
        )

    def enter(self, index: int, stage: Stage, steps: range) -> None:
        """A stage begins, or goes on."""
        self._stage = f"stage {index + 1}/{len(self.plan.stages)}, {describe(stage)}"
        self._left.enter(index, steps.start)
        if self._terminal and self._bar is None:
            self._bar = tqdm(total=self.plan.steps, initial=self._first, unit="step", ncols=110)
        if self._bar is not None:
            self._bar.set_description(f"stage {index + 1}/{len(self.plan.stages)}")

    def advance(self, step: int) -> None:
        """One step more is done."""
        if self._bar is not None:
            self._bar.update(step - self._bar.n)

    def train(self, step: int, values: Mapping[str, Any]) -> None:
        """A logged step."""
        left = self._left.seconds(step, values["seconds"])
        if self._bar is not None:
            self._bar.set_postfix_str(
                f"loss {values['mlm_loss']:.3f}, {values['tokens_per_second']:,.0f} tok/s, "
                f"{duration(left)} left"
            )
        elif time.monotonic() - self._printed > LINE_SECONDS or step in self.plan.ends:
            self._printed = time.monotonic()
            self.say(
                f"step {step:,}/{self.plan.steps:,} ({self._stage}): "
                f"loss {values['mlm_loss']:.3f}, {values['tokens_per_second']:,.0f} tokens/s, "
                f"about {duration(left)} left"
            )

    def heldout(self, step: int, values: Mapping[str, Any]) -> None:
        """An evaluation."""
        pair = f", pair accuracy {values['pair_accuracy']:.1%}" if "pair_accuracy" in values else ""
        self.say(
            f"step {step:,}: held-out loss {values['mlm_loss']:.4f}, "
            f"accuracy {values['mlm_accuracy']:.1%}{pair}"
        )

    def footer(self, run: Run, out: Path) -> None:
        """The plan is finished."""
        last, baseline = run.heldout()[-1], run.facts()["baseline_mlm_loss"]
        self.say(
            f"finished: held-out loss {last['mlm_loss']:.4f} (token frequencies alone: "
            f"{baseline:.4f}) after {duration(last['seconds'])} of training\n"
            f"  mslt export {out} --out DIR   writes it for Hugging Face"
        )


class Remaining:
    """Training time that is left, by the rates seen so far.

    A stage that has not begun is reckoned from the latest rate: a layer that learns costs three
    forward passes, one that only runs forward costs one.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._index = 0
        self._mark: tuple[int, float] | None = None
        self._start = 0

    def enter(self, index: int, step: int) -> None:
        """A stage begins at `step`."""
        self._index, self._start, self._mark = index, step, None

    def seconds(self, step: int, seconds: float) -> float:
        """Estimate after `step` steps and `seconds` of training in all."""
        if self._mark is None:
            self._mark = (step, seconds)
            done = max(step - self._start, 1)
            rate = seconds / max(step, done)
        else:
            rate = (seconds - self._mark[1]) / max(step - self._mark[0], 1)
        unit = rate / _cost(self.plan.stages[self._index])
        ends = self.plan.ends
        left = (ends[self._index] - step) * rate
        later = self.plan.stages[self._index + 1 :]
        return left + sum(unit * _cost(stage) * stage.steps for stage in later)


def _cost(stage: Stage) -> float:
    return (stage.depth + 2 * (stage.depth - stage.learns_from)) * stage.seq_len
