"""A run is followed by its folder alone, until it ends."""

import re
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from made_up_run import new_run
from screens import Terminal, shown

from mslt import watching
from mslt.cli import main
from mslt.forecast import Forecast
from mslt.run import Run
from mslt.watching import Watched, watch


def logged(run: Run, step: int) -> None:
    values = {"mlm_loss": 2.5, "tokens_per_second": 1234.0, "seconds": step / 10, "memory": 4e8}
    run.record("train", step, values)


def evaluated(run: Run, step: int) -> None:
    values = {"mlm_loss": 2.25, "mlm_accuracy": 0.5, "seconds": step / 10}
    run.record("heldout", step, values)


def test_a_run_that_trains_shows_what_its_folder_says(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    with run.lock():
        for step in (10, 20):
            logged(run, step)
        status = Watched(run.path).status
        assert (status.step, status.loss, status.ended) == (20, 2.5, "")
        assert status.left is not None
        assert status.left[0] == pytest.approx(380 / 10)
        assert status.left[1] > status.left[0] + 600 / 10
    assert Watched(run.path).status.ended == "stopped"


def test_a_stage_that_begins_has_its_own_time_left_and_training_alone_takes_from_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def left() -> float:
        return float(re.findall(r" 0/400 +(\d+) s left", Watched(run.path).view(80)[1])[0])

    run = new_run(tmp_path / "run")
    run.foretell(Forecast("a guess", (0.1, 0.2, 0.4)))
    with run.lock():
        for step in (10, 400):
            logged(run, step)
        now = time.time()
        monkeypatch.setattr(watching, "time", SimpleNamespace(monotonic=float, time=lambda: later))
        later = now + 50  # evaluating
        assert left() == 80
        evaluated(run, 400)  # and saving
        assert left() == 80
        (run.path / "checkpoints" / "step-00000400").mkdir(parents=True)
        later = time.time() + 1
        assert left() == 79
        later += 50  # the next news, after 10 steps, is late
        assert left() == 78


def test_watching_leaves_the_folder_and_its_lock_alone(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    before = sorted(tmp_path.rglob("*"))
    Watched(run.path).refresh()
    assert sorted(tmp_path.rglob("*")) == before
    with run.lock():
        Watched(run.path).refresh()


def test_plain_lines_follow_several_runs_until_all_have_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (new_run(tmp_path / name / "run") for name in ("a", "b"))
    logged(first, 1000)
    evaluated(first, 1000)
    logged(second, 400)
    lock = second.lock()
    lock.__enter__()

    def sleep(_: float) -> None:
        logged(second, 500)
        lock.__exit__(None, None, None)

    monkeypatch.setattr(watching.time, "sleep", sleep)
    watch([first.path, second.path])
    lines = capsys.readouterr().out.replace(str(tmp_path), "").splitlines()
    assert lines[0] == (
        "/a/run: step 1,000/1,000 (stage 3/3): finished, loss 2.500, held-out 2.250, "
        "1,234 tokens/s, 400 MB"
    )
    assert lines[1].startswith("/b/run: step 400/1,000 (stage 2/3): loss 2.500, 1,234 tokens/s")
    assert lines[2].startswith("/b/run: step 500/1,000 (stage 2/3): stopped, loss 2.500")
    assert lines[3] == "go on with: mslt pretrain --resume --out /b/run"
    assert len(lines) == 4


def test_a_terminal_shows_each_run_under_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [new_run(tmp_path / name / "run") for name in ("a", "b")]
    for run in runs:
        logged(run, 1000)
        evaluated(run, 1000)
    out = Terminal()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "xterm")
    watch([run.path for run in runs])
    lines = shown(out.getvalue())
    assert lines[0] == str(runs[0].path)
    assert lines[4:6] == ["", str(runs[1].path)]
    assert lines[3].startswith("finished · loss 2.500 · held-out 2.250")
    assert len(lines) == 9


def test_what_is_no_run_is_told_in_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["watch"]) == 2
    assert "RUN is missing" in capsys.readouterr().err
    assert main(["watch", str(tmp_path)]) == 2
    assert "is not a run: it has no config.yaml" in capsys.readouterr().err
