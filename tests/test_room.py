"""What a run will take on the disk is known before it begins."""

from dataclasses import replace
from pathlib import Path

import pytest
from made_up_run import CONFIG, end_stages, new_run, trained_model

from mslt.checkpoint import State
from mslt.optim import Moment
from mslt.room import checkpoint_bytes, run_bytes, taken


def test_a_finished_run_takes_what_was_foretold(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run", replace(CONFIG, keep=1))
    model = trained_model(4)
    moments = {n: Moment(p.detach(), p.detach(), 1) for n, p in model.named_parameters()}
    end_stages(run, 3)
    for step in (800, 1000):
        run.save(State(step, model, moments))
    run.wait()
    assert len(run.checkpoints()) == 1
    headers = 5 * (1 << 20)
    one = checkpoint_bytes(run.config.model, 4)
    most = run_bytes(run.config)
    assert most - 2 * one - headers < taken(run.path) < most


def test_a_run_for_which_the_disk_has_no_room_is_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type("Usage", (), {"free": run_bytes(CONFIG) - 1})
    monkeypatch.setattr("mslt.files.shutil.disk_usage", lambda _: usage)
    with pytest.raises(OSError, match=r"keeps 2 checkpoints takes .* are free"):
        new_run(tmp_path / "run")
    assert not (tmp_path / "run").exists()
    usage.free += 1
    run = new_run(tmp_path / "run")
    usage.free -= taken(run.path)  # a run that goes on has taken a part already
    run.go_on(CONFIG, 5, {"device": "cpu", "processes": 1})
    usage.free -= 10_000  # run.json has grown a little
    with pytest.raises(OSError, match="keeps 2 checkpoints"):
        run.go_on(CONFIG, 5, {"device": "cpu", "processes": 1})
