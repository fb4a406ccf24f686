"""A step that is not accepted leaves no trace; broken numbers are met before they do harm."""

import math
import random
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_run import TINY, final_weights, losses, start, steps
from torch import Tensor

from mslt import objective
from mslt.config import OptimizerConfig
from mslt.console import Console
from mslt.data.instances import Batch, Instances
from mslt.guard import FEWEST, PATIENCE, WINDOW, Diverged, Guard, Watch
from mslt.launch import pretrain
from mslt.model import Encoder
from mslt.pretrain import train
from mslt.run import Run
from mslt.trainer import Settings, Trainer

PLAIN = Settings(OptimizerConfig("lamb"), "fp32", micro_batch=4, pair=True, seed=7)


def everything(trainer: Trainer) -> dict[str, Tensor]:
    """Weights, moments and counts of a trainer, as copies."""
    found = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    for name, moment in trainer.moments().items():
        found |= {f"{name}/mean": moment.mean.clone(), f"{name}/square": moment.square.clone()}
        found[f"{name}/updates"] = torch.tensor(moment.updates)
    return found


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_that_is_not_accepted_leaves_no_trace(tiny, random_batch, monkeypatch, precision):
    """Even one whose gradients are NaN: the run goes on as if it had not been."""
    one, other = (
        Trainer(Encoder(tiny, 2), replace(PLAIN, precision=precision), {}) for _ in range(2)
    )
    for trainer in (one, other):
        trainer.step(0, random_batch(0), 1e-2)
    before = everything(one)
    with monkeypatch.context() as patch:
        real = objective.losses
        patch.setattr(objective, "losses", lambda *a, **k: [x * torch.nan for x in real(*a, **k)])
        seen: list[dict[str, float]] = []
        one.step(1, random_batch(1), 1e-2, accept=lambda values: bool(seen.append(values)))
    assert all(value != value for value in seen[0].values())
    assert seen[0].keys() == {"mlm_loss", "pair_loss", "grad_norm"}
    after = everything(one)
    assert all(torch.equal(before[name], after[name]) for name in before)
    for trainer in (one, other):
        trainer.step(2, random_batch(2), 1e-2)
    ours, theirs = everything(one), everything(other)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


# --- what is refused ----------------------------------------------------------------------------


def values(loss: float = 5.0, norm: float = 1.0) -> dict[str, float]:
    return {"mlm_loss": loss, "pair_loss": 0.7, "grad_norm": norm}


def noise(count: int, seed: int = 0) -> list[dict[str, float]]:
    """Of a healthy run: a loss that falls, within 0.1 nats, and norms within a tenth."""
    draw = random.Random(seed)
    return [
        values(5 - i / 1000 + draw.gauss(0, 0.1), math.exp(draw.gauss(0, 0.1)))
        for i in range(count)
    ]


def warm(count: int = WINDOW, *, spikes: bool = True) -> Guard:
    guard = Guard(Watch(), spikes=spikes)
    assert all(guard.accept(numbers) for numbers in noise(count))
    return guard


@pytest.mark.parametrize("spikes", [False, True])
@pytest.mark.parametrize("broken", [values(loss=math.nan), values(norm=math.inf)])
def test_a_number_that_is_not_finite_is_refused_and_remembered_nowhere(
    broken: dict[str, float], spikes: bool
) -> None:
    guard = warm(spikes=spikes)
    before = guard.watch
    assert not guard.accept(broken)
    assert guard.reason in ("mlm_loss is nan", "grad_norm is inf")
    assert guard.watch == replace(before, refused=1)
    assert guard.accept(values())
    assert guard.reason == ""
    assert guard.watch.refused == 0


def test_noise_is_no_spike() -> None:
    for seed in range(20):
        guard = Guard(Watch(), spikes=True)
        assert all(guard.accept(numbers) for numbers in noise(500, seed))


@pytest.mark.parametrize("spike", [values(loss=6.5), values(norm=4.0)])
def test_a_spike_is_refused_and_never_measured_against(spike: dict[str, float]) -> None:
    guard = warm()
    before = guard.watch.recent
    assert not guard.accept(spike)
    assert "a spike above the usual" in guard.reason
    assert guard.watch.recent == before
    assert not guard.lost
    assert warm(spikes=False).accept(spike)


def test_what_is_low_is_no_spike() -> None:
    assert warm().accept(values(loss=1.0, norm=0.001))


def test_a_jump_at_the_beginning_of_a_stage_is_no_spike() -> None:
    guard = warm()
    guard.enter_stage()
    assert guard.accept(values(loss=9.0, norm=50.0))
    assert len(guard.watch.recent) == 1


def test_nothing_is_a_spike_before_there_is_enough_to_compare_with() -> None:
    assert warm(FEWEST - 1).accept(values(loss=50.0))
    assert not warm(FEWEST).accept(values(loss=50.0))


