"""Cells as they are done, in this process or in several, which end when this one does."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from typing import Any

from mslt.children import ctrl_c_waits, end_with_parent
from mslt.finetune.cell import Work, say, train
from mslt.finetune.settings import Cell

DONE, FAILED, SAID = "done", "failed", "said"  # what a message of a member says


def trained(works: Iterable[Work], devices: Sequence[str]) -> Iterator[tuple[Cell, dict[str, Any]]]:
    """Train cells, as many at once as there are devices, and yield each with its result.

    Args:
        works: what to train, in order; the device of each is chosen here.
        devices: one for each process; with a single one all is done in this process.

    Raises:
        ValueError: as `mslt.finetune.cell.train`.
        OSError: the same; or a process was killed, as the system does when memory runs out. The
            others are stopped, and what they were training is lost.
    """
    if len(devices) == 1:
        for work in works:
            yield work.cell, train(replace(work, device=devices[0]))
        return
    todo = iter(works)
    crew: list[_Member] = []
    try:
        for device in devices:
            crew.append(_Member(device))
            crew[-1].take(next(todo, None))
        while busy := [member for member in crew if member.work]:
            for pipe in wait([member.pipe for member in busy]):
                member = next(member for member in busy if member.pipe is pipe)
                try:
                    kind, said = member.pipe.recv()
                except (EOFError, OSError):
                    raise OSError(_loss(member, busy)) from None
                if kind == FAILED:
                    raise said
                if kind == SAID:
                    say(said)
                    continue
                cell = member.cell
                member.take(next(todo, None))
                yield cell, said
    finally:
        for member in crew:
            member.end()


class _Member:
    """A process that trains one cell after the other, and this end of the pipe to it."""

    def __init__(self, device: str) -> None:
        # Not fork: threads and CUDA would not survive it.
        context = get_context("spawn")
        self.device = device
        self.work: Work | None = None
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,), daemon=True)
        with ctrl_c_waits():
            self.process.start()
        theirs.close()  # so that its end is heard

    def take(self, work: Work | None) -> None:
        """Begin with another cell, if there is one."""
        self.work = work
        if work:
            with suppress(ConnectionError):  # a process that is no more is met when it is heard
                self.pipe.send(replace(work, device=self.device))

    @property
    def cell(self) -> Cell:
        """What it trains."""
        assert self.work is not None
        return self.work.cell

    def end(self) -> None:
        """At once: what it has not finished is lost."""
        self.process.terminate()
        self.process.join()
        self.pipe.close()


def _serve(pipe: Connection) -> None:
    end_with_parent()
    while True:
        work = pipe.recv()
        try:
            # One process alone writes, so that no line is torn.
            answer: tuple[str, Any] = DONE, train(work, lambda text: pipe.send((SAID, text)))
        except (OSError, ValueError) as error:
            answer = FAILED, error
        pipe.send(answer)


def _loss(lost: _Member, busy: Sequence[_Member]) -> str:
    """What to say when a process has ended by itself."""
    lost.process.join()
    code = lost.process.exitcode or 0
    how = f"was killed by signal {-code}" if code < 0 else f"ended with status {code}"
    hint = " (is there enough memory?)" if code < 0 else ""
    others = [member.cell.name for member in busy if member.work and member is not lost]
    beside = f", and {', '.join(others)} was stopped" if others else ""
    return f"the process of {lost.cell.name} {how}{hint}{beside}; the same line again goes on"
