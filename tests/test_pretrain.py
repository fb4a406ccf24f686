"""The loop: resume equals never stopping, at every step and across every boundary."""

import json
import os
import signal
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mslt.checkpoint import State
from mslt.config import Config, InstanceConfig, ModelConfig, OptimizerConfig, PlanConfig
from mslt.console import Console
from mslt.data.store import TokenStore
from mslt.pretrain import Job, Progress, enter_stage, pretrain, reopen, train, unigram_loss
from mslt.run import Run
from mslt.schedule import Schedule

TINY = Config(
    steps=10,
    batch_size=4,
    micro_batch=2,
    eval_every=3,
    eval_batches=1,
    save_every=1,
    keep=100,
    log_every=1,
    device="cpu",
    precision="fp32",
    model=ModelConfig(hidden_size=16, num_hidden_layers=4, num_attention_heads=2),
    plan=PlanConfig(method="mslt", k=2, retrain=0.2, seq_len=32, long_share=0.1, long_seq_len=48),
    schedule=Schedule(lr=1e-3, warmup_steps=3),
)


def start(config: Config, store: Path, out: Path) -> tuple[Job, State, Run]:
    opened = TokenStore.open(store)
    job = Job.prepare(config, opened)
    run = Run.create(out, job.config, job.facts(opened), store / "tokenizer")
    return job, job.first_state(), run


def steps(config: Config, store: Path, out: Path, count: int) -> list[Progress]:
    job, state, run = start(config, store, out)
    loop = train(job, state, run, Console(job.plan, config.batch_size, quiet=True))
    return [next(loop) for _ in range(count)]


def losses(run: Path) -> list[tuple[str, int, float, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [(m["kind"], m["step"], m["mlm_loss"], m["pair_loss"]) for m in lines]


def final_weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(sorted((run / "stages").iterdir())[-1] / "model.safetensors")


@pytest.fixture(scope="module")
def unbroken(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unbroken") / "run"
    assert pretrain(TINY, store, out) == 0
    return out


def test_the_plan_of_these_tests_grows_freezes_retrains_and_lengthens() -> None:
    stages = [(s.depth, s.learns_from, s.steps, s.seq_len) for s in TINY.stages().stages]
    assert stages == [(2, 0, 4, 32), (4, 2, 4, 32), (4, 0, 1, 32), (4, 0, 1, 48)]


@pytest.mark.parametrize("stopped_at", range(10))
def test_a_run_stopped_at_any_step_resumes_bit_for_bit(
    store: Path, unbroken: Path, tmp_path: Path, stopped_at: int
) -> None:
    out = tmp_path / "run"
    if stopped_at:
        steps(TINY, store, out, stopped_at)
    else:
        start(TINY, store, out)
    # A step that was begun and lost leaves a line that must not appear twice.
    with (out / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "step": 11, "mlm_loss": 0.0, "pair_loss": 0.0}\n{"torn')
    assert pretrain(TINY, store, out, resume=True) == 0
    assert losses(out) == losses(unbroken)
    expected = final_weights(unbroken)
    for name, tensor in final_weights(out).items():
        assert torch.equal(tensor, expected[name]), name


def test_a_finished_run_resumes_to_nothing(store: Path, unbroken: Path) -> None:
    before = losses(unbroken)
    assert pretrain(TINY, store, unbroken, resume=True) == 0
    assert losses(unbroken) == before


def test_a_damaged_checkpoint_is_passed_over_and_kept(
    store: Path, unbroken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    steps(TINY, store, out, 6)
    newest = out / "checkpoints" / "step-00000006" / "model.safetensors"
    content = bytearray(newest.read_bytes())
    content[-1] ^= 1
    newest.write_bytes(bytes(content))
    assert pretrain(TINY, store, out, resume=True) == 0
    assert "step-00000006/model.safetensors is damaged" in capsys.readouterr().out
    assert losses(out) == losses(unbroken)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_finishes_the_step_saves_and_says_how_to_go_on(
    store: Path,
    unbroken: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    number: int,
    status: int,
) -> None:
    out = tmp_path / "run"
    record = Run.record

    def interrupted(self: Run, kind: str, step: int, values: dict[str, float]) -> None:
        record(self, kind, step, values)
        if kind == "train" and step == 5:
            os.kill(os.getpid(), number)

    config = replace(TINY, save_every=100)
    monkeypatch.setattr(Run, "record", interrupted)
    assert pretrain(config, store, out) == status
    monkeypatch.undo()
    assert "stopped after step 5" in capsys.readouterr().out
    assert [path.name for path in Run.open(out).checkpoints()][-1] == "step-00000005"
    assert pretrain(config, store, out, resume=True) == 0
    assert losses(out) == losses(unbroken)


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


def test_resuming_with_another_option_names_it(store: Path, unbroken: Path) -> None:
    with pytest.raises(ValueError, match=r"schedule\.lr is 0\.002, but the run .* with 0\.001"):
        pretrain(
            replace(TINY, schedule=replace(TINY.schedule, lr=2e-3)), store, unbroken, resume=True
        )


def test_resuming_on_another_store_is_refused(
    store: Path, unbroken: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = TokenStore.open(store)
    opened.manifest["files"]["train/tokens.bin"]["sha256"] = "0" * 64
    with pytest.raises(ValueError, match="is not the one"):
        reopen(TINY, opened, unbroken)


def test_a_resumed_run_keeps_the_micro_batches_that_it_began_with(
    store: Path, unbroken: Path
) -> None:
    facts = json.loads((unbroken / "run.json").read_text())
    (unbroken / "run.json").write_text(json.dumps({**facts, "micro_batches": [1, 1, 1, 1]}))
    job, _, _ = reopen(TINY, TokenStore.open(store), unbroken)
    (unbroken / "run.json").write_text(json.dumps(facts))
    assert facts["micro_batches"] == [2, 2, 2, 2]
    assert job.micro_batches == (1, 1, 1, 1)


def test_a_folder_that_holds_something_is_not_written_to(store: Path, unbroken: Path) -> None:
    with pytest.raises(ValueError, match="go on with --resume"):
        pretrain(TINY, store, unbroken)


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


def test_the_unigram_loss_is_that_of_counting(store: Path) -> None:
    opened = TokenStore.open(store)
    job = Job.prepare(TINY, opened)
    counts = opened.unigrams + 1.0
    total, number = 0.0, 0
    for batch in job.heldout:
        for ids, weights in zip(batch.masked_ids, batch.masked_weights):
            for piece, weight in zip(ids, weights):
                if weight:
                    total -= float(torch.log(torch.tensor(counts[piece] / counts.sum())))
                    number += 1
    assert unigram_loss(opened.unigrams, job.heldout) == pytest.approx(total / number, rel=1e-5)


def test_tensorboard_events_are_written(store: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    pretrain(replace(TINY, tensorboard=True), store, tmp_path / "run")
    assert list((tmp_path / "run" / "tensorboard").glob("events.*"))


def test_a_run_that_learns_nothing_of_context_says_so_once(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pretrain(replace(TINY, eval_every=1, schedule=Schedule(lr=1e-9)), store, tmp_path / "run")
    assert capsys.readouterr().out.count("nothing of their context is learned yet") == 1
