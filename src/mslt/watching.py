"""Following runs from another terminal, by their folders alone. Imports no torch."""

import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mslt import layout
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
        """The lines of the view, with the time that has passed since the last news."""
        age = time.time() - self._file.stat().st_mtime if self._file.exists() else 0.0
        status = self.status if self.status.ended else self.status.later(age)
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
        left, index = None, -1
        for line in trained[-1000:]:
            if (stage := plan.index(line["step"] - 1)) != index:
                index = stage
                remaining.enter(index)
            left = remaining.seconds(line["step"], line["seconds"])
        last = trained[-1] if trained else {}
        step = max((line["step"] for line in [*trained[-1:], *measured[-1:]]), default=0)
        return Status(
            plan=plan,
            step=step,
            loss=last.get("mlm_loss"),
            heldout=measured[-1]["mlm_loss"] if measured else None,
            tokens_per_second=last.get("tokens_per_second"),
            memory=last.get("memory"),
            left=left,
            ended=self._ended(plan, step),
        )

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
