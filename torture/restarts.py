"""Processes that torchrun started are killed, started again by it, and the run goes on by itself.

Every trial is a real `torchrun --max-restarts`, whose processes are `python -m torture.victim`.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mslt.layout import read_facts
from torture.box import ROOT
from torture.kill import RUN, Ground, outcome, prepare
from torture.victim import Plan

LIMIT = 600.0  # seconds after which a trial has hung

# The main process in the middle of a save, and any in the middle of training.
CASES = (
    [(0, "in a write", 3)],
    [(0, "after the manifest", 2)],
    [(0, "before the rename", 4)],
    [(0, "in a prune", 2)],
    [(0, "in a line of the metrics", 9)],
    [(1, "mid-step", 11)],
    [(1, "after growth", 2)],
    [(0, "in the manifest", 3), (1, "mid-step", 4), (0, "before the manifest", 1)],
)


@dataclass(frozen=True)
class Trial:
    """A run under torchrun and what became of it.

    Args:
        status: torchrun's.
        resumed: how often the run was gone on with.
        seconds: of all.
        said: its last lines.
    """

    status: int
    resumed: int
    seconds: float
    said: str


def trial(place: Path, store: Path, processes: int, plan: Plan) -> Trial:
    """Train under torchrun, in a new folder, and be killed by plan."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    # The launcher as a module is the same command whatever folder holds it.
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    words += ["--nproc-per-node", str(processes), "--max-restarts", str(len(plan))]
    words += ["-m", "torture.victim", json.dumps(plan), "pretrain", "bert_base_mslt"]
    words += ["--data", str(store), "--out", str(place / "run"), *RUN]
    paths = os.pathsep.join([str(ROOT), str(ROOT / "src")])
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    start = time.monotonic()
    with (place / "log").open("wb") as log:
        done = subprocess.run(
            words, stdout=log, stderr=log, env=environment, cwd=place, timeout=LIMIT, check=False
        )
    seconds = time.monotonic() - start
    said = (place / "log").read_text(errors="replace")
    try:
        resumed = len(read_facts(place / "run").get("resumed", []))
    except ValueError:
        resumed = -1
    return Trial(done.returncode, resumed, seconds, said[-3000:])


def at_random(count: int, processes: int, longest: float, draw: random.Random) -> Iterator[Plan]:
    """Kills of one process after a time, from its first step on."""
    for _ in range(count):
        yield [(draw.randrange(processes), draw.uniform(0, longest), 1)]


def complaints(found: Trial, run: Path, expected: dict[str, Any], plan: Plan) -> list[str]:
    """What is not as it must be."""
    if found.status:
        return [f"torchrun ended with {found.status}: {found.said}"]
    now = outcome(run)
    wrong = [f"{name} differs" for name in expected if now.get(name) != expected[name]]
    wrong += [f"{name} is there" for name in now.keys() - expected.keys() - {"log"}]
    if all(isinstance(where, str) for _, where, _ in plan) and found.resumed != len(plan):
        wrong.append(f"went on {found.resumed} times after {len(plan)} kills")
    return wrong


def campaign(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Make all trials, say what goes wrong, and sum up."""
    torch.set_num_threads(1)  # as in the processes that torchrun starts: sums are rounded alike
    prepare(folder)
    (folder / "unbroken").mkdir()
    unbroken = Ground(folder, given.processes).leg(folder / "unbroken")
    if unbroken.killed:
        raise RuntimeError((folder / "unbroken" / "log").read_text())
    expected = outcome(folder / "unbroken" / "run")
    draw = random.Random(given.seed)
    plans: list[Plan] = [
        *(
            [(rank % given.processes, where, number) for rank, where, number in case]
            for case in CASES
        ),
        *at_random(given.random, given.processes, given.longest, draw),
    ]
    plans = [plan for plan in plans if any(part in str(plan) for part in given.only)]
    failed, seconds, started_again = 0, [], 0
    for number, plan in enumerate(plans, 1):
        found = trial(folder / "trial", folder / "store", given.processes, plan)
        wrong = complaints(found, folder / "trial" / "run", expected, plan)
        for text in wrong:
            print(f"restarts: {plan}: {text}", flush=True)
        failed += bool(wrong)
        started_again += max(0, found.resumed)
        seconds.append(found.seconds)
        print(f"\rrestarts: {number} of {len(plans)}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return {
        "campaign": "restarts",
        "processes": given.processes,
        "trials": len(plans),
        "kills": sum(map(len, plans)),
        "gone_on": started_again,
        "failed": failed,
        "longest_seconds": round(max(seconds), 1),
    }


def command(words: Sequence[str] | None = None) -> int:
    """What `python -m torture.restarts` does; 1 where a trial failed."""
    parser = argparse.ArgumentParser(prog="python -m torture.restarts")
    parser.add_argument("--processes", type=int, default=2, help="of each run")
    parser.add_argument("--random", type=int, default=10, help="trials at random times")
    parser.add_argument("--longest", type=float, default=1.0, help="seconds up to such a time")
    parser.add_argument("--only", nargs="+", default=[""], help="plans that contain one of these")
    parser.add_argument("--seed", type=int, default=0, help="of the random times")
    given = parser.parse_args(words)
    with tempfile.TemporaryDirectory(prefix="torture-restarts-") as place:
        summary = campaign(Path(place), given)
    print(json.dumps(summary), flush=True)
    return int(summary["failed"] > 0)


if __name__ == "__main__":
    sys.exit(command())
