"""The loop: what it writes, what it leaves alone, and where it stops."""

import json
import shutil
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import text
from safetensors.torch import load_file
from tiny_run import TINY, losses, steps

from mslt.cli import main
from mslt.config import InstanceConfig, OptimizerConfig, PlanConfig
from mslt.data.prepare import PrepareConfig, prepare
from mslt.data.store import TokenStore
from mslt.job import Job
from mslt.launch import pretrain
from mslt.pretrain import enter_stage
from mslt.run import Run
from mslt.schedule import Schedule
from mslt.trainer import Trainer


@pytest.fixture(scope="module")
def unbroken(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unbroken") / "run"
    assert pretrain(TINY, store, out) == 0
    return out


def test_the_plan_of_these_tests_grows_freezes_retrains_and_lengthens() -> None:
    stages = [(s.depth, s.learns_from, s.steps, s.seq_len) for s in TINY.stages().stages]
    assert stages == [(2, 0, 4, 32), (4, 2, 4, 32), (4, 0, 1, 32), (4, 0, 1, 48)]


def test_fixed_layers_and_embeddings_do_not_move_in_a_stage(store: Path, unbroken: Path) -> None:
    first, second, *_ = (
        load_file(folder / "model.safetensors")
        for folder in sorted((unbroken / "stages").iterdir())
    )
    for name, tensor in first.items():
        if name.startswith(("embeddings.", "blocks.")):
            assert torch.equal(tensor, second[name]), name
        else:
            assert not torch.equal(tensor, second[name]), name


def test_every_stage_is_kept_with_its_losses(unbroken: Path) -> None:
    folders = Run.open(unbroken).stage_folders()
    assert [f.name for f in folders] == ["1-depth-2", "2-depth-4", "3-depth-4", "4-depth-4"]
    facts = [json.loads((f / "state.json").read_text()) for f in folders]
    assert [f["step"] for f in facts] == [4, 8, 9, 10]
    assert all(f["heldout"]["mlm_loss"] > 0 for f in facts)


def test_only_the_last_checkpoints_are_kept(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert pretrain(replace(TINY, keep=2), store, out) == 0
    names = [path.name for path in Run.open(out).checkpoints()]
    assert names == ["step-00000009", "step-00000010"]


def test_a_run_appears_whole_or_not_at_all(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mslt.run.machine", killed)
    with pytest.raises(KeyboardInterrupt):
        pretrain(TINY, store, tmp_path / "run")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("broken", [4, 5])
def test_weights_that_are_not_finite_reach_no_folder(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken: int
) -> None:
    step = Trainer.step

    def breaks(self: Trainer, number: int, *rest: Any) -> dict[str, torch.Tensor]:
        metrics = step(self, number, *rest)
        if number + 1 == broken:
            self.optimizer.weights[0] = torch.nan
        return metrics

    monkeypatch.setattr(Trainer, "step", breaks)
    with pytest.raises(ValueError, match=rf"a weight is nan at step {broken}"):
        pretrain(TINY, store, tmp_path / "run")
    run = Run.open(tmp_path / "run")
    assert len(run.checkpoints()) == broken - 1
    assert len(run.stage_folders()) == broken - 4
    assert [line["step"] for line in run.heldout()] == ([3] if broken == 4 else [3, 4])


def test_a_folder_that_holds_something_is_not_written_to(store: Path, unbroken: Path) -> None:
    with pytest.raises(ValueError, match="go on with --resume"):
        pretrain(TINY, store, unbroken)


def test_training_reads_the_store_and_leaves_it_as_it_is(store: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(store, tmp_path / "store"))
    for path in [*copied.rglob("*"), copied]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in copied.rglob("*.*")}
    assert pretrain(TINY, copied, tmp_path / "run") == 0
    for path in [copied, *copied.rglob("*")]:
        if path.is_dir():
            path.chmod(0o755)
    assert {
        path: (path.stat().st_mtime_ns, path.read_bytes()) for path in copied.rglob("*.*")
    } == before


def test_of_a_large_store_a_sample_is_verified_or_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("mslt.data.store.BLOCK", 1000)
    monkeypatch.setattr("mslt.launch.SAMPLE", 0)
    (tmp_path / "text.txt").write_text(text(60), encoding="utf-8")
    how = PrepareConfig(vocab_size=120, workers=1)
    made = prepare([str(tmp_path / "text.txt")], tmp_path / "store", how, progress=False)
    assert pretrain(TINY, made.path, tmp_path / "run") == 0
    assert "--verify compares all" in capsys.readouterr().out
    words = ["pretrain", "--resume", "--out", str(tmp_path / "run")]
    assert main([*words, "--verify"]) == 0
    assert "--verify" not in capsys.readouterr().out
    tokens = made.path / "train" / "tokens.bin"
    content = bytearray(tokens.read_bytes())
    content[2000] ^= 1
    tokens.write_bytes(content)
    assert main([*words, "--verify"]) == 2
    assert "train/tokens.bin is damaged: its SHA-256" in capsys.readouterr().err


def test_the_same_seed_gives_the_same_run_and_another_seed_another(
    store: Path, unbroken: Path, tmp_path: Path
) -> None:
    pretrain(TINY, store, tmp_path / "same")
    pretrain(replace(TINY, seed=1), store, tmp_path / "other")
    assert losses(tmp_path / "same") == losses(unbroken)
    assert losses(tmp_path / "other") != losses(unbroken)


def test_the_clock_counts_training_alone(unbroken: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [json.loads(line) for line in (unbroken / "metrics.jsonl").read_text().splitlines()]
    seconds = [line["seconds"] for line in lines]
    assert seconds == sorted(seconds)
    for before, after in pairwise(lines):
        if after["kind"] == "heldout":  # an evaluation stands at the time of the step before it
            assert after["seconds"] == before["seconds"]


@pytest.mark.parametrize("pair", ["sop", "none"])
def test_other_pair_objectives_train(store: Path, tmp_path: Path, pair: str) -> None:
    config = replace(TINY, instances=InstanceConfig(pair=pair))  # type: ignore[arg-type]
    assert pretrain(config, store, tmp_path / "run") == 0
    lines = Run.open(tmp_path / "run").metrics()
    assert all(("pair_loss" in line) == (pair == "sop") for line in lines)


@pytest.mark.parametrize("log_every", [1, 100])
def test_a_run_that_diverges_stops_and_keeps_only_finite_weights(
    store: Path, tmp_path: Path, log_every: int
) -> None:
    config = replace(
        TINY,
        log_every=log_every,
        schedule=Schedule(lr=1e30, warmup_steps=0, shape="constant"),
        optimizer=OptimizerConfig(name="adamw", clip_norm=0.0),
    )
    with pytest.raises(ValueError, match=r" is (nan|inf) at step \d+: training has diverged"):
        pretrain(config, store, tmp_path / "run")
    for folder in Run.open(tmp_path / "run").checkpoints():
        for name, tensor in load_file(folder / "model.safetensors").items():
            assert torch.isfinite(tensor).all(), name


def test_moments_of_copied_layers_start_fresh_or_copied(store: Path, tmp_path: Path) -> None:
    ended = steps(TINY, store, tmp_path / "run", 4)[-1].state()
    new, source = "blocks.2.mlp.up.weight", "blocks.0.mlp.up.weight"
    for choice in ("fresh", "copied"):
        optimizer = OptimizerConfig(copied_moments=choice)  # type: ignore[arg-type]
        job = Job.prepare(replace(TINY, optimizer=optimizer), TokenStore.open(store))
        _, moments = enter_stage(job, ended, 1)
        assert (new in moments) == (choice == "copied")
        assert source in moments
        if choice == "copied":
            assert torch.equal(moments[new].mean, moments[source].mean)
            assert moments[new].mean.data_ptr() != moments[source].mean.data_ptr()


def test_moments_of_returning_layers_are_kept_or_fresh(store: Path, tmp_path: Path) -> None:
    ended = steps(TINY, store, tmp_path / "run", 8)[-1].state()
    returning, stayed = "blocks.0.mlp.up.weight", "blocks.3.mlp.up.weight"
    for choice in ("kept", "fresh"):
        optimizer = OptimizerConfig(returning_moments=choice)  # type: ignore[arg-type]
        job = Job.prepare(replace(TINY, optimizer=optimizer), TokenStore.open(store))
        _, moments = enter_stage(job, ended, 2)
        assert (returning in moments) == (choice == "kept")
        assert stayed in moments


def test_tensorboard_events_are_written(store: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    pretrain(replace(TINY, tensorboard=True), store, tmp_path / "run")
    assert list((tmp_path / "run" / "tensorboard").glob("events.*"))


def test_a_run_that_learns_nothing_of_context_says_so_once(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pretrain(replace(TINY, eval_every=1, schedule=Schedule(lr=1e-9)), store, tmp_path / "run")
    assert capsys.readouterr().out.count("nothing of their context is learned yet") == 1


def test_a_run_is_foretold_by_the_first_stage_that_is_logged_twice(
    store: Path, tmp_path: Path
) -> None:
    plan = PlanConfig(method="mslt", k=2, shares=[20, 50, 30], seq_len=32)
    config = replace(TINY, plan=plan, log_every=3)
    assert [stage.steps for stage in config.stages().stages] == [2, 5, 3]
    steps(config, store, tmp_path / "run", 7)
    facts = json.loads((tmp_path / "run" / "run.json").read_text())
    assert facts["forecast"]["by"] == "its own steps 4 to 6"
