"""Who takes part in a run, and what they tell each other: a value that is passed in.

Every method is the same call in every process, in the same order; with one process each does
nothing. What travels is numbers and text, never pickled objects.
"""

import hashlib
import json
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import zip_longest
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from mslt.launcher import launched, leave_quietly, local_rank
from mslt.phases import Phases
from mslt.watchdog import WAITING, Watchdog

# After this long in one exchange torch gives the others up for lost.
TIMEOUT = timedelta(minutes=10)


class Sum:
    """Tensors on their way: they hold the sum over all processes once `wait` returns.

    Args:
        world: that sums up, and is told that it waits.
        work: torch's; None where there is nothing to wait for.
    """

    def __init__(self, world: "World | None" = None, work: Any = None) -> None:
        self._world, self._work = world, work

    def done(self) -> bool:
        """Whether waiting would take no time."""
        return self._work is None or bool(self._work.is_completed())

    def wait(self) -> None:
        """Return when the sum is there; on a GPU, when all that follows will see it.

        Raises:
            ConnectionError: another process is gone, or has not come for TIMEOUT.
        """
        if self._world is not None and self._work is not None:
            with self._world.exchange():
                self._work.wait()


@dataclass(frozen=True)
class World:
    """One process among those of a run.

    Args:
        rank: this process, counted from 0.
        size: processes in all.
        device: what its tensors live on, as torch spells it (`cpu`, `cuda:0`).
        store: where processes leave notes for each other; None for one process.
        phases: what this process does now.
    """

    rank: int = 0
    size: int = 1
    device: str = "cpu"
    store: dist.Store | None = None
    phases: Phases = field(default_factory=Phases, compare=False)

    @property
    def main(self) -> bool:
        """Whether this is the process that writes the run's folder."""
        return self.rank == 0

    def rows(self, count: int, unit: int) -> slice:
        """This process' part of `count` rows: neighbours, and whole units of `unit` rows.

        So a unit is the same rows whatever the number of processes; the last may be short.
        """
        units = -(-count // unit)
        start, stop = (units * at // self.size * unit for at in (self.rank, self.rank + 1))
        return slice(min(start, count), min(stop, count))

    @contextmanager
    def exchange(self) -> Iterator[None]:
        """What the others take part in, and may keep this process waiting for.

        Raises:
            ConnectionError: another process is gone, or has not come for TIMEOUT.
        """
        with self.phases(WAITING), lost_others():
            yield

    def sum(self, tensor: Tensor) -> Sum:
        """Begin to add up a tensor over all processes, in place."""
        if self.size == 1:
            return Sum()
        with lost_others():
            return Sum(self, dist.all_reduce(tensor, async_op=True))

    def most(self, number: int) -> int:
        """The largest of all processes' numbers."""
        if self.size > 1:
            tensor = torch.tensor(number, device=self.device)
            with self.exchange():
                dist.all_reduce(tensor, dist.ReduceOp.MAX)
                number = int(tensor)
        return number

    def barrier(self) -> None:
        """Wait until every process is here."""
        self.most(0)

    def hand_out(self, tensor: Tensor) -> None:
        """Overwrite a tensor with the main process' own, which has the same shape and dtype."""
        if self.size > 1:
            with self.exchange():
                dist.broadcast(tensor, 0)

    def tell(self, text: str | None) -> str:
        """The main process' text, in every process; what the others give does not count."""
        if self.size == 1:
            assert text is not None
            return text
        content = bytearray((text or "").encode())
        length = self.most(len(content) if self.main else 0)
        if not self.main:
            content = bytearray(length)
        if length == 0:
            return ""
        tensor = torch.frombuffer(content, dtype=torch.uint8).to(self.device)
        self.hand_out(tensor)
        return bytes(tensor.cpu().numpy()).decode()

    def first_alone(self, work: Callable[[], Any]) -> Any:
        """Let the main process do something while the others wait, and fail with it if it fails.

        Returns:
            What the work returned, in the main process; None in the others.

        Raises:
            Exception: in the main process, what the work raised.
            SystemExit: in the others then, since one message is enough.
        """
        result = None
        failed = 1
        try:
            result = work() if self.main else None
            failed = 0
        finally:
            failed = self.most(failed if self.main else 0)
        if failed:
            leave_quietly()
        return result

    def agree(self, facts: Sequence[tuple[str, str]]) -> None:
        """Stop unless all processes have the same facts.

        Args:
            facts: name and value of each.

        Raises:
            ValueError: in every process, naming the first fact that differs and where.
        """
        if self.size == 1:
            return
        text = json.dumps(list(facts))
        number = int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")
        if self.most(number) == -self.most(-number):
            return
        all_facts = [json.loads(self._from(rank, text)) for rank in range(self.size)]
        for rank, theirs in enumerate(all_facts):
            for one, other in zip_longest(all_facts[0], theirs, fillvalue=("nothing", "")):
                if one != other:
                    raise ValueError(
                        f"processes 0 and {rank} differ: {' '.join(one)} against {' '.join(other)}"
                    )

    def _from(self, rank: int, text: str) -> str:
        """The text of one process, in every process; over the store, since it is seldom needed."""
        assert self.store is not None
        if rank == self.rank:
            self.store.set(f"agree/{rank}", text)
        return self.store.get(f"agree/{rank}").decode()


class Poll:
    """What any process asks for, known one call late, so that no step waits for the answer."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._asked = torch.zeros((), dtype=torch.int64, device=world.device)
        self._work: Any = None

    def __call__(self, number: int) -> int:
        """The largest number that any process gave at the call before; with one process, this."""
        if self._world.size == 1:
            return number
        before = 0
        with self._world.exchange():
            if self._work is not None:
                self._work.wait()
                before = int(self._asked)
            self._asked.fill_(number)
            self._work = dist.all_reduce(self._asked, dist.ReduceOp.MAX, async_op=True)
        return before


@contextmanager
def lost_others() -> Iterator[None]:
    """Say in a line what torch says in many, where an exchange with other processes fails.

    Raises:
        ConnectionError: instead of torch's errors.
    """
    try:
        yield
    except RuntimeError as error:
        first = str(error).partition("\n")[0]
        raise ConnectionError(f"another process of the run is gone: {first}") from None


@contextmanager
def joined(device: str) -> Iterator[World]:
    """Take part in the run that torchrun has started this process for, or be alone.

    Of what goes wrong in the block, the process that it first went wrong in tells; the others,
    which lose their companion by it or meet the same, leave without a word.

    Args:
        device: `cpu`, or a GPU, instead of which each of several processes takes its own.

    Raises:
        ValueError: the machine has fewer GPUs than processes.
        ConnectionError: the others cannot be reached.
        SystemExit: where another process tells what went wrong.
    """
    if not launched():
        yield World(device=device)
        return
    if device.startswith("cuda"):
        number = local_rank()
        if number >= torch.cuda.device_count():
            raise ValueError(
                f"process {number + 1} of this machine finds {torch.cuda.device_count()} GPUs: "
                f"start one process for each GPU"
            )
        device = f"cuda:{number}"
        torch.cuda.set_device(number)
    with lost_others():
        store, rank, size = next(iter(dist.rendezvous("env://", timeout=TIMEOUT)))
        name = meeting(store, rank, size)
        dist.init_process_group(
            "nccl" if device.startswith("cuda") else "gloo",
            store=dist.PrefixStore(f"{name}/torch", store),
            rank=rank,
            world_size=size,
            timeout=TIMEOUT,
            device_id=torch.device(device) if device.startswith("cuda") else None,
        )
    notes = dist.PrefixStore(f"{name}/notes", store.clone())
    world = World(rank, size, device, notes)
    with Watchdog(rank, size, world.phases, dist.PrefixStore(f"{name}/watch", store.clone())):
        try:
            yield world
        except Exception:
            if not _is_first(notes):
                leave_quietly()
            raise
    dist.destroy_process_group()  # not after an error, when others may never answer


def meeting(store: dist.Store, rank: int, size: int) -> str:
    """A new name for what these processes do together, known to all of them.

    A store of torchrun's outlives the processes: those that it starts again find in it what the
    last ones wrote, their addresses too. So nobody goes by what may be old: each writes a number
    that nobody has had before, and goes in when it finds that very number in the main one's list.

    Raises:
        ConnectionError: they have not all come within TIMEOUT.
    """
    mine, deadline = uuid.uuid4().hex, time.monotonic() + TIMEOUT.total_seconds()
    others = [str(other) for other in range(1, size)]
    if rank:
        store.set(f"seat/{rank}", mine)
    while time.monotonic() < deadline:
        if rank == 0:
            seats = {other: _note(store, f"seat/{other}") for other in others}
            store.set("meeting", json.dumps([mine, seats]))
            if all(_note(store, f"came/{other}") == mine for other in others):
                return mine
        else:
            name, seats = json.loads(_note(store, "meeting") or '["", {}]')
            if seats.get(str(rank)) == mine:
                store.set(f"came/{rank}", name)
                return str(name)
        time.sleep(0.02)
    raise ConnectionError(f"the {size} processes of the run have not found each other")


def _note(store: dist.Store, key: str) -> str:
    """What somebody wrote, now or long ago; nothing where nobody did."""
    return store.get(key).decode() if store.check([key]) else ""


def _is_first(notes: dist.Store) -> bool:
    """Whether nothing has gone wrong in another process yet, as far as can be known."""
    with suppress(RuntimeError):  # who keeps the notes may be gone
        return bool(notes.add("failed", 1) == 1)
    return True
