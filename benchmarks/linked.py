"""Training steps of every kind that the plans have, timed on two processes that a cable joins.

    python benchmarks/linked.py SHAPE

is one of the processes, which `Pair` starts and gives its orders.
"""

import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from queue import Queue
from threading import Thread

import link
from common import ADAMW, LR
from data import facts, made_up_split

from mslt.config import InstanceConfig, ModelConfig
from mslt.data.instances import Batch, Instances
from mslt.data.masking import prediction_slots
from mslt.growth import freeze
from mslt.model import Encoder
from mslt.phases import timed
from mslt.plan import Plan, Stage, build_plan
from mslt.trainer import Settings, Trainer
from mslt.world import World, joined

PROCESSES = 2
PHASES = ("prefix", "forward", "backward", "optimizer", "reduce")
KEPT = 8  # batches, which come again


@dataclass(frozen=True)
class Shape:
    """A model whose vocabulary is small beside its layers, and the batches it is timed on.

    Args:
        model: the shape.
        sequences: of a step in each process.
        length: tokens per sequence.
    """

    model: ModelConfig
    sequences: int
    length: int

    @property
    def slots(self) -> int:
        """Predictions per sequence."""
        return prediction_slots(InstanceConfig().mask_prob, self.length)


def _model(width: int, layers: int, vocab_size: int) -> ModelConfig:
    return ModelConfig(
        hidden_size=width,
        num_hidden_layers=layers,
        vocab_size=vocab_size,
        max_position_embeddings=128,
    )


SHAPES = {
    "tiny": Shape(_model(32, 4, 256), sequences=2, length=32),
    "small": Shape(_model(128, 12, 1024), sequences=8, length=128),
}


@dataclass(frozen=True)
class Way:
    """A kind of step: which layers stand and learn, and whether the next one's prefix is passed."""

    depth: int
    learns_from: int = 0
    look_ahead: bool = False

    @classmethod
    def of(cls, stage: Stage, look_ahead: bool) -> "Way":
        """That of a stage."""
        return cls(stage.depth, stage.learns_from, look_ahead and stage.learns_from > 0)

    def __str__(self) -> str:
        text = f"{self.depth} layers, {self.depth - self.learns_from} learn"
        return f"{text}, look-ahead" if self.look_ahead else text


def plans(shape: Shape) -> dict[str, Plan]:
    """The plans to compare, by method."""
    return {
        method: build_plan(method, shape.model.num_hidden_layers, 1000, seq_len=shape.length)
        for method in ("whole", "stacking", "mslt")
    }


def ways(shape: Shape) -> list[Way]:
    """All kinds of steps that the plans have."""
    stages = [stage for plan in plans(shape).values() for stage in plan.stages]
    return list(dict.fromkeys(Way.of(stage, ahead) for ahead in (False, True) for stage in stages))


Figures = dict[str, float]  # seconds of a step and of each of its phases
Blocks = list[list[Figures]]  # of each kind of step, in the order of `ways`, block by block


class Steps:
    """Training steps of one kind in this process, timed.

    Args:
        shape: of the model.
        way: the kind of step.
        world: the processes.
        batches: this process' parts of the batches, which come by turns.
    """

    def __init__(self, shape: Shape, way: Way, world: World, batches: Sequence[Batch]) -> None:
        model = Encoder(shape.model, way.depth)
        freeze(model, way.learns_from)
        settings = Settings(
            optimizer=ADAMW,
            precision="fp32",
            micro_batch=shape.sequences,
            pair=True,
            seed=0,
            first=world.rank * shape.sequences,
        )
        self._trainer = Trainer(model, settings, {}, world)
        self._way, self._world, self._batches = way, world, batches
        self._step = 0

    def __call__(self, steps: int) -> Figures:
        """Means over some steps, which all processes begin together."""
        self._world.barrier()
        phases = self._trainer.phases = timed()
        start = time.perf_counter()
        for _ in range(steps):
            self._one()
        seconds = {"step": time.perf_counter() - start, **phases.seconds}
        return {name: seconds.get(name, 0.0) / steps for name in ("step", *PHASES)}

    def _one(self) -> None:
        batch, upcoming = (self._batches[(self._step + i) % KEPT] for i in (0, 1))
        ahead = (lambda: upcoming) if self._way.look_ahead else None
        self._trainer.step(self._step, batch, LR, upcoming=ahead)
        self._step += 1


