"""Following runs from another terminal, by their folders alone. Imports no torch."""

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mslt import layout
from mslt.config import Config
from mslt.files import held
from mslt.forecast import Forecast
from mslt.plan import Plan
from mslt.screen import Screen, columns, is_terminal
from mslt.status import Remaining, Status, facts, view
from mslt.words import duration

POLL_SECONDS = 1.0
LINE_SECONDS = 10.0  # between plain lines of a run


class Watched:
    """One run, as its folder shows it.

    Args:
        path: the folder.

    Raises:
        ValueError: it holds no run, or a damaged one.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path / layout.METRICS
        self._size = -1
        self._said = -LINE_SECONDS
        self._told = (0, "")
        self._evaluates = False  # since the last news
        self._saves: Path | None = None  # what has to stand before it trains on
        self._span = 0.0  # seconds of training from the last news to the next
        self.status = self._read()

    def refresh(self) -> None:
        """Look again."""
        size = self._file.stat().st_size if self._file.exists() else 0
        live = held(self.path / layout.LOCK)
        if size != self._size or (not live and not self.status.ended):
            self.status = self._read()
        if live and self.status.step < self.status.plan.steps:
            self.status = replace(self.status, ended="")

    def view(self, width: int) -> list[str]:
        """The lines of the view, with the training since the last news taken off what is left."""
        status = self.status if self.status.ended else self.status.later(self._trained())
        return [str(self.path)[:width], *view(status, width)]

    def line(self) -> str | None:
        """One line where there is something new to say, which is not too often."""
        status, now = self.status, time.monotonic()
        news = (status.step, status.ended)
        if news == self._told or (now - self._said < LINE_SECONDS and not status.ended):
            return None
        self._said, self._told, left = now, news, ""
        if status.left and not status.ended:
            left = f", about {duration(status.left[1])} left"
        return (
            f"{self.path}: step {status.step:,}/{status.plan.steps:,} (stage {status.index + 1}/"
            f"{len(status.plan.stages)}): {', '.join(facts(status)[:-1])}{left}"
        )

    def _read(self) -> Status:
        """All that the folder says."""
        self._size = self._file.stat().st_size if self._file.exists() else 0
        config = layout.read_config(self.path)
        run = layout.read_facts(self.path)
        plan = config.stages()
        lines = layout.read_metrics(self.path)
        trained = [line for line in lines if line["kind"] == "train"]
        measured = [line for line in lines if line["kind"] == "heldout"]
        remaining = Remaining.of(config, plan, Forecast.of_run(run, plan, str(self.path)))
        index = -1
        for line in trained[-1000:]:
            if (stage := plan.index(line["step"] - 1)) != index:
                index = stage
                remaining.enter(index)
            remaining.see(line["step"], line["seconds"])
        last = trained[-1] if trained else {}
        step = max((line["step"] for line in [*trained[-1:], *measured[-1:]]), default=0)
        self._expect(config, plan, step, measured)
        status = Status(
            plan=plan,
            step=step,
            loss=last.get("mlm_loss"),
            heldout=measured[-1]["mlm_loss"] if measured else None,
            tokens_per_second=last.get("tokens_per_second"),
            memory=last.get("memory"),
            left=remaining.after(step),
            ended=self._ended(plan, step),
        )
        upcoming = (step // config.log_every + 1) * config.log_every
        then = remaining.after(min(upcoming, plan.ends[status.index]))
        self._span = status.left[1] - then[1] if status.left and then else 0.0
        return status

    def _expect(self, config: Config, plan: Plan, step: int, measured: list[Any]) -> None:
        """What the run does before it trains on."""
        ends, every = step in plan.ends, config.eval_every
        due = ends or (step > 0 and every > 0 and step % every == 0)
        self._evaluates = due and not (measured and measured[-1]["step"] == step)
        self._saves = layout.checkpoint_folder(self.path, step) if ends else None

    def _trained(self) -> float:
        """Seconds of training since the last news: none while it evaluates or saves."""
        marks = [self._file, *([self._saves] if self._saves else [])]
        if self._evaluates or not all(mark.exists() for mark in marks):
            return 0.0
        since = max(mark.stat().st_mtime for mark in marks)
        return min(max(0.0, time.time() - since), self._span)

    def _ended(self, plan: Plan, step: int) -> str:
        if step >= plan.steps:
            return "finished"
        return "" if held(self.path / layout.LOCK) else "stopped"


def watch(paths: Sequence[Path]) -> None:
    """Show runs until all have ended; those that have ended already are shown once.

    Args:
        paths: of their folders.

    Raises:
        ValueError: one of them holds no run, or a damaged one.
    """
    runs = [Watched(path) for path in paths]
    screen = Screen() if is_terminal(sys.stdout) else None
    while True:
        for run in runs:
            run.refresh()
        if screen:
            screen.paint(_joined(runs, columns()))
        else:
            for text in filter(None, (run.line() for run in runs)):
                print(text, flush=True)
        if all(run.status.ended for run in runs):
            break
        time.sleep(POLL_SECONDS)
    if screen:
        screen.close()
    for run in runs:
        if run.status.ended == "stopped":
            print(f"go on with: mslt pretrain --resume --out {run.path}")


def _joined(runs: Sequence[Watched], width: int) -> list[str]:
    lines: list[str] = []
    for run in runs:
        lines += [*([""] if lines else []), *run.view(width)]
    return lines
