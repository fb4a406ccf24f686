"""A full disk costs one line and what was being written; all that stood there before is whole."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

CHILD = str(Path(__file__).with_name("full_disk.py"))


def times_full(kind: str, what: str, folder: Path, store: Path) -> int:
    command = [sys.executable, CHILD, kind, what, str(folder), str(store)]
    if kind == "tmpfs":
        mount = f"mount -t tmpfs -o size=32m none {shlex.quote(str(folder))}"
        inside = f"{mount} || exit 77; exec {shlex.join(command)}"
        command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", inside]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no unshare, which a disk of one's own takes")
    if kind == "tmpfs" and (done.returncode == 77 or "unshare" in done.stderr):
        pytest.skip("there is no right to mount a disk of one's own")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return int(done.stdout)


@pytest.mark.parametrize("kind", ["limit", "tmpfs"])
def test_preparing_on_a_full_disk_costs_what_was_being_prepared(
    tmp_path: Path, store: Path, kind: str
) -> None:
    assert times_full(kind, "prepare", tmp_path, store) >= 12


@pytest.mark.parametrize("kind", ["limit", "tmpfs"])
def test_a_full_disk_costs_a_run_a_checkpoint_and_an_export_itself(
    tmp_path: Path, store: Path, kind: str
) -> None:
    assert times_full(kind, "train", tmp_path, store) >= 5
