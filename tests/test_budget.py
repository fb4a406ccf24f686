"""The same time for several plans: steps by the seconds per step of their stages."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_run import TINY, steps

from mslt import budget
from mslt.config import PlanConfig
from mslt.data.store import TokenStore
from mslt.run import Clock
from mslt.trainer import Trainer
from mslt.world import World

WHOLE = replace(
    TINY, steps=60, eval_every=0, save_every=60, plan=PlanConfig(method="whole", seq_len=32)
)
STACKING = replace(WHOLE, plan=PlanConfig(method="stacking", k=2, seq_len=32))
MSLT = replace(WHOLE, plan=PlanConfig(method="mslt", k=2, retrain=0.2, seq_len=32))
PLANS = {"whole": WHOLE, "stacking": STACKING, "mslt": MSLT}


@contextmanager
def simulated_clock() -> Iterator[None]:
    """A step takes a second for each forward pass of a layer, and two for its backward pass."""
    now = [0.0]
    step = Trainer.step

    def slow(trainer: Trainer, *args, **kwargs):
        learns = trainer.model.depth - trainer.prefix.layers
        now[0] += trainer.prefix.layers + 3 * learns
        return step(trainer, *args, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "step", slow)
        patch.setattr(Clock, "_now", lambda clock: now[0])
        yield


@pytest.fixture(scope="module")
def compared(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison whose plans have all been trained for 60 steps."""
    out = tmp_path_factory.mktemp("compared")
    with simulated_clock():
        for name, config in PLANS.items():
            steps(config, store, out / "runs" / f"{name}-seed0", config.steps)
    return out


def test_every_stage_is_timed_on_a_model_that_is_thrown_away(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(budget, "PROBES", 1)
    monkeypatch.setattr(budget, "PROBE_STEPS", 3)
    plans = {"whole": WHOLE, "mslt": MSLT}
    with simulated_clock():
        rates = budget.timed(plans, TokenStore.open(store), World(), tmp_path / "probe")
    assert rates == {"whole": [12.0], "mslt": [6.0, 8.0, 12.0]}
    assert not any(tmp_path.iterdir())


def test_plans_take_the_time_of_the_fastest_within_a_few_per_cent(
    store: Path, compared: Path, tmp_path: Path
) -> None:
    rates = budget.timed_by(PLANS, compared)
    assert rates == {"whole": [12.0], "stacking": [6.0, 12.0], "mslt": [6.0, 8.0, 12.0]}
    configs = budget.in_equal_time(PLANS, rates)
    assert {name: config.steps for name, config in configs.items()} == {
        "mslt": 60,  # 24 * 6 + 24 * 8 + 12 * 12 seconds are 480
        "whole": 40,
        "stacking": 47,  # 0.3 * 6 + 0.7 * 12 seconds a step
    }
    with simulated_clock():
        for name, config in configs.items():
            last = steps(config, store, tmp_path / name, config.steps)[-1]
            assert abs(last.clock.seconds / 480 - 1) < 0.02, name
            assert config.stages().lr(config.steps - 1) < 0.05 * config.schedule.lr


def test_a_comparison_tells_the_time_of_runs_that_differ_in_steps_and_seed_alone(
    compared: Path,
) -> None:
    shorter = {name: replace(config, steps=30, seed=3) for name, config in PLANS.items()}
    assert budget.timed_by(shorter, compared) == budget.timed_by(PLANS, compared)
    with pytest.raises(ValueError, match="no finished run of early"):
        budget.timed_by({"early": MSLT}, compared)
    with pytest.raises(ValueError, match=r"batch_size is 8 in mslt, but 4 in .*mslt-seed0"):
        budget.timed_by({"mslt": replace(MSLT, batch_size=8)}, compared)


def test_a_time_that_is_too_short_names_the_plan() -> None:
    plans = {"whole": replace(WHOLE, steps=1), "mslt": MSLT}
    with pytest.raises(ValueError, match="mslt: 2 steps are too few for 3 stages"):
        budget.in_equal_time(plans, {"whole": [12.0], "mslt": [6.0, 8.0, 12.0]})
