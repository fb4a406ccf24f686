"""Signals: a run that is told to stop or to save does so after the step it is in."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import TINY, final_weights, losses

from mslt.launch import pretrain
from mslt.launcher import passes_signals_on
from mslt.run import Run
from mslt.signals import Signals


@pytest.fixture(scope="module")
def unbroken(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unbroken") / "run"
    assert pretrain(TINY, store, out) == 0
    return out


@pytest.fixture
def at_step_5(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sends this process a signal while step 5 is recorded."""
    record = Run.record

    def signalled(number: int) -> None:
        def recorded(self: Run, kind: str, step: int, values: dict[str, float]) -> None:
            record(self, kind, step, values)
            if kind == "train" and step == 5:
                os.kill(os.getpid(), number)

        monkeypatch.setattr(Run, "record", recorded)

    return signalled


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_finishes_the_step_saves_and_says_how_to_go_on(
    store: Path,
    unbroken: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    at_step_5: Any,
    number: int,
    status: int,
) -> None:
    out, config = tmp_path / "run", replace(TINY, save_every=100)
    at_step_5(number)
    assert pretrain(config, store, out) == status
    monkeypatch.undo()
    assert "stopped after step 5" in capsys.readouterr().out
    assert [path.name for path in Run.open(out).checkpoints()][-1] == "step-00000005"
    assert pretrain(config, store, out, resume=True) == 0
    assert losses(out) == losses(unbroken)


def test_sigusr1_saves_and_changes_nothing(
    store: Path,
    unbroken: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    at_step_5: Any,
) -> None:
    out = tmp_path / "run"
    at_step_5(signal.SIGUSR1)
    assert pretrain(replace(TINY, save_every=100), store, out) == 0
    assert "saved step 5, as it was asked to" in capsys.readouterr().out
    steps = [path.name[-2:] for path in Run.open(out).checkpoints()]
    assert steps == ["04", "05", "08", "09", "10"]  # with the stages' ends
    assert losses(out) == losses(unbroken)
    ours, theirs = final_weights(out), final_weights(unbroken)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("second", ["SIGINT", "SIGTERM"])
def test_a_second_signal_kills_at_once(second: str) -> None:
    code = f"""
import os, signal, time
from mslt.signals import Signals
with Signals() as signals:
    os.kill(os.getpid(), signal.SIGINT)
    assert signals.stop == signal.SIGINT
    os.kill(os.getpid(), signal.{second})
    time.sleep(9)
"""
    status = subprocess.run([sys.executable, "-c", code], check=False).returncode
    assert -status == getattr(signal, second)


@pytest.mark.parametrize("processes", ["1", "2"])
def test_torchruns_echo_of_a_signal_is_no_second_one(
    monkeypatch: pytest.MonkeyPatch, processes: str
) -> None:
    monkeypatch.setenv("WORLD_SIZE", processes)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "a-launch")
    with Signals(launched=passes_signals_on()) as signals:
        for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM):
            os.kill(os.getpid(), number)
        assert signals.asked() == signal.SIGINT


def test_the_handlers_that_were_there_are_put_back() -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = [signal.getsignal(number) for number in numbers]
    with Signals():
        assert signal.getsignal(signal.SIGUSR1) not in before
    assert [signal.getsignal(number) for number in numbers] == before
