"""Several runs in turns, a block of steps of each, so that all see the same drifts of the machine.

A block is the same part of every run, whatever its steps: where a plan's first tenth is cheap and
another's is not, both are still trained in the same tenth of the time.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from mslt.checkpoint import State
from mslt.console import Console
from mslt.guard import Diverged
from mslt.job import Job
from mslt.pretrain import Done, train
from mslt.run import Run


@dataclass
class Loop:
    """A run that is being trained in turns.

    Args:
        run: its folder.
        steps: of its plan.
        at: steps done.
        left: the loop over those that are left.
        done: where it stands; None before its first step here.
    """

    run: Run
    steps: int
    at: int
    left: Iterator[Done]
    done: Done | None = None

    @classmethod
    def of(cls, job: Job, state: State, run: Run) -> "Loop":
        """A run that begins, or goes on, from a state."""
        console = Console(job.plan, job.config.batch_size, quiet=True)
        return cls(run, job.plan.steps, state.step, train(job, state, run, console))


@dataclass(frozen=True)
class Turn:
    """One step more of one of the runs.

    Args:
        name: of the run.
        block: counted from 1.
        over: whether this was the block's last step of this run.
        lost: why the run is given up; None where it goes on.
    """

    name: str
    block: int
    over: bool
    lost: Diverged | None = None


def in_turns(loops: Mapping[str, Loop], blocks: int) -> Iterator[Turn]:
    """Train every run to its end, and yield after each step of any.

    A run that goes on from further on than others waits for them. One that diverges is given up,
    and the others go on.

    Args:
        loops: the runs, by name, in the order of their turns. What is trained is no function of it.
        blocks: into which each run is cut.

    Raises:
        OSError: the disk is full or not writable.
    """
    given_up = set()
    for block in range(1, blocks + 1):
        for name, loop in loops.items():
            end = loop.steps * block // blocks
            try:
                while loop.at < end and name not in given_up:
                    loop.done = next(loop.left)
                    loop.at = loop.done.step
                    yield Turn(name, block, loop.at == end)
                if block == blocks and name not in given_up:
                    next(loop.left, None)  # lets it close what it has opened
            except Diverged as error:
                given_up.add(name)
                yield Turn(name, block, True, error.with_traceback(None))
