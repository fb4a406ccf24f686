"""What torchrun, or whatever starts several processes, has told this one. Imports no torch."""

import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

WRONG = 2  # the exit status after a line about what was wrong


def launched() -> bool:
    """Whether this process has been started as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def passes_signals_on() -> bool:
    """Whether a launcher stands above this process and gives it again what it gets too.

    torchrun does so for a single process as well: Ctrl-C then comes three times.
    """
    return launched() or "TORCHELASTIC_RUN_ID" in os.environ


def local_rank() -> int:
    """This process among those of the machine, counted from 0."""
    return int(os.environ.get("LOCAL_RANK", os.environ.get("RANK", "0")))


def identity() -> str | None:
    """What names this launch of torchrun, through all its restarts; None without torchrun."""
    name = os.environ.get("TORCHELASTIC_RUN_ID")
    # Several machines without an --rdzv-id are all called "none": then it is the agent that counts.
    return f"{socket.gethostname()}/{os.getppid()}" if name == "none" else name


@contextmanager
def first_here_speaks() -> Iterator[None]:
    """Let one process of each machine say what is wrong, before they have found each other.

    Raises:
        SystemExit: instead of what is wrong, in the others.
    """
    try:
        yield
    except (ValueError, OSError):
        if local_rank() == 0:
            raise
        leave_quietly(3.0)


def leave_quietly(seconds: float = 1.0, status: int = WRONG) -> NoReturn:
    """Leave without a word, once the one that says why has had time to.

    For torchrun ends all processes as soon as one has failed.

    Raises:
        SystemExit: always.
    """
    time.sleep(seconds)
    raise SystemExit(status)
