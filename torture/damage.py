"""Every file of a checkpoint is damaged in every way; the run goes on from the one before it."""

import argparse
import io
import json
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mslt.checkpoint import load_state, state_facts
from mslt.layout import checkpoint_folders
from mslt.run import Run
from torture.children import Kill
from torture.faults import POINTS
from torture.kill import Ground, outcome, prepare

FILES = ("model.safetensors", "moments.safetensors", "state.json", "manifest.json")
EVERY = 25  # of the flips, one in so many is followed to the end of the run, as is every other harm

Harm = Callable[[Path, random.Random], object]  # done to a file of the newest checkpoint


def _flip(path: Path, draw: random.Random) -> None:
    content = bytearray(path.read_bytes())
    place = draw.randrange(8 * len(content))
    content[place // 8] ^= 1 << place % 8
    path.write_bytes(content)


def _take(path: Path, _: random.Random) -> None:
    """Take the same file of the checkpoint before, which keeps its own and stays good."""
    before = checkpoint_folders(path.parents[2])[-2] / path.name
    ours, theirs = path.read_bytes(), before.read_bytes()
    path.write_bytes(theirs)
    assert ours != theirs


def _change_places(path: Path, _: random.Random) -> None:
    """Change places with the next file of the same checkpoint."""
    other = path.with_name(FILES[(FILES.index(path.name) + 1) % len(FILES)])
    ours = path.read_bytes()
    path.write_bytes(other.read_bytes())
    other.write_bytes(ours)


HARMS: dict[str, Harm] = {
    "truncated": lambda path, _: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "emptied": lambda path, _: path.write_bytes(b""),
    "zeroed": lambda path, _: path.write_bytes(bytes(path.stat().st_size)),
    "one bit flipped": _flip,
    "deleted": lambda path, _: path.unlink(),
    "from another checkpoint": _take,
    "swapped with another file": _change_places,
}


@dataclass(frozen=True)
class Case:
    """A harm to a file.

    Args:
        name: of the harm.
        file: of the newest checkpoint.
        harm: what is done to it.
        ends: whether the run is followed to its end.
    """

    name: str
    file: str
    harm: Harm
    ends: bool


def cases(flips: int, draw: random.Random) -> Iterator[Case]:
    """The table, and single bits flipped anywhere, in each file as often."""
    for name, harm in HARMS.items():
        yield from (Case(name, file, harm, True) for file in FILES)
    for number in range(flips):
        yield Case("a random bit", draw.choice(FILES), _flip, number % EVERY == 0)


def complaints(
    case: Case, place: Path, ground: Ground, expected: dict[str, Any], draw: random.Random
) -> list[str]:
    """What is not as it must be after a harm to the newest checkpoint of a stopped run."""
    run = Run.open(place / "run")
    *_, before, newest = run.checkpoints()
    good = _facts(Run(place / "run", run.config), before)
    case.harm(newest / case.file, draw)
    harmed = {path.name: path.read_bytes() for path in newest.iterdir()}
    said = io.StringIO()
    with redirect_stdout(said):
        state = run.latest()
    found = []
    if newest.name not in said.getvalue() or "damaged" not in said.getvalue():
        return [f"was not found: {said.getvalue()}"]
    if state is None or state_facts(state) != good:
        found.append("did not go on from the checkpoint before it")
    aside = newest.with_name(f"{newest.name}.damaged")
    if {path.name: path.read_bytes() for path in aside.iterdir()} != harmed:
        found.append("what was damaged was not kept as it was")
    if case.ends:
        if ground.leg(place).killed:
            return [*found, f"did not end: {(place / 'log').read_text()[-1000:]}"]
        now = outcome(place / "run")
        found += [f"{name} differs" for name in expected if now.get(name) != expected[name]]
    return found


def _facts(run: Run, checkpoint: Path) -> dict[str, Any]:
    """All but the tensors of a checkpoint that is good."""
    return state_facts(load_state(checkpoint, run.config.model))


def campaign(folder: Path, given: argparse.Namespace) -> dict[str, Any]:
    """Do every harm, say what goes wrong, and sum up."""
    ground, count = Ground(folder, 1), Counter[str]()
    prepare(folder)
    for name in ("unbroken", "stopped"):
        (folder / name).mkdir()
    ground.leg(folder / "unbroken")
    expected = outcome(folder / "unbroken" / "run")
    mid_step = next(point for point in POINTS if point.name == "mid-step")
    ground.leg(folder / "stopped", Kill(point=mid_step, number=15))
    draw, place = random.Random(given.seed), folder / "trial"
    table = [case for case in cases(given.flips, draw) if given.only in case.name]
    for number, case in enumerate(table, 1):
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(folder / "stopped", place)
        wrong = complaints(case, place, ground, expected, draw)
        for text in wrong:
            print(f"damage: {case.file} {case.name}: {text}", flush=True)
        count.update(failed=bool(wrong), ended=case.ends)
        print(f"\rdamage: {number} of {len(table)}", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return {
        "campaign": "damage",
        "cases": len(table),
        "random_flips": given.flips,
        "followed_to_the_end": count["ended"],
        "failed": count["failed"],
    }


def command(words: Sequence[str] | None = None) -> int:
    """What `python -m torture.damage` does; 1 where a case failed."""
    parser = argparse.ArgumentParser(prog="python -m torture.damage")
    parser.add_argument("--flips", type=int, default=500, help="single bits flipped at random")
    parser.add_argument("--only", default="", help="harms whose name contains this")
    parser.add_argument("--seed", type=int, default=0, help="of the flips")
    given = parser.parse_args(words)
    with tempfile.TemporaryDirectory(prefix="torture-damage-") as place:
        summary = campaign(Path(place), given)
    print(json.dumps(summary), flush=True)
    return int(summary["failed"] > 0)


if __name__ == "__main__":
    sys.exit(command())
