"""A run is killed at named points and at random times, goes on, and ends bit for bit as unbroken.

Every process is forked from this one, which has imported everything and started no thread, so that
a trial takes about a second.
"""

import argparse
import hashlib
import json
import os
import pkgutil
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mslt.checkpoint import verify_folder
from mslt.cli import main
from mslt.layout import checkpoint_folders, read_metrics, stage_folders
from torture.cases import good_text
from torture.children import Kill, run_together
from torture.faults import FIRST, POINTS, nothing, wrap

STEPS, INTERVAL = 20, 3  # steps of the run, and between two checkpoints
RUN = (
    f"--steps {STEPS} --save_every {INTERVAL} --batch_size 4 --micro_batch 2 --eval_every 4 "
    "--eval_batches 1 --keep 2 --log_every 1 --device cpu --precision fp32 --plan.k 4 "
    "--plan.seq_len 32 --model.hidden_size 16 --model.num_hidden_layers 4 "
    "--model.num_attention_heads 2 --schedule.warmup_steps 3"
).split()


@dataclass(frozen=True)
class Leg:
    """What a run did from one start to its end or its kill.

    Args:
        statuses: exit status by process, negative for a signal.
        steps: trained, counted from 0.
        saves: steps whose checkpoints were begun.
        met: how often each point was met, where that was counted.
        seconds: from start to end.
    """

    statuses: Sequence[int]
    steps: Sequence[int]
    saves: Sequence[int]
    met: Counter[str]
    seconds: float

    @property
    def killed(self) -> bool:
        """Whether it was."""
        return any(self.statuses)


@dataclass(frozen=True)
class Ground:
    """Where trials are made.

    Args:
        folder: of the text's store, and of a trial at a time.
        processes: of each run.
    """

    folder: Path
    processes: int

    def leg(self, place: Path, kill: Kill | None = None, *, counting: bool = False) -> Leg:
        """Begin the run in a folder, or go on with it, to its end or its kill."""
        out, trace = place / "run", place / "trace"
        begin = ["bert_base_mslt", "--data", str(self.folder / "store"), *RUN]
        words = ["--resume"] if (out / "run.json").exists() else begin
        trace.write_text("")

        def work(rank: int) -> int:
            if rank == 0:
                _keep_trace(trace, counting)
            return main(["pretrain", *words, "--out", str(out)])

        start = time.monotonic()
        statuses = run_together(work, self.processes, place / "log", kill)
        seconds = time.monotonic() - start
        lines = [line.split(" ", 1) for line in trace.read_text().splitlines()]
        steps = [int(text) for word, text in lines if word == "step"]
        saves = sorted({int(text) for word, text in lines if word == "save"})
        met = Counter(text for word, text in lines if word == "point")
        return Leg(statuses, steps, saves, met, seconds)

    def trial(self, kills: Sequence[Kill]) -> "Trial":
        """Begin the run, kill it again and again, and let it go on to its end."""
        place = self.folder / "trial"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        legs = []
        for kill in [*kills, None]:
            legs.append(self.leg(place, kill))
            if not legs[-1].killed:
                break
        return Trial(place, legs, kills)


def prepare(folder: Path) -> None:
    """Make a store of text, for runs to learn from.

    Raises:
        RuntimeError: that failed.
    """
    (folder / "text.txt").write_bytes(good_text(120))
    words = f"prepare {folder / 'text.txt'} --out {folder / 'store'} --workers 1"
    words += " --vocab_size 120 --heldout 0.1"
    if any(run_together(lambda rank: main(words.split()), 1, folder / "prepare.log")):
        raise RuntimeError((folder / "prepare.log").read_text())


def _keep_trace(trace: Path, counting: bool) -> None:
    """Write down what the process does, so that a kill loses nothing of it."""
    descriptor = os.open(trace, os.O_WRONLY | os.O_APPEND)

    def note(word: str, what: object) -> None:
        os.write(descriptor, f"{word} {what}\n".encode())

    wrap("mslt.trainer.Trainer.step", nothing, lambda _, step, *rest: note("step", step))
    wrap("mslt.run.Run.save", nothing, lambda _, state: note("save", state.step))
    if counting:
        for point in POINTS:
            point.meet(lambda *_, name=point.name: note("point", name))


@dataclass(frozen=True)
class Trial:
    """A run that was killed and went on.

    Args:
        place: its folder, the run's own within it.
        legs: what it did, from start to kill and from kill to kill and to the end.
        tried: the kills, of which the last may have come too late.
    """

    place: Path
    legs: Sequence[Leg]
    tried: Sequence[Kill] = ()

    @property
    def kills(self) -> int:
        """How many there were."""
        return sum(leg.killed for leg in self.legs[:-1])

    def lost(self) -> int:
        """Steps that were trained again, at most, after one kill."""
        return max((done - start for done, start, _ in self._restarts()), default=0)

    def _restarts(self) -> Iterator[tuple[int, int, int]]:
        """Steps done before a kill, where the run went on, and where at the latest it may have."""
        legs = [leg for leg in self.legs if leg.steps]
        starts = [leg.steps[0] for leg in legs[1:]] + [STEPS] * (not self.legs[-1].steps)
        begun: set[int] = set()
        for leg, start in zip(legs, starts):
            begun |= set(leg.saves)
            # What was begun last may not be on the disk; what was begun before that is.
            least = sorted({-1, 0} | begun)[-2]
            yield leg.steps[-1] + 1, start, max(least, leg.steps[0])

    def complaints(self, expected: dict[str, Any]) -> list[str]:
        """What is not as it must be; nothing, where all is.

        Args:
            expected: `outcome` of a run that was never killed.
        """
        run = self.place / "run"
        if any(self.legs[-1].statuses):
            log = (self.place / "log").read_text()[-2000:]
            return [f"did not go on: {self.legs[-1].statuses}: {log}"]
        found = []
        now = outcome(run)
        found += [f"{name} differs" for name in expected if now.get(name) != expected[name]]
        found += [f"{name} is there" for name in now.keys() - expected.keys()]
        return [*found, *self.too_far_back()]

    def too_far_back(self) -> Iterator[str]:
        """Where it went on from less than what must have been on the disk, or from more."""
        for done, start, least in self._restarts():
            if not least <= start <= done:
                yield (f"had done {done} steps, had {least} on the disk, went on at {start}")


