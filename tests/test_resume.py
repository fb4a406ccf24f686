"""Resume equals never stopping, at every step and across every boundary, or says why not."""

import json
import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
from conftest import text
from safetensors.torch import load_file
from tiny_run import TINY, damage, final_weights, losses, start, steps

from mslt.checkpoint import verify_folder
from mslt.config import OPERATIONAL, InstanceConfig, OptimizerConfig, PlanConfig
from mslt.console import Console
from mslt.data.prepare import PrepareConfig, prepare
from mslt.data.store import TokenStore
from mslt.job import Job
from mslt.launch import pretrain
from mslt.options import flatten
from mslt.pretrain import train
from mslt.resume import reopen
from mslt.run import Run
from mslt.schedule import Schedule


@pytest.fixture(scope="module")
def unbroken(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("unbroken") / "run"
    assert pretrain(TINY, store, out) == 0
    return out


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
        file.write('{"kind": "train", "step": 11, "mlm_loss": 0.0, "seconds": 9.0}\n{"torn')
    assert pretrain(TINY, store, out, resume=True) == 0
    assert losses(out) == losses(unbroken)
    expected = final_weights(unbroken)
    for name, tensor in final_weights(out).items():
        assert torch.equal(tensor, expected[name]), name


def test_a_finished_run_resumes_to_nothing(store: Path, unbroken: Path) -> None:
    before = {path: path.read_bytes() for path in unbroken.rglob("*") if path.is_file()}
    assert pretrain(TINY, store, unbroken, resume=True) == 0
    assert {path: path.read_bytes() for path in unbroken.rglob("*") if path.is_file()} == before


def test_a_damaged_checkpoint_is_passed_over_and_kept(
    store: Path, unbroken: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    steps(TINY, store, out, 6)
    damage(out, 6)
    assert pretrain(TINY, store, out, resume=True) == 0
    said = capsys.readouterr().out
    assert "step-00000006/model.safetensors is damaged" in said
    assert "kept as step-00000006.damaged" in said
    assert losses(out) == losses(unbroken)
    verify_folder(out / "checkpoints" / "step-00000006")
    assert (out / "checkpoints" / "step-00000006.damaged" / "model.safetensors").exists()


def test_what_is_saved_after_a_damaged_checkpoint_stays_and_is_gone_on_from(
    store: Path, unbroken: Path, tmp_path: Path
) -> None:
    out, config = tmp_path / "run", replace(TINY, keep=1)
    steps(TINY, store, out, 8)
    for step in (6, 7, 8):
        damage(out, step)
    run = Run.open(out)
    job, state = reopen(config, TokenStore.open(store), run)
    assert state.step == 5
    loop = train(job, state, run, Console(job.plan, config.batch_size, quiet=True))
    assert [next(loop).step for _ in range(2)] == [6, 7]
    run.wait()
    assert [path.name for path in run.checkpoints()] == ["step-00000006", "step-00000007"]
    damage(out, 6)  # which was evaluated best
    damage(out, 7)
    assert Run.open(out).latest() is None
    aside = sorted(path.name for path in (out / "checkpoints").iterdir())
    assert [name.partition(".")[2] for name in aside] == [
        *("damaged", "damaged-2", "damaged", "damaged-2", "damaged")
    ]
    assert pretrain(config, store, out, resume=True) == 0
    assert losses(out) == losses(unbroken)


@pytest.fixture
def stopped(store: Path, tmp_path: Path) -> Path:
    """A run that was stopped after five steps."""
    steps(TINY, store, tmp_path / "stopped", 5)
    return tmp_path / "stopped"


def test_resuming_with_another_micro_batch_is_refused(store: Path, stopped: Path) -> None:
    before = (stopped / "config.yaml").read_text()
    with pytest.raises(ValueError, match=r"micro_batch is 4, but the run .* with 2"):
        pretrain(replace(TINY, micro_batch=4), store, stopped, resume=True)
    assert (stopped / "config.yaml").read_text() == before


def test_a_resumed_run_takes_options_that_leave_the_model_as_it_is(
    store: Path, unbroken: Path, stopped: Path
) -> None:
    other = replace(TINY, save_every=7, keep=1, log_every=2, eval_every=0, device="auto")
    assert {key for key, value in asdict(TINY).items() if asdict(other)[key] != value} < OPERATIONAL
    assert pretrain(other, store, stopped, resume=True) == 0
    run = Run.open(stopped)
    assert run.config == other.with_vocabulary(TokenStore.open(store).vocab_size)
    assert [path.name for path in run.checkpoints()] == ["step-00000010"]
    assert [line["step"] for line in run.heldout()] == [3, 4, 8, 9, 10]
    expected = final_weights(unbroken)
    for name, tensor in final_weights(stopped).items():
        assert torch.equal(tensor, expected[name]), name


def test_a_resumed_run_keeps_its_precision_and_says_where_that_is_slow(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, config = tmp_path / "run", replace(TINY, precision="auto")
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: True)
    steps(config, store, out, 2)
    monkeypatch.setattr("torch.cpu._is_amx_tile_supported", lambda: False)
    monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda: False)
    job, _ = reopen(config, TokenStore.open(store), Run.open(out))
    assert job.precision == "bf16"
    assert "goes on in it, which is slow here" in capsys.readouterr().out
    (resumed,) = Run.open(out).facts()["resumed"]
    assert resumed["step"] == 2
    assert resumed["device"] == "cpu"
    assert resumed.keys() >= {"versions", "hardware"}
    reopen(config, TokenStore.open(store), Run.open(out))
    assert len(Run.open(out).facts()["resumed"]) == 2


def test_a_resumed_run_says_where_its_layers_compute_by_other_functions(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, said = tmp_path / "run", "began with other functions in C"
    steps(TINY, store, out, 2)
    reopen(TINY, TokenStore.open(store), Run.open(out))
    assert said not in capsys.readouterr().out
    monkeypatch.setattr(Job, "in_c", "others")
    reopen(TINY, TokenStore.open(store), Run.open(out))
    assert said in capsys.readouterr().out


def test_a_damaged_line_of_the_metrics_is_named(store: Path, stopped: Path) -> None:
    file = stopped / "metrics.jsonl"
    lines = file.read_text().splitlines()
    for bad in ("{", "[]", "{}", '{"kind": "train", "step": null}', "\x00"):
        file.write_text("\n".join([lines[0], bad, *lines[1:]]) + "\n")
        with pytest.raises(ValueError, match=r"metrics\.jsonl, line 2 is damaged"):
            pretrain(TINY, store, stopped, resume=True)
    assert len(Run.open(stopped).checkpoints()) == 5


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"data": "torn', "\udcff"])
def test_damaged_facts_are_named(store: Path, stopped: Path, content: str) -> None:
    (stopped / "run.json").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=r"run\.json is damaged: "):
        pretrain(TINY, store, stopped, resume=True)
    (stopped / "run.json").unlink()
    with pytest.raises(ValueError, match=r"is not a run: it has no run\.json"):
        pretrain(TINY, store, stopped, resume=True)


@pytest.mark.parametrize("content", ["", "[1", "stepz: 3", "steps: -1", "model: 3", "- 1"])
def test_a_damaged_config_is_named(store: Path, stopped: Path, content: str) -> None:
    (stopped / "config.yaml").write_text(content)
    with pytest.raises(ValueError, match=r"config\.yaml(, line 1:| is damaged:) "):
        pretrain(TINY, store, stopped, resume=True)


def test_a_damaged_store_is_refused_before_there_is_a_run(store: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(store, tmp_path / "store")
    file = copied / "train" / "tokens.bin"
    content = bytearray(file.read_bytes())
    content[100] ^= 1
    file.write_bytes(content)
    with pytest.raises(ValueError, match=r"train/tokens\.bin is damaged: its SHA-256"):
        pretrain(TINY, copied, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_run_that_is_trained_is_not_trained_twice(store: Path, stopped: Path) -> None:
    with Run.open(stopped).lock(), pytest.raises(ValueError, match="another process trains it"):
        pretrain(TINY, store, stopped, resume=True)
    assert pretrain(TINY, store, stopped, resume=True) == 0


# --- what may change ----------------------------------------------------------------------------


CHANGES = {
    "seed": replace(TINY, seed=1),
    "batch_size": replace(TINY, batch_size=8),
    "micro_batch": replace(TINY, micro_batch=4),
    "precision": replace(TINY, precision="bf16"),
    "skip_spikes": replace(TINY, skip_spikes=False),
    "steps": replace(TINY, steps=20),
    "plan.retrain": replace(TINY, plan=replace(TINY.plan, retrain=0.4)),
    "schedule.lr": replace(TINY, schedule=replace(TINY.schedule, lr=2e-3)),
    "optimizer.beta1": replace(TINY, optimizer=OptimizerConfig(beta1=0.8)),
    "model.hidden_dropout_prob": replace(TINY, model=replace(TINY.model, hidden_dropout_prob=0.2)),
    "instances.mask_prob": replace(TINY, instances=InstanceConfig(mask_prob=0.2)),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_differs_is_refused_by_its_name_unless_that_is_allowed(
    store: Path, unbroken: Path, tmp_path: Path, name: str
) -> None:
    out = shutil.copytree(unbroken, tmp_path / "run")
    values = flatten(CHANGES[name].to_dict())
    with pytest.raises(ValueError, match=rf"^{name} is {values[name]}.*, but the run .* insists"):
        pretrain(CHANGES[name], store, out, resume=True)
    job, state = reopen(CHANGES[name], TokenStore.open(store), Run.open(out), [name, "seed"])
    assert flatten(job.config.to_dict())[name] == values[name]
    assert state.step == 10


def test_what_is_allowed_holds_from_then_on_and_is_written_down(store: Path, stopped: Path) -> None:
    config = replace(TINY, schedule=replace(TINY.schedule, lr=2e-3), micro_batch=4)
    allowed = ["schedule.lr", "micro_batch"]
    assert pretrain(config, store, stopped, resume=True, allow_change=allowed) == 0
    facts = Run.open(stopped).facts()
    assert facts["resumed"][-1]["changed"] == {"schedule.lr": [1e-3, 2e-3], "micro_batch": [2, 4]}
    assert facts["micro_batches"] == [4, 4, 4, 4]
    assert pretrain(config, store, stopped, resume=True) == 0


def test_a_name_that_is_none_is_not_allowed_to_change(store: Path, unbroken: Path) -> None:
    with pytest.raises(ValueError, match=r"no field schedule\.rl; did you mean schedule\.lr\?"):
        pretrain(TINY, store, unbroken, resume=True, allow_change=["schedule.rl"])


def test_weights_of_another_shape_are_never_taken_for_damaged(store: Path, stopped: Path) -> None:
    config = replace(TINY, model=replace(TINY.model, hidden_size=32))
    allowed = ["model.hidden_size", "model.intermediate_size"]
    before = sorted(os.listdir(stopped / "checkpoints"))
    with pytest.raises(ValueError, match="does not fit the model's config"):
        pretrain(config, store, stopped, resume=True, allow_change=allowed)
    assert sorted(os.listdir(stopped / "checkpoints")) == before


def test_another_tokenizer_and_another_store_are_refused_by_their_names(
    store: Path, stopped: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = prepared(tmp_path, vocab_size=120, seed=7)
    with pytest.raises(ValueError, match=r"the tokenizer in .*--allow_change tokenizer insists"):
        pretrain(TINY, other, stopped, resume=True)
    with pytest.raises(ValueError, match=r"the store in .*--allow_change store insists"):
        pretrain(TINY, other, stopped, resume=True, allow_change=["tokenizer"])
    assert pretrain(TINY, other, stopped, resume=True, allow_change=["tokenizer", "store"]) == 0
    opened, facts = TokenStore.open(other), Run.open(stopped).facts()
    assert facts["data"] == str(other)
    assert facts["text"] == opened.manifest["counts"]
    tokenizer = "tokenizer/tokenizer.json"
    assert (stopped / tokenizer).read_bytes() == (other / tokenizer).read_bytes()
    smaller = prepared(tmp_path, vocab_size=100, seed=7)
    with pytest.raises(ValueError, match=r"model\.vocab_size is 120, but the store's tokenizer"):
        pretrain(replace(TINY, model=Run.open(stopped).config.model), smaller, stopped, resume=True)


def prepared(folder: Path, vocab_size: int, seed: int) -> Path:
    """A store of other text."""
    file, out = folder / "text.txt", folder / f"store-{vocab_size}"
    file.write_text(text(60, seed), encoding="utf-8")
    prepare(
        [str(file)],
        out,
        PrepareConfig(vocab_size=vocab_size, heldout=0.1, workers=1),
        progress=False,
    )
    return out


SHORT = replace(
    TINY,
    plan=PlanConfig("mslt", k=2, shares=[4, 4, 2], seq_len=32),
    schedule=Schedule(lr=1e-3, warmup_steps=1, shape="constant"),
)
LONG = replace(SHORT, steps=14, plan=replace(SHORT.plan, shares=[4, 4, 6]))


def test_a_plan_that_becomes_longer_ends_as_if_it_always_had_been(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, whole = tmp_path / "run", tmp_path / "whole"
    assert pretrain(SHORT, store, out) == 0
    assert pretrain(LONG, store, out, resume=True) == 0
    assert "the plan is longer, 14 steps instead of 10" in capsys.readouterr().out
    assert pretrain(LONG, store, whole) == 0
    ours, theirs = (load_file(p / "stages/3-depth-4/model.safetensors") for p in (out, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert sorted(path.name for path in (out / "stages").iterdir()) == [
        *("1-depth-2", "2-depth-4", "3-depth-4", "3-depth-4.step-10")
    ]


def test_a_longer_plan_is_refused_where_it_changes_what_is_done(
    store: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert pretrain(SHORT, store, out) == 0
    shares = replace(LONG, plan=replace(LONG.plan, shares=[5, 3, 6]))
    with pytest.raises(ValueError, match="steps is 14, by which steps that are done would have"):
        pretrain(shares, store, out, resume=True)
    linear = replace(SHORT, schedule=replace(SHORT.schedule, shape="linear"))
    assert pretrain(linear, store, tmp_path / "linear") == 0
    longer = replace(linear, steps=14)
    with pytest.raises(ValueError, match="steps is 14, by which steps that are done would have"):
        pretrain(longer, store, tmp_path / "linear", resume=True)
    insists = {"resume": True, "allow_change": ["steps"]}
    assert pretrain(longer, store, tmp_path / "linear", **insists) == 0  # type: ignore[arg-type]
    assert Run.open(tmp_path / "linear").metrics()[-1]["step"] == 14


def test_a_plan_that_cannot_go_on_from_here_is_refused(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    steps(SHORT, store, out, 7)
    insists = {"resume": True, "allow_change": ["steps", "plan.shares"]}
    with pytest.raises(ValueError, match="steps is 6, but 7 are done already"):
        pretrain(replace(SHORT, steps=6), store, out, **insists)  # type: ignore[arg-type]
    later = replace(LONG, plan=replace(LONG.plan, shares=[9, 3, 2]))
    with pytest.raises(ValueError, match="step 7 has 2 layers, which the 4 that stand cannot"):
        pretrain(later, store, out, **insists)  # type: ignore[arg-type]


def test_a_resumed_run_keeps_the_micro_batches_that_it_began_with(
    store: Path, unbroken: Path
) -> None:
    facts = json.loads((unbroken / "run.json").read_text())
    (unbroken / "run.json").write_text(json.dumps({**facts, "micro_batches": [1, 1, 1, 1]}))
    job, _ = reopen(TINY, TokenStore.open(store), Run.open(unbroken))
    (unbroken / "run.json").write_text(json.dumps(facts))
    assert facts["micro_batches"] == [2, 2, 2, 2]
    assert job.micro_batches == (1, 1, 1, 1)
