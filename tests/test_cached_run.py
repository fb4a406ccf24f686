"""A run with a prefix cache ends as one that computes all, whatever becomes of the folder."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_run import final_weights, losses, steps

from mslt import records
from mslt.config import Config, InstanceConfig, ModelConfig, OptimizerConfig, PlanConfig
from mslt.data.store import TokenStore
from mslt.job import Job
from mslt.launch import pretrain
from mslt.records import opened
from mslt.schedule import Schedule

GROUP = 8  # sequences, of a batch of twelve
SIZE = GROUP * 32 * 16 * 2  # bytes of a record


@pytest.fixture(autouse=True)
def _groups_of_eight_on_a_small_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "SPARE", 0)
    monkeypatch.setattr("mslt.files.flush", lambda path: None)  # nobody pulls the plug here
    monkeypatch.setattr("mslt.job.PREFIX_TOKENS", GROUP * 32)


def cached(folder: Path, **changes: object) -> Config:
    """Two stages with fixed layers whose batches come again after four steps."""
    config = Config(
        steps=16,
        batch_size=12,
        micro_batch=4,
        seed=1,
        eval_every=0,
        eval_batches=1,
        save_every=1,
        keep=1,
        log_every=1,
        device="cpu",
        precision="fp32",
        prefix_cache=str(folder),
        model=ModelConfig(hidden_size=16, num_hidden_layers=3, num_attention_heads=2),
        plan=PlanConfig(method="mslt", k=3, shares=[2, 7, 6, 1], seq_len=32),
        schedule=Schedule(lr=1e-3, warmup_steps=3),
        optimizer=OptimizerConfig(name="adamw"),
        instances=InstanceConfig(dupe_factor=2),
    )
    return replace(config, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def computed(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run whose folder had room for nothing: every output was computed each time."""
    out = tmp_path_factory.mktemp("computed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mslt.job.PREFIX_TOKENS", GROUP * 32)
        assert pretrain(cached(out / "cache", prefix_cache_gb=1e-6), small, out / "run") == 0
    return out / "run"


def assert_same(run: Path, other: Path) -> None:
    assert losses(run) == losses(other)
    expected = final_weights(other)
    for name, tensor in final_weights(run).items():
        assert torch.equal(tensor, expected[name]), name


def said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    marker = "prefix cache: "
    lines = capsys.readouterr().out.splitlines()
    return [line.removeprefix(marker) for line in lines if line.startswith(marker)]


def test_what_these_tests_rely_on(small: Path) -> None:
    job = Job.prepare(cached(Path("unused")), TokenStore.open(small))
    assert [(s.depth, s.learns_from, s.steps) for s in job.plan.stages] == [
        *((1, 0, 2), (2, 1, 7), (3, 2, 6), (3, 0, 1))
    ]
    assert (job.instances.period(32), job.settings(1).group) == (4, GROUP)
    assert any((job.instances.batch(step, 32).lengths < 32).any() for step in range(4))


def test_reading_gives_the_losses_and_weights_of_computing(
    small: Path, computed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "cache"
    assert pretrain(cached(folder), small, tmp_path / "run") == 0
    assert_same(tmp_path / "run", computed)
    room = f"4 batches come again after 4 steps, {8 * SIZE / 1e9:.3g} GB"
    assert said(capsys) == [
        room,
        "6 groups of sequences read, 0 carried on from the layers below, 8 computed",
        f"{room}; 8 of 8 records are there already",
        "4 groups of sequences read, 8 carried on from the layers below, 0 computed",
    ]
    # The retraining reads nothing any more.
    assert [path.stat().st_size for path in folder.iterdir()] == [0, 0]


@pytest.mark.parametrize(
    ("stopped_at", "folder"),
    [(4, "kept"), (9, "kept"), (11, "kept"), (7, "lost"), (12, "lost"), (12, "damaged")],
)
def test_a_run_stopped_at_any_step_resumes_bit_for_bit(
    small: Path, computed: Path, tmp_path: Path, stopped_at: int, folder: str
) -> None:
    config = cached(tmp_path / "cache")
    steps(config, small, tmp_path / "run", stopped_at)
    kept = tmp_path / "cache" / "prefix-records.bin"
    if folder == "lost":
        shutil.rmtree(tmp_path / "cache")
    if folder == "damaged":
        data = kept.read_bytes()
        kept.write_bytes(data[: SIZE + 9] + b"?" + data[SIZE + 10 :])
    assert pretrain(config, small, tmp_path / "run", resume=True) == 0
    assert_same(tmp_path / "run", computed)


def test_a_folder_that_another_run_left_is_used_anew(
    small: Path, computed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = cached(tmp_path / "cache")
    steps(replace(config, seed=2), small, tmp_path / "other", 8)
    said(capsys)
    assert pretrain(config, small, tmp_path / "run") == 0
    assert_same(tmp_path / "run", computed)
    assert "; 8 of other weights or settings will be replaced" in said(capsys)[0]


def test_a_resumed_run_may_change_the_folder_and_its_bound_but_not_go_without(
    small: Path, computed: Path, tmp_path: Path
) -> None:
    config, out = cached(tmp_path / "cache"), tmp_path / "run"
    steps(config, small, out, 7)
    with pytest.raises(ValueError, match=r"^prefix_cache is None, but the run .* with .*/cache"):
        pretrain(replace(config, prefix_cache=None), small, out, resume=True)
    other = cached(tmp_path / "elsewhere", prefix_cache_gb=3 * (SIZE + 20) / 1e9)
    assert pretrain(other, small, out, resume=True) == 0
    assert_same(out, computed)


def test_a_run_that_began_without_a_cache_goes_on_without(small: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    steps(cached(tmp_path / "cache", prefix_cache=None), small, out, 3)
    with pytest.raises(ValueError, match=r"^prefix_cache is .*/cache, but the run .* with None"):
        pretrain(cached(tmp_path / "cache"), small, out, resume=True)


def test_what_is_kept_has_no_dropout_and_what_learns_has(small: Path) -> None:
    for precision, prefix, kind in (
        *(("fp32", "exact", "fp32"), ("fp32", "bf16", "bf16")),
        *(("bf16", "exact", "bf16"), ("bf16", "fp32", "fp32")),
    ):
        config = cached(Path("unused"), precision=precision, prefix=prefix)
        assert Job.prepare(config, TokenStore.open(small)).prefix == kind
    bare = cached(Path("unused"), prefix_cache=None)
    assert Job.prepare(bare, TokenStore.open(small)).prefix == "exact"


def test_a_cache_of_which_nothing_would_be_read_is_refused(small: Path, tmp_path: Path) -> None:
    config = cached(tmp_path / "cache", instances=InstanceConfig(dupe_factor=7))
    with pytest.raises(
        ValueError,
        match=r"^prefix_cache has no effect: layers are fixed for 13 steps, and batches come "
        r"again after 13 \(instances\.dupe_factor\)",
    ):
        pretrain(config, small, tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_in_use_is_refused(small: Path, tmp_path: Path) -> None:
    config = cached(tmp_path / "cache")
    with (
        opened(tmp_path / "cache", 1.0),
        pytest.raises(ValueError, match="cache is in use: another run caches in it"),
    ):
        pretrain(config, small, tmp_path / "run")
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"):
        pretrain(replace(config, prefix_cache=str(tmp_path / "file")), small, tmp_path / "run")
    assert not (tmp_path / "run").exists()
