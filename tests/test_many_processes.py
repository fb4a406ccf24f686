"""A run of several processes: one run, of which the main process writes the folder."""

import io
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from processes import together
from tiny_run import TINY, final_weights, losses

from mslt import objective
from mslt import run as runs
from mslt.config import Config
from mslt.growth import learning
from mslt.launch import pretrain
from mslt.optim import ROW
from mslt.run import Run
from mslt.trainer import Trainer

# Four micro-batches, so that four processes have one each. Dropout is on.
CONFIG = replace(TINY, batch_size=8, micro_batch=2, save_every=4)
Ids = dict[int, list[int]]  # numbers of the instances of each step


@dataclass(frozen=True)
class Part:
    """What one process of a run has seen and said."""

    status: int | str
    ids: Ids
    learning: Ids  # sizes of the parameters that learn, by step
    out: str


@contextmanager
def noting(patch: pytest.MonkeyPatch, met: Callable[[int, Trainer], None]) -> Iterator[Part]:
    """Note what every step trains on; `met` is called at its end with its number from 1."""
    part, step = Part(0, {}, {}, ""), Trainer.step

    def noted(self: Trainer, number: int, batch: Any, *rest: Any) -> Any:
        part.ids[number + 1] = batch.ids.tolist()
        part.learning[number + 1] = [p.numel() for _, p in learning(self.model)]
        metrics = step(self, number, batch, *rest)
        met(number + 1, self)
        return metrics

    patch.setattr(Trainer, "step", noted)
    yield part


def one(configs: list[Config], store: Path, out: Path, harm: str, more: dict[str, Any]) -> Part:
    """A process of a run, to which something may happen."""
    rank = int(os.environ.get("RANK", "0"))
    met, said = HARMS.get(harm, lambda *_: None), io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        if harm == "disk" and rank == 0:
            patch.setattr(runs, "write_folder", full_disk)
        with noting(patch, lambda step, trainer: met(rank, step, trainer)) as part:
            status: int | str
            try:
                with redirect_stdout(said):
                    status = pretrain(configs[rank % len(configs)], store, out, **more)
            except (ValueError, OSError) as error:
                status = str(error)
            except SystemExit as stop:
                status = f"left with {stop.code}"
    return replace(part, status=status, out=said.getvalue())


def run(
    size: int, config: Config | list[Config], store: Path, out: Path, harm: str = "", **more: Any
) -> list[Part]:
    """A run of some processes, from start to end."""
    configs = config if isinstance(config, list) else [config]
    if size == 1:
        return [one(configs, store, out, harm, more)]
    return together(size, one, configs, store, out, harm, more)


def full_disk(path: Path, files: Any) -> None:
    raise OSError(28, "No space left on device", str(path))


def stop_at_6(rank: int, step: int, _: Trainer) -> None:
    if (rank, step) == (1, 6):
        os.kill(os.getpid(), signal.SIGTERM)


def drift(rank: int, step: int, trainer: Trainer) -> None:
    if (rank, step) == (1, 2):
        with torch.no_grad():
            trainer.model.blocks[1].mlp.up.bias[3] += 1e-6


def nan_on_rank_1(rank: int, step: int, _: Trainer) -> None:
    """From the end of step 1 on the second process' losses are broken."""
    if (rank, step) == (1, 1):
        real = objective.losses
        objective.losses = lambda *a, **k: tuple(x * torch.nan for x in real(*a, **k))


HARMS = {"stop": stop_at_6, "drift": drift, "nan": nan_on_rank_1}


def together_ids(parts: list[Part]) -> Ids:
    """Of each step the instances of all processes, in the order of their ranks."""
    steps = parts[0].ids
    assert all(part.ids.keys() == steps.keys() for part in parts)
    return {step: [number for part in parts for number in part.ids[step]] for step in steps}


def close(run: Path, other: Path) -> None:
    """The same lines, losses within 1e-5: sums are rounded in another order."""
    for ours, theirs in zip(losses(run), losses(other), strict=True):
        assert ours[:2] == theirs[:2]
        np.testing.assert_allclose(ours[2:], theirs[2:], rtol=1e-5)


@pytest.fixture(scope="module")
def alone(store: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ids]:
    """The folder of a run of one process, and the instances of its steps."""
    out = tmp_path_factory.mktemp("alone") / "run"
    parts = run(1, CONFIG, store, out)
    assert parts[0].status == 0
    return out, together_ids(parts)


