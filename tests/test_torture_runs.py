"""The campaigns of kills and of broken numbers in a short form, and what judges the kills."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from torture.kill import Leg, Trial

ROOT = Path(__file__).parents[1]


def summary(campaign: str, *words: str) -> dict[str, Any]:
    """What a campaign says in the end."""
    command = [sys.executable, "-m", f"torture.{campaign}", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


def test_a_run_that_is_killed_goes_on_and_ends_as_if_it_had_not_been() -> None:
    points = ["in a write", "after growth", "between a folder and its successor"]
    found = summary("kill", "--each", "1", "--random", "0", "--only", *points)
    assert (found["trials"], found["kills"], found["failed"]) == (3, 4, 0)
    assert 0 < found["most_lost_steps"] < 2 * found["interval_steps"]


def test_an_infinite_gradient_costs_one_step() -> None:
    found = summary("numbers", "--only", "Inf gradient")
    assert (found["failed"], found["steps_skipped"]) == (0, {"Inf gradient on one rank": 1})


def test_what_torchrun_starts_again_after_a_kill_in_a_save_goes_on_by_itself() -> None:
    found = summary("restarts", "--random", "0", "--only", "in a write")
    assert (found["trials"], found["kills"], found["gone_on"], found["failed"]) == (1, 1, 1, 0)


def leg(status: int, steps: range, saves: tuple[int, ...]) -> Leg:
    return Leg([status], steps, saves, Counter(), 0.0)


KILLED = leg(-9, range(0, 7), (3, 6))  # the checkpoint of step 6 may be on the disk or not


@pytest.mark.parametrize(("start", "right"), [(0, False), (3, True), (6, True), (8, False)])
def test_a_run_must_go_on_from_the_checkpoint_before_the_last_one_begun(
    tmp_path: Path, start: int, right: bool
) -> None:
    trial = Trial(tmp_path, [KILLED, leg(0, range(start, 20), ())])
    assert bool([*trial.too_far_back()]) != right


def test_steps_count_as_lost_whatever_kills_come_between(tmp_path: Path) -> None:
    at_once, end = leg(-9, range(0), ()), leg(0, range(3, 20), ())
    assert Trial(tmp_path, [KILLED, at_once, end]).lost() == 4
    whole = leg(-9, range(0, 20), (18, 20))
    assert Trial(tmp_path, [whole, at_once, leg(0, range(0), ())]).lost() == 0
