"""What a run shows while it runs: a view at the bottom of a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from mslt.config import Config
from mslt.forecast import Forecast, outcome
from mslt.plan import Plan, Stage
from mslt.run import Run
from mslt.screen import Screen, columns, is_terminal
from mslt.status import Remaining, Status, view
from mslt.words import describe, duration

LINE_SECONDS = 10.0  # between plain lines
PAINT_SECONDS = 0.2  # between two paintings of the view


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
        self._screen = Screen() if is_terminal(sys.stdout) and not quiet else None
        self._status = Status(plan, step)
        self._stage = ""
        self._printed = self._painted = 0.0
        self._warned = False
        self._left: Remaining | None = None

    def __enter__(self) -> "Console":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._screen is not None:
            self._screen.close()

    def say(self, text: str) -> None:
        """Print lines without disturbing the view."""
        if self.quiet:
            return
        if self._screen is not None:
            self._screen.write(text)
        else:
            print(text, flush=True)

    def warn_once(self, text: str) -> None:
        """Say something that would be true again at the next evaluation."""
        if not self._warned:
            self.say(text)
        self._warned = True

    def header(self, config: Config, facts: Mapping[str, Any], out: Path) -> None:
        """What is about to run; from then on the time that is left is known."""
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
        if 0 < (step := self._status.step) < self.plan.steps:
            self.say(f"  goes on after step {step:,}")
        schedule = config.schedule
        span = self.plan.stages[0].steps if schedule.per_stage else self.plan.steps
        each = " in each stage" if schedule.per_stage else ""
        self.say(
            f"  peak learning rate {schedule.lr:g}{each} after {schedule.warmup(span):,} steps "
            f"of warm-up; {config.batch_size:,} sequences per step"
        )
        forecast = Forecast.of_run(facts, self.plan)
        self._left = Remaining.of(config, self.plan, forecast)
        if forecast:
            took = duration(forecast.training(self.plan))
            self.say(f"  predicted by {forecast.by}: {took} of training")

    def enter(self, index: int, stage: Stage, steps: range) -> None:
        """A stage begins, or goes on."""
        self._stage = f"stage {index + 1}/{len(self.plan.stages)}, {describe(stage)}"
        if self._left is not None:
            self._left.enter(index)
        self._at(steps.start)
        self._paint(now=True)

    def advance(self, step: int) -> None:
        """One step more is done."""
        self._at(step)
        self._paint()

    def train(self, step: int, values: Mapping[str, Any]) -> None:
        """A logged step."""
        if self._left is not None:
            self._left.see(step, values["seconds"])
        self._at(step)
        self._status = replace(
            self._status,
            loss=values["mlm_loss"],
            tokens_per_second=values["tokens_per_second"],
            memory=values.get("memory"),
        )
        now, left = time.monotonic(), self._status.left
        if self._screen is not None:
            self._paint(now=True)
        elif now - self._printed > LINE_SECONDS or step in self.plan.ends:
            self._printed = now
            ends = f", about {duration(left[1])} left" if left else ""
            self.say(
                f"step {step:,}/{self.plan.steps:,} ({self._stage}): "
                f"loss {values['mlm_loss']:.3f}, {values['tokens_per_second']:,.0f} tokens/s{ends}"
            )

    def heldout(self, step: int, values: Mapping[str, Any]) -> None:
        """An evaluation."""
        self._status = replace(self._status, heldout=values["mlm_loss"])
        pair = f", pair accuracy {values['pair_accuracy']:.1%}" if "pair_accuracy" in values else ""
        self.say(
            f"step {step:,}: held-out loss {values['mlm_loss']:.4f}, "
            f"accuracy {values['mlm_accuracy']:.1%}{pair}"
        )

    def footer(self, run: Run, out: Path) -> None:
        """The plan is finished: what came of it, and of its forecast."""
        self._status = replace(self._status, ended="finished")
        self._paint(now=True)
        if self._screen is not None:
            self._screen.close()
        lines, facts = run.heldout(), run.facts()
        self.say(
            f"finished: held-out loss {lines[-1]['mlm_loss']:.4f} (token frequencies alone: "
            f"{facts['baseline_mlm_loss']:.4f}) after {duration(lines[-1]['seconds'])} of training"
        )
        if told := outcome(facts, self.plan, lines):
            self.say(f"  {told}")
        self.say(f"  mslt export {out} --out DIR   writes it for Hugging Face")

    def _at(self, step: int) -> None:
        """So many steps are done; what is left follows from that, not from the time of day."""
        left = self._left.after(step) if self._left is not None else None
        self._status = replace(self._status, step=step, left=left)

    def _paint(self, *, now: bool = False) -> None:
        """Show where the run stands, but not too often."""
        time_now = time.monotonic()
        if self._screen is None or (time_now - self._painted < PAINT_SECONDS and not now):
            return
        self._painted = time_now
        self._screen.paint(view(self._status, columns()))
