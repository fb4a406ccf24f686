"""Steps that are timed in a process of their own, where nothing of ours has changed anything.

Beside a trainer of ours that would not be so: what makes a step fast may be a setting of the whole
process, as memory that is kept when it is freed is (`mslt.machine.keep_freed_memory`).
"""

import multiprocessing
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch
from common import by_processor, counts_processor, now

Step = Callable[[int], object]


class Apart:
    """A step elsewhere; called with its number, it says how many seconds it took there.

    Args:
        device: where it computes.
        build: makes the step, in the other process; a function of a module.
        given: what it takes.
    """

    def __init__(self, device: str, build: Callable[..., Step], *given: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        # It ends with us, and at the latest when nothing more can come.
        process = context.Process(
            target=_serve, args=(theirs, device, counts_processor(), build, given), daemon=True
        )
        process.start()
        theirs.close()

    def __call__(self, number: int) -> float:
        """Seconds of one step.

        Raises:
            RuntimeError: the process has ended; why, it has written itself.
        """
        try:
            self._pipe.send(number)
            seconds: float = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise RuntimeError("a process that was to be timed has ended") from error
        return seconds

    def rest(self) -> None:
        """Let it give the memory of a GPU that it does not hold on to back, for others' turns."""
        self._pipe.send(None)
        self._pipe.recv()


def _serve(
    pipe: Connection, device: str, busy: bool, build: Callable[..., Step], given: tuple[Any, ...]
) -> None:
    if busy:
        by_processor(device)
    step = build(*given)
    while True:
        try:
            number = pipe.recv()
        except EOFError:
            return
        if number is None:
            if device.startswith("cuda"):
                torch.cuda.empty_cache()
            pipe.send(0.0)
            continue
        start = now(device)
        step(number)
        pipe.send(now(device) - start)
