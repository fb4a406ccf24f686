"""A rehearsal meets every stage, tells what the run will take, and leaves no trace in it."""

import os
import re
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import TINY, final_weights, losses

from mslt import rehearsal
from mslt.launch import pretrain
from mslt.trainer import Trainer


def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Depth and length of every step that is taken from now on."""
    steps, step = [], Trainer.step

    def counted(self: Trainer, number: int, batch: Any, *rest: Any) -> dict[str, torch.Tensor]:
        steps.append((self.model.depth, batch.input_ids.shape[1]))
        return step(self, number, batch, *rest)

    monkeypatch.setattr(Trainer, "step", counted)
    return steps


def test_a_rehearsal_tries_every_stage_and_leaves_nothing(
    store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    steps = seen(monkeypatch)
    config = replace(TINY, steps=10_000, tensorboard=False)
    assert pretrain(config, store, tmp_path / "run", rehearse=True) == 0
    assert steps == [(2, 32)] * 4 + [(4, 32)] * 8 + [(4, 48)] * 4
    assert os.listdir(tmp_path) == []
    said = capsys.readouterr().out
    for number, steps_of_it in enumerate(("4,000", "4,000", "1,000", "1,000"), 1):
        line = rf"  stage {number}: .* s a step, [\d.]+ .B of memory; {steps_of_it} steps: \d+ "
        assert re.search(line, said), said
    assert re.search(r"it would end on \d{4}-\d\d-\d\d at \d\d:\d\d", said)
    assert re.search(r"of disk at most, of [\d,.]+ GB that are free", said)


def test_a_run_is_the_same_with_a_rehearsal_and_without(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert pretrain(TINY, store, tmp_path / "without") == 0
    monkeypatch.setattr(rehearsal, "LONG", 10)
    steps = seen(monkeypatch)
    assert pretrain(TINY, store, tmp_path / "with") == 0
    assert len(steps) == (4 + 4 + 1 + 1) + 10
    assert losses(tmp_path / "with") == losses(tmp_path / "without")
    ours, theirs = final_weights(tmp_path / "with"), final_weights(tmp_path / "without")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_a_long_run_is_rehearsed_unless_told_otherwise(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[Path] = []

    def stands_in(job: Any, store: Any, out: Path) -> None:
        called.append(out)
        raise KeyboardInterrupt

    monkeypatch.setattr(rehearsal, "rehearse", stands_in)
    monkeypatch.setattr(rehearsal, "LONG", 10)
    with pytest.raises(KeyboardInterrupt):
        pretrain(TINY, store, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    assert pretrain(TINY, store, tmp_path / "run", rehearse=False) == 0
    monkeypatch.setattr(rehearsal, "LONG", 11)
    assert pretrain(TINY, store, tmp_path / "short") == 0
    assert called == [tmp_path / "run"]


def test_a_stage_that_does_not_fit_into_memory_is_named_before_the_run_begins(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Trainer.step

    def full(self: Trainer, number: int, batch: Any, *rest: Any) -> dict[str, torch.Tensor]:
        if batch.input_ids.shape[1] == 48:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return step(self, number, batch, *rest)

    monkeypatch.setattr(Trainer, "step", full)
    with pytest.raises(ValueError, match=r"stage 4 .* does not fit into memory with a micro_batch"):
        pretrain(TINY, store, tmp_path / "run", rehearse=True)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_signal_in_a_rehearsal_leaves_nothing_behind_and_one_to_save_does_nothing(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    step, config = Trainer.step, replace(TINY, steps=10_000, tensorboard=False)

    def signalled(self: Trainer, at: int, *rest: Any) -> dict[str, torch.Tensor]:
        if at == 5:
            os.kill(os.getpid(), number)
        return step(self, at, *rest)

    monkeypatch.setattr(Trainer, "step", signalled)
    if number == signal.SIGUSR1:
        assert pretrain(config, store, tmp_path / "run", rehearse=True) == 0
    else:
        with pytest.raises(SystemExit, match="143"):
            pretrain(config, store, tmp_path / "run", rehearse=True)
    assert os.listdir(tmp_path) == []
