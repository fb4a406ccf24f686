"""What a case is, and what makes a command's answer to it a good one."""

import argparse
import json
import os
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torture import box
from torture.box import CANARY, SECRET, Outcome

MOST_BYTES = 1 << 30  # of memory, for every process of a command together
MOST_SECONDS = 60.0
_LONGEST_LINE = 1000  # characters; a message that fills the screen is as bad as none

Content = bytes | Callable[[Path], object]  # of a file, or what makes it


@dataclass(frozen=True)
class Case:
    """Something that a user might give, by accident or not.

    Args:
        name: what it is.
        words: of the command line, run where the files are.
        files: what lies there; a name may be bytes.
        says: a part of the one line that answers it. Without it, the command must succeed.
        heavy: it takes seconds, or much memory, to make or to read: left out of the test suite.
        seconds: the most that the command may take.
    """

    name: str
    words: Sequence[str | bytes]
    files: Mapping[str | bytes, Content] = field(default_factory=dict)
    says: str = ""
    heavy: bool = False
    seconds: float = MOST_SECONDS

    def lay_out(self, folder: Path) -> None:
        """Make the files."""
        for name, content in self.files.items():
            path = folder / (name if isinstance(name, str) else sys_name(name))
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                path.write_bytes(content)
            else:
                content(path)


def sys_name(name: bytes) -> str:
    """A file name that may be no UTF-8, as Python spells it."""
    return name.decode("utf-8", "surrogateescape")


def complaints(case: Case, outcome: Outcome, folder: Path) -> list[str]:
    """What is wrong with the answer to a case; nothing, where it is a good one."""
    found = [f"did what it must not: {event}" for event in outcome.noticed]
    if outcome.status is None or outcome.status < 0:
        found.append(f"was ended after {outcome.seconds:.0f} s with {outcome.peak >> 20} MB")
    elif outcome.status != (2 if case.says else 0):
        found.append(f"exit status {outcome.status}")
    if outcome.seconds > case.seconds:
        found.append(f"took {outcome.seconds:.1f} s, more than {case.seconds:g}")
    if outcome.peak > MOST_BYTES:
        found.append(f"took {outcome.peak >> 20} MB")
    if "Traceback" in outcome.err + outcome.out:
        found.append("traceback")
    found += _about_the_line(case, outcome.err)
    if outcome.status is not None:
        found += _left_behind(folder)
    return found


def _about_the_line(case: Case, err: str) -> list[str]:
    """What is wrong with what stands on standard error."""
    *before, line = err.splitlines() or [""]
    if not case.says:
        return [f"complained: {err[:300]}"] if "mslt:" in err else []
    found = []
    if not line.startswith("mslt: ") or any(text.startswith("mslt") for text in before):
        found.append("not one line of ours")
    if case.says not in line:
        found.append(f"does not say {case.says!r}")
    if len(line) > _LONGEST_LINE:
        found.append(f"a line of {len(line)} characters")
    if not line.isprintable():
        found.append("control characters in it")
    return [*found, f"said: {err[-500:]!r}"] if found else []


def _left_behind(folder: Path) -> Iterator[str]:
    """What no command may leave: half a folder, a secret, the trace of code that ran."""
    places = ((Path(place), names) for place, *both in os.walk(folder) for names in both)
    for path in (place / name for place, names in places for name in names):
        if path.name == CANARY:
            yield f"code in a file ran: {path}"
        if path.name.endswith(".tmp") and path.name.startswith("."):
            yield f"{path} was left"
        with suppress(OSError):
            size = path.lstat().st_size if path.is_file() else 0
            if 0 < size < 1 << 20 and SECRET in path.read_text("latin-1"):
                yield f"{path} holds a secret of the environment"


def campaign(name: str, cases: Sequence[Case], setting: Callable[[Path], None] | None) -> int:
    """Run cases, each in a box. Prints what failed and a line of JSON; 1 where something did.

    Args:
        name: of the campaign.
        cases: the table.
        setting: what makes the files that all cases start from, in a folder `shared`.
    """
    parser = argparse.ArgumentParser(prog=f"python -m torture.{name}")
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--verbose", action="store_true", help="show what each one said")
    given = parser.parse_args()
    chosen = [case for case in cases if given.only in case.name]
    outcomes: list[Outcome] = []
    failed = 0
    with tempfile.TemporaryDirectory(prefix="torture-") as place:
        if setting is not None:
            (Path(place) / "shared").mkdir()
            setting(Path(place) / "shared")
        for number, case in enumerate(chosen):
            folder = Path(place) / f"{number}"
            folder.mkdir()
            case.lay_out(folder)
            outcome = box.run(case.words, folder, 2 * case.seconds)
            outcomes.append(outcome)
            wrong = complaints(case, outcome, folder)
            failed += bool(wrong)
            for text in wrong:
                print(f"{name}: {case.name}: {text}", flush=True)
            if given.verbose:
                about = f"{outcome.seconds:.1f} s, {outcome.peak >> 20} MB"
                print(f"[{case.name}] {about}: {outcome.err.strip()[-300:]}", flush=True)
            box.remove(folder)
    print(json.dumps(summary(name, outcomes, failed)), flush=True)
    return int(failed > 0)


def summary(name: str, outcomes: Sequence[Outcome], failed: int) -> dict[str, Any]:
    """The line of JSON."""
    return {
        "campaign": name,
        "cases": len(outcomes),
        "failed": failed,
        "tracebacks": sum("Traceback" in outcome.err + outcome.out for outcome in outcomes),
        "noticed": sum(len(outcome.noticed) for outcome in outcomes),
        "longest_seconds": round(max(outcome.seconds for outcome in outcomes), 2),
        "peak_mb": max(outcome.peak for outcome in outcomes) >> 20,
    }


def good_text(documents: int = 12, seed: int = 0) -> bytes:
    """Documents in a made-up language of 40 words; three lines each, then a blank one."""
    draw = random.Random(seed)
    words = ["".join(draw.choices("abcdefghij", k=draw.randint(2, 7))) for _ in range(40)]

    def sentence() -> str:
        return " ".join(draw.choices(words, k=draw.randint(5, 9))).capitalize() + "."

    return "".join(
        f"{sentence()}\n{sentence()}\n{sentence()}\n\n" for _ in range(documents)
    ).encode()
