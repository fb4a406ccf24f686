"""The learning rate as a pure function of the step."""

import math

import pytest

from mslt.plan import Plan, Stage
from mslt.schedule import Schedule

SHAPES = ("linear", "wsd", "constant")


def rates(schedule: Schedule, steps: int) -> list[float]:
    return [schedule.at(step, steps) for step in range(steps)]


def test_linear_warms_up_and_falls_to_zero_at_the_end():
    schedule = Schedule(lr=36.0, warmup_steps=4, shape="linear")
    assert rates(schedule, 40) == [9, 18, 27, 36, *range(36, 0, -1)]
    assert schedule.at(40, 40) == 0


def test_wsd_warms_up_stays_and_falls_to_zero_over_the_last_part():
    schedule = Schedule(lr=4.0, warmup_steps=2, shape="wsd", decay_share=0.2)
    assert rates(schedule, 20) == [2] + [4] * 16 + [3, 2, 1]
    assert schedule.at(20, 20) == 0


def test_wsd_decays_over_a_fifth_unless_told_otherwise():
    assert rates(Schedule(lr=2.0, warmup_steps=0, shape="wsd"), 10) == [2] * 9 + [1]


def test_the_decay_of_wsd_does_not_reach_into_the_warm_up():
    schedule = Schedule(lr=36.0, warmup_steps=4, shape="wsd", decay_share=1.0)
    assert rates(schedule, 40) == [9, 18, 27, 36, *range(36, 0, -1)]


def test_constant_warms_up_and_stays():
    assert rates(Schedule(lr=2.0, warmup_steps=2, shape="constant"), 20) == [1] + [2] * 19


def test_the_paper_warms_up_for_10_000_steps_to_0_00088():
    schedule = Schedule()
    assert schedule.at(0, 1_000_000) == 0.00088 / 10_000
    assert schedule.at(9_999, 1_000_000) == schedule.at(10_000, 1_000_000) == 0.00088
    assert schedule.at(505_000, 1_000_000) == pytest.approx(0.00044, rel=1e-15)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("steps", [4, 40, 399])
def test_the_warm_up_takes_at_most_a_tenth_of_the_span(shape, steps):
    schedule = Schedule(lr=4.0, warmup_steps=1000, shape=shape)
    assert schedule.warmup(steps) == steps // 10
    assert max(rates(schedule, steps)[: steps // 10 + 1]) == 4.0


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("warmup_steps", [0, 1, 7, 50])
@pytest.mark.parametrize("steps", [1, 2, 7, 8, 49, 97])
def test_every_step_learns_at_most_at_the_peak(shape, warmup_steps, steps):
    schedule = Schedule(lr=0.3, warmup_steps=warmup_steps, shape=shape)
    values = rates(schedule, steps)
    assert all(0 < value <= 0.3 for value in values)
    assert max(values) == 0.3
    peak = values.index(0.3)
    assert values[: peak + 1] == sorted(values[: peak + 1])
    assert values[peak:] == sorted(values[peak:], reverse=True)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_rate_depends_on_the_step_alone_and_not_on_what_was_asked_before(shape):
    schedule = Schedule(lr=0.3, warmup_steps=3, shape=shape)
    backwards = [schedule.at(step, 20) for step in reversed(range(20))]
    assert rates(schedule, 20) == backwards[::-1]


STAGES = (Stage(1, steps=3), Stage(2, 1, steps=5), Stage(2, 0, steps=4))


@pytest.mark.parametrize("shape", SHAPES)
def test_one_schedule_spans_the_whole_plan_by_default(shape):
    schedule = Schedule(lr=0.3, warmup_steps=2, shape=shape)
    plan = Plan(STAGES, schedule)
    assert [plan.lr(step) for step in range(12)] == rates(schedule, 12)


@pytest.mark.parametrize("shape", SHAPES)
def test_per_stage_every_stage_starts_afresh_with_its_own_warm_up(shape):
    schedule = Schedule(lr=0.3, warmup_steps=2, shape=shape, per_stage=True)
    plan = Plan(STAGES, schedule)
    expected = rates(schedule, 3) + rates(schedule, 5) + rates(schedule, 4)
    assert [plan.lr(step) for step in range(12)] == expected


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("lr", 0.0),
        ("lr", -1e-3),
        ("lr", math.inf),
        ("lr", math.nan),
        ("warmup_steps", -1),
        ("shape", "cosine"),
        ("decay_share", 0.0),
        ("decay_share", 1.5),
        ("decay_share", math.nan),
    ],
)
def test_a_wrong_value_is_refused_by_its_key(key, value):
    with pytest.raises(ValueError, match=rf"^schedule\.{key} must be "):
        Schedule(**{"shape": "wsd", key: value})


@pytest.mark.parametrize("shape", ["linear", "constant"])
def test_a_decay_share_without_effect_is_refused(shape):
    with pytest.raises(ValueError, match=r"^schedule\.decay_share has no effect"):
        Schedule(shape=shape, decay_share=0.2)
