"""Checkpoints are written beside the training, from a copy, and the right ones are kept."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch
from made_up_run import CONFIG, new_run, trained_model
from tiny_run import TINY, losses, start

from mslt import run as runs
from mslt.checkpoint import State, load_state, verify_folder
from mslt.console import Console
from mslt.launch import pretrain
from mslt.layout import best_checkpoint
from mslt.pretrain import train
from mslt.run import Run


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Event]:
    """Writing waits for this event; what waits is let go at the end."""
    go, write = Event(), runs.write_folder

    def waits(*args: Any) -> None:
        assert go.wait(20)
        write(*args)

    monkeypatch.setattr(runs, "write_folder", waits)
    yield go
    go.set()


def state(step: int, depth: int = 2) -> State:
    return State(step, trained_model(depth, seed=step), seconds=step / 10)


def names(run: Run) -> list[int]:
    return [int(path.name.removeprefix("step-")) for path in run.checkpoints()]


def test_a_checkpoint_holds_the_moment_at_which_it_was_asked_for(
    tmp_path: Path, slow: Event
) -> None:
    run, saved = new_run(tmp_path / "run"), state(100)
    expected = {name: tensor.clone() for name, tensor in saved.model.state_dict().items()}
    run.save(saved)
    with torch.no_grad():
        for parameter in saved.model.parameters():
            parameter += 1  # training has gone on before a byte is written
    slow.set()
    run.wait()
    loaded = load_state(run.checkpoints()[0], run.config.model).model.state_dict()
    assert all(torch.equal(loaded[name], expected[name]) for name in expected)


def test_training_goes_on_while_a_checkpoint_is_written(
    store: Path, tmp_path: Path, slow: Event
) -> None:
    job, first, run = start(replace(TINY, save_every=2), store, tmp_path / "run")
    loop = train(job, first, run, Console(job.plan, 4, quiet=True))
    assert [next(loop).step for _ in range(3)] == [1, 2, 3]
    assert names(run) == []
    slow.set()
    assert next(loop).step == 4  # a stage's end waits
    assert names(run) == [2, 4]


def test_two_checkpoints_are_never_written_at_once(tmp_path: Path, slow: Event) -> None:
    run, left = new_run(tmp_path / "run"), []
    run.save(state(100))
    run.wait = lambda: (left.append(names(run)), slow.set(), Run.wait(run))  # type: ignore[method-assign,assign,func-returns-value]
    run.save(state(200))
    assert left == [[]]
    assert names(run)[0] == 100
    Run.wait(run)
    assert names(run) == [100, 200]


def test_a_disk_that_fills_up_stops_the_run_and_all_before_stays_good(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, write = tmp_path / "run", runs.write_folder

    def full(path: Path, files: Any) -> None:
        if path.name == "step-00000006":
            raise OSError(28, "No space left on device", str(path))
        write(path, files)

    monkeypatch.setattr(runs, "write_folder", full)
    with pytest.raises(OSError, match="No space left"):
        pretrain(TINY, store, out)
    run = Run.open(out)
    assert names(run) == [1, 2, 3, 4, 5]
    for path in [*run.checkpoints(), *run.stage_folders()]:
        verify_folder(path)
    assert run.metrics()[-1]["step"] in (6, 7, 8)  # it was told at a step soon after
    monkeypatch.undo()
    assert pretrain(TINY, store, out, resume=True) == 0
    assert pretrain(TINY, store, tmp_path / "unbroken") == 0
    assert losses(out) == losses(tmp_path / "unbroken")


def test_a_checkpoint_for_which_there_is_no_room_is_not_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run(tmp_path / "run")
    run.save(state(100))
    run.wait()
    usage = type("Usage", (), {"free": 30_000})
    monkeypatch.setattr("mslt.files.shutil.disk_usage", lambda _: usage)
    with pytest.raises(OSError, match=r"step 200 takes 0\.1 MB, and 0\.0 MB are free"):
        run.save(state(200))
    assert os.listdir(run.path / "checkpoints") == ["step-00000100"]


def test_the_last_checkpoints_and_the_best_are_kept(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run", replace(CONFIG, keep=2))
    heldout = {100: 2.0, 200: 3.0, 300: 2.2, 400: 2.1, 600: 2.4, 700: 2.3, 900: 2.5}
    kept = {}
    for step in range(100, 1000, 100):
        if step in heldout:
            run.record(
                "heldout", step, {"mlm_loss": heldout[step], "mlm_accuracy": 0.5, "seconds": 1.0}
            )
        run.save(state(step, depth=2 if step <= 200 else 4))
        run.wait()
        kept[step] = names(run)
    assert kept[200] == [100, 200]
    assert kept[300] == [200, 300]  # the best of the deepest models: a shallow one is no rival
    assert kept[400] == [300, 400]
    assert kept[600] == [400, 500, 600]
    assert kept[900] == [400, 800, 900]
    assert best_checkpoint(run.path) == run.checkpoints()[0]


def test_the_best_checkpoint_is_one_that_can_be_read(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run", replace(CONFIG, keep=3))
    assert best_checkpoint(run.path) is None
    for step, loss in ((100, 2.0), (200, 2.1)):
        run.record("heldout", step, {"mlm_loss": loss, "mlm_accuracy": 0.5, "seconds": 1.0})
        run.save(state(step))
    run.save(state(300))
    run.wait()
    (run.checkpoints()[0] / "state.json").write_text("{")
    assert best_checkpoint(run.path) == run.checkpoints()[1]


def test_a_run_that_went_back_to_its_beginning_saves_again_what_it_set_aside(
    tmp_path: Path,
) -> None:
    run = new_run(tmp_path / "run")
    run.save(state(100))
    assert run.back_to(99) is None
    run.save(state(100))
    run.wait()
    assert names(run) == [100]


def test_nothing_is_dropped_before_the_new_checkpoint_verifies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, write = new_run(tmp_path / "run", replace(CONFIG, keep=1)), runs.write_folder
    run.save(state(100))
    run.wait()

    def bad_disk(path: Path, files: Any) -> None:
        write(path, files)
        content = bytearray((path / "model.safetensors").read_bytes())
        content[-1] ^= 1
        (path / "model.safetensors").write_bytes(content)

    monkeypatch.setattr(runs, "write_folder", bad_disk)
    run.save(state(200))
    with pytest.raises(ValueError, match=r"step-00000200/model\.safetensors is damaged"):
        run.wait()
    assert names(run) == [100, 200]
    latest = Run.open(run.path).latest()
    assert latest is not None
    assert latest.step == 100


def test_what_a_kill_left_to_be_dropped_is_dropped_when_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = new_run(tmp_path / "run", replace(CONFIG, keep=2))
    with monkeypatch.context() as patch:
        patch.setattr(runs, "vanish", lambda path: None)
        for step in (100, 200, 300):
            run.save(state(step))
        run.wait()
    assert names(run) == [100, 200, 300]
    assert Run.open(run.path).latest() is not None
    assert names(run) == [200, 300]


def test_what_a_kill_left_half_done_is_cleared_up(tmp_path: Path) -> None:
    run = new_run(tmp_path / "run")
    run.save(state(100))
    run.save(state(200))
    run.wait()
    folder = run.path / "checkpoints"
    (folder / ".step-00000300.tmp").mkdir()  # in the middle of writing
    shutil.copytree(folder / "step-00000100", folder / ".step-00000050.tmp")  # ... or of dropping
    (folder / "step-00000100").rename(folder / ".step-00000100.old")  # between two names
    with run.lock():
        assert sorted(os.listdir(folder)) == ["step-00000100", "step-00000200"]