def test_several_spikes_in_a_row_are_how_it_is_now() -> None:
    guard = warm()
    higher = [{**n, "mlm_loss": n["mlm_loss"] + 3} for n in noise(WINDOW)]
    taken = [guard.accept(numbers) for numbers in higher]
    assert taken == [False] * PATIENCE + [True] * (WINDOW - PATIENCE)
    assert not guard.lost


def test_the_run_is_lost_after_several_broken_numbers_in_a_row() -> None:
    guard = warm()
    lost = []
    for _ in range(PATIENCE):
        guard.accept(values(loss=math.nan))
        lost.append(guard.lost)
    assert lost == [False] * (PATIENCE - 1) + [True]


# --- in a run -----------------------------------------------------------------------------------


@pytest.fixture
def poison(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Make the batches of these numbers give NaN; 0 is left to the held-out text."""
    real = Instances.batch

    def poisoned(*numbers: int) -> None:
        def batch(self: Instances, number: int, *rest: Any) -> Batch:
            good = real(self, number, *rest)
            bad = number in numbers
            return replace(good, masked_weights=good.masked_weights * math.nan) if bad else good

        monkeypatch.setattr(Instances, "batch", batch)

    return poisoned


def same_end(one: Path, other: Path) -> None:
    ours, theirs = final_weights(one), final_weights(other)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("broken", [1, 3, 6])
def test_a_step_that_is_passed_over_changes_nothing_and_is_told(
    store: Path,
    tmp_path: Path,
    poison: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    broken: int,
) -> None:
    poison(broken)
    job, state, run = start(TINY, store, tmp_path / "run")
    first = state.model.state_dict()
    seen = [{name: tensor.clone() for name, tensor in first.items()}]
    for done in train(job, state, run, Console(job.plan, TINY.batch_size)):
        seen.append({n: t.clone() for n, t in done.trainer.model.state_dict().items()})
    same = [
        all(torch.equal(after[name], before[name]) for name in before)
        for before, after in pairwise(seen)
    ]
    assert same == [step == broken for step in range(10)]
    skipped = [line for line in run.metrics() if line["kind"] == "skipped"]
    assert [(line["step"], line["reason"]) for line in skipped] == [(broken + 1, "mlm_loss is nan")]
    assert f"step {broken + 1} is passed over: mlm_loss is nan" in capsys.readouterr().out
    trained = [line["step"] for line in run.metrics() if line["kind"] == "train"]
    assert trained == [step for step in range(1, 11) if step != broken + 1]


def test_a_run_whose_data_is_broken_for_a_while_goes_back_and_passes_over_it(
    store: Path, tmp_path: Path, poison: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It ends as if those batches had never been in the data, wherever it is stopped."""
    poison(*range(5, 10))
    out = tmp_path / "run"
    config = replace(TINY, save_every=3)
    assert pretrain(config, store, out) == 0
    [back] = [line for line in Run.open(out).metrics() if line["kind"] == "back"]
    assert (back["step"], back["from"], back["passed_over"]) == (4, 10, 6)  # a stage had ended
    aside = sorted(path.name for path in (out / "checkpoints").glob("*.abandoned"))
    assert aside == [f"step-0000000{step}.abandoned" for step in (6, 8, 9)]
    for stopped_at in (6, 8, 12):
        again = tmp_path / str(stopped_at)
        steps(config, store, again, stopped_at)
        assert pretrain(config, store, again, resume=True) == 0
        assert losses(again) == losses(out)
        same_end(again, out)
    monkeypatch.undo()
    real = Instances.batch

    def without(self: Instances, number: int, *rest: Any) -> Batch:
        return real(self, number if number < 4 else number + 6, *rest)

    monkeypatch.setattr(Instances, "batch", without)
    job, state, run = start(config, store, tmp_path / "clean")
    for _ in train(job, state, run, Console(job.plan, TINY.batch_size, quiet=True)):
        pass
    same_end(out, tmp_path / "clean")


def test_a_run_that_breaks_again_after_going_back_stops_and_names_its_data(
    store: Path, tmp_path: Path, poison: Callable[..., None]
) -> None:
    poison(*range(3, 100))
    with pytest.raises(Diverged) as error:
        pretrain(TINY, store, tmp_path / "run")
    assert "mlm_loss is nan at step 8: training has diverged again" in str(error.value)
    assert "the last batch was number 12, instances 48 to 51" in str(error.value)
    newest = Run.open(tmp_path / "run").latest()
    assert newest is not None
    assert all(torch.isfinite(tensor).all() for tensor in newest.model.state_dict().values())


def test_what_the_guard_remembers_is_resumed_with_the_run(store: Path, tmp_path: Path) -> None:
    done = steps(TINY, store, tmp_path / "run", 6)
    saved = Run.open(tmp_path / "run").latest()
    assert saved is not None
    assert saved.watch == done[-1].watch
    assert [len(d.watch.recent) for d in done] == [1, 2, 3, 4, 1, 2]  # anew in each stage