@pytest.mark.parametrize("size", [2, 4])
def test_a_run_is_the_same_whatever_the_number_of_processes(
    store: Path, tmp_path: Path, alone: tuple[Path, Ids], size: int
) -> None:
    """By the plan with the most kinds of stages; `torture.worlds` does it by all."""
    expected, ids = alone
    out = tmp_path / "run"
    parts = run(size, CONFIG, store, out)
    assert [part.status for part in parts] == [0] * size
    assert together_ids(parts) == ids
    close(out, expected)
    assert f"cpu in {size} processes" in parts[0].out
    assert [part.out for part in parts[1:]] == [""] * (size - 1)
    assert Run.open(out).facts()["processes"] == size
    left = {path.relative_to(out) for path in out.rglob("*")}
    assert left == {path.relative_to(expected) for path in expected.rglob("*")}


def test_a_signal_to_any_process_stops_all_and_another_number_goes_on(
    store: Path, tmp_path: Path, alone: tuple[Path, Ids]
) -> None:
    """Two processes, then four, then one: the same instances at every step."""
    expected, ids = alone
    out = tmp_path / "run"
    first = run(2, CONFIG, store, out, "stop")
    assert [part.status for part in first] == [143, 143]
    assert "stopped after step 7 and saved" in first[0].out  # known to all a step later
    second = run(4, replace(CONFIG, save_every=100), store, out, "stop", resume=True)
    assert [part.status for part in second] == [0] * 4
    assert together_ids(first) | together_ids(second) == ids
    close(out, expected)
    assert [line["processes"] for line in Run.open(out).facts()["resumed"]] == [4]


def test_looking_ahead_and_bf16_on_the_wire(store: Path, tmp_path: Path) -> None:
    """The first changes no bit, the second halves the bytes; and both are in the metrics."""
    runs_of = {
        "ahead": CONFIG,
        "plain": replace(CONFIG, look_ahead=False),
        "bf16": replace(CONFIG, reduce="bf16"),
    }
    parts = {name: run(2, config, store, tmp_path / name) for name, config in runs_of.items()}
    assert losses(tmp_path / "ahead") == losses(tmp_path / "plain") != losses(tmp_path / "bf16")
    ours, theirs = final_weights(tmp_path / "ahead"), final_weights(tmp_path / "plain")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    for name, size in (("ahead", 4), ("bf16", 2)):
        for line in Run.open(tmp_path / name).metrics():
            if line["kind"] == "train":
                learn = parts[name][0].learning[line["step"]]
                gaps = line["reduced_bytes"] / size - sum(learn)
                assert 0 <= gaps <= sum(-numbers % ROW for numbers in learn)


def test_processes_that_were_told_different_things_do_not_begin(
    store: Path, tmp_path: Path
) -> None:
    parts = run(2, [CONFIG, replace(CONFIG, seed=7)], store, tmp_path / "run")
    said = "processes 0 and 1 differ: seed 0 against seed 7"
    assert sorted(str(part.status) for part in parts) == ["left with 2", said]
    assert not (tmp_path / "run").exists()


def test_weights_that_drift_apart_stop_the_run_before_they_are_saved(
    store: Path, tmp_path: Path
) -> None:
    parts = run(2, CONFIG, store, tmp_path / "run", "drift")
    told = [part.status for part in parts if part.status != "left with 2"]
    assert len(told) == 1
    assert "processes 0 and 1 differ: blocks.1.mlp.up.bias of checksum" in str(told[0])
    assert Run.open(tmp_path / "run").checkpoints() == []


def test_numbers_that_break_in_one_process_stop_all(store: Path, tmp_path: Path) -> None:
    """Each step is refused by all, they go back once together, and one says why they stop."""
    config = replace(CONFIG, steps=20, eval_every=0)
    parts = run(2, config, store, tmp_path / "run", "nan")
    assert "going back, once, to step 0" in parts[0].out
    told = [part.status for part in parts if part.status != "left with 2"]
    assert len(told) == 1
    assert "mlm_loss is nan at step 5: training has diverged again" in str(told[0])
    kinds = [line["kind"] for line in Run.open(tmp_path / "run").metrics()]
    assert kinds == ["back"] + ["skipped"] * 5


def test_a_full_disk_of_the_main_process_is_told_once(store: Path, tmp_path: Path) -> None:
    parts = run(2, CONFIG, store, tmp_path / "run", "disk")
    assert "No space left on device" in str(parts[0].status)
    assert parts[1].status == "left with 2"


def test_a_rehearsal_of_several_processes_is_one_rehearsal(store: Path, tmp_path: Path) -> None:
    parts = run(2, replace(CONFIG, steps=10_000), store, tmp_path / "run", rehearse=True)
    assert [part.status for part in parts] == [0, 0]
    assert "it would end on" in parts[0].out
    assert parts[1].out == ""
    assert os.listdir(tmp_path) == []