def outcome(run: Path) -> dict[str, Any]:
    """All that a run has come to: hashes of its files and the numbers of its metrics.

    Raises:
        ValueError: a checkpoint or the metrics are damaged.
    """
    folders = [*checkpoint_folders(run), *stage_folders(run).values()]
    for folder in folders:
        verify_folder(folder)
    tensors = [path for folder in folders for path in sorted(folder.glob("*.safetensors"))]
    found: dict[str, Any] = {
        str(path.relative_to(run)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in tensors
    }
    names = ("kind", "step", "mlm_loss", "pair_loss", "grad_norm", "lr")
    found["metrics"] = [[line.get(name) for name in names] for line in read_metrics(run)]
    hidden = [path for path in run.parent.rglob(".*") if path.name != ".lock"]
    return found | {str(path.relative_to(run.parent)): "left behind" for path in hidden}


def at_points(processes: int, met: Counter[str], each: int) -> Iterator[tuple[str, list[Kill]]]:
    """Name and kills of the trials at named points, `each` for a point."""
    for point in POINTS:
        times = point.resuming or met[point.name]
        for number in range(each):
            # Spread over the run, from the first time that the point is met.
            first = [Kill(point=FIRST, number=1 + number * 5 // each)] if point.resuming else []
            rank = number % processes if point.shared else 0
            yield point.name, [*first, Kill(rank, point, 1 + number * times // each)]


def at_random(processes: int, seconds: float, draw: random.Random) -> list[Kill]:
    """Kills at random times of a run that takes so long: one, or one more while it goes on."""
    return [
        Kill(draw.randrange(processes), seconds=draw.uniform(0, seconds))
        for _ in range(draw.randint(1, 2))
    ]


def campaign(ground: Ground, given: argparse.Namespace) -> dict[str, Any]:
    """Make all trials, say what goes wrong, and sum up."""
    for point in POINTS:
        pkgutil.resolve_name(point.function)  # imported here, no child has to
    prepare(ground.folder)
    place = ground.folder / "unbroken"
    place.mkdir()
    unbroken = ground.leg(place, counting=True)
    if unbroken.killed:
        raise RuntimeError((place / "log").read_text())
    expected = outcome(place / "run")
    plan: list[tuple[str, list[Kill]]] = [
        *at_points(ground.processes, unbroken.met, given.each),
        *[("at random", [])] * given.random,
    ]
    plan = [trial for trial in plan if any(part in trial[0] for part in given.only)]
    draw = random.Random(given.seed)
    count: Counter[str] = Counter()
    lost = []
    for number, (name, kills) in enumerate(plan, 1):
        trial = ground.trial(kills or at_random(ground.processes, unbroken.seconds, draw))
        while not kills and not trial.kills:  # it ended before
            trial = ground.trial(at_random(ground.processes, unbroken.seconds, draw))
        wrong = trial.complaints(expected)
        if kills and trial.kills < len(kills):
            wrong.append("was not killed")
        for text in wrong:
            print(f"kill: {'; '.join(map(str, trial.tried))}: {text}", flush=True)
        count.update(kills=trial.kills, failed=bool(wrong))
        lost.append(trial.lost())
        print(f"\rkill: {number} of {len(plan)}, {name:<40}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return {
        "campaign": "kill",
        "processes": ground.processes,
        "points": len({name for name, _ in plan} - {"at random"}),
        "trials": len(plan),
        "kills": count["kills"],
        "failed": count["failed"],
        "interval_steps": INTERVAL,
        "most_lost_steps": max(lost),
        "lost_more_than_an_interval": sum(steps > INTERVAL for steps in lost),
        "seconds_of_a_run": round(unbroken.seconds, 2),
    }


def command(words: Sequence[str] | None = None) -> int:
    """What `python -m torture.kill` does; 1 where a trial failed."""
    parser = argparse.ArgumentParser(prog="python -m torture.kill")
    parser.add_argument("--each", type=int, default=10, help="trials at each named point")
    parser.add_argument("--random", type=int, default=100, help="trials at random times")
    parser.add_argument("--processes", type=int, default=1, help="of each run")
    parser.add_argument("--only", nargs="+", default=[""], help="points whose names contain one")
    parser.add_argument("--seed", type=int, default=0, help="of the random times")
    given = parser.parse_args(words)
    with tempfile.TemporaryDirectory(prefix="torture-kill-") as place:
        summary = campaign(Ground(Path(place), given.processes), given)
    print(json.dumps(summary), flush=True)
    return int(summary["failed"] > 0)


if __name__ == "__main__":
    sys.exit(command())