def work(shape: Shape, orders: Iterable[dict[str, int]]) -> Iterator[Blocks]:
    """One of the processes: for every order, the figures of each block and each kind of step."""
    with joined("cpu") as world:
        instances = Instances(
            made_up_split(100_000, shape.model.vocab_size),
            InstanceConfig(),
            facts(shape.model.vocab_size),
            0,
            world.size * shape.sequences,
        )
        rows = world.rows(world.size * shape.sequences, shape.sequences)
        batches = [instances.batch(step, shape.length, rows) for step in range(KEPT)]
        kinds = [Steps(shape, way, world, batches) for way in ways(shape)]
        for order in orders:
            for steps in kinds:
                steps(1)
            yield [[steps(order["steps"]) for steps in kinds] for _ in range(order["blocks"])]


def work_by_pipe(shape: Shape) -> None:
    """Take orders from stdin and put figures out, each a line of JSON, until stdin is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that gives the orders
    lines: Queue[str] = Queue()
    Thread(target=_listen, args=(lines,), daemon=True).start()
    print("here", flush=True)
    lines.get()  # from now on the other can be reached
    for figures in work(shape, (json.loads(line) for line in iter(lines.get, ""))):
        print(json.dumps(figures), flush=True)


def _listen(lines: Queue[str]) -> None:
    """Pass lines of stdin on. Where it ends, nobody waits for figures: leave, also amid a step."""
    for line in sys.stdin:
        lines.put(line)
    os._exit(1)


def means(answers: Sequence[Blocks]) -> Blocks:
    """Of what several processes measured of the same steps."""
    return [
        [
            {name: statistics.mean(one[name] for one in seen) for name in seen[0]}
            for seen in zip(*block)
        ]
        for block in zip(*answers)
    ]


class Pair:
    """Both processes, each with one core to compute on.

    Args:
        shape: what they train.
        loopback: on this machine's loopback device instead of either end of a cable.

    Raises:
        ValueError: one does not start, or there can be no link.
    """

    def __init__(self, shape: str, loopback: bool) -> None:
        here = [sys.executable, __file__, shape]
        command = here if loopback else link.apart(here)
        self._processes = [
            subprocess.Popen(
                command,
                env=os.environ | environment(rank, loopback),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for rank in range(PROCESSES)
        ]
        try:
            self._answers()
            first, second = (process.pid for process in self._processes)
            self.link = None if loopback else link.Link((first, second))
            self._tell("join")
        except BaseException:
            self.stop()
            raise

    def measure(self, blocks: int, steps: int) -> Blocks:
        """Figures of every kind of step, means over both processes, block by block."""
        self._tell(json.dumps({"blocks": blocks, "steps": steps}))
        return means([json.loads(line) for line in self._answers()])

    def _tell(self, line: str) -> None:
        for process in self._processes:
            assert process.stdin is not None
            with suppress(BrokenPipeError):  # then there will be no answer either
                process.stdin.write(f"{line}\n")
                process.stdin.flush()

    def _answers(self) -> list[str]:
        lines = []
        for process in self._processes:
            assert process.stdout is not None
            lines.append(process.stdout.readline())
        if not all(lines):
            raise ValueError("a process has ended before its time")
        return lines

    def stop(self) -> None:
        """End both, and with them their namespaces."""
        for process in self._processes:
            process.kill()
            process.communicate()  # wait, and close the pipes


def environment(rank: int, loopback: bool) -> dict[str, str]:
    """What a process is told of the others."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": "0",
        "WORLD_SIZE": str(PROCESSES),
        "MASTER_ADDR": "127.0.0.1" if loopback else link.ADDRESSES[0],
        "MASTER_PORT": os.environ.get("MASTER_PORT", "29533"),
        "GLOO_SOCKET_IFNAME": "lo" if loopback else link.DEVICE,
        "OMP_NUM_THREADS": "1",
        "TORCH_CPP_LOG_LEVEL": "ERROR",  # or it complains that addresses have no names
    }


if __name__ == "__main__":
    work_by_pipe(SHAPES[sys.argv[1]])
