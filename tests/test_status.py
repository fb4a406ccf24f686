"""The view of a run, and the time that is left by the plan's own rates."""

import re

import pytest
from made_up_run import CONFIG

from mslt.forecast import Forecast, work
from mslt.plan import Plan, Stage
from mslt.status import Remaining, Status, bar, view

PLAN = CONFIG.stages()  # 400 steps of 2 layers, 400 of 4 with the top 2 learning, 200 of all 4
COSTS = (2 + 4, 4 + 4, 4 + 8)  # of a step in each stage: forward 1, backward 2 for each layer
MIDDLE = Status(PLAN, 480, 2.3456, 2.4567, 12345.6, 412_000_000, (64.0, 200.0))


def truth(plan: Plan, step: int) -> float:
    """Seconds after `step` steps where a step takes a tenth of its cost."""
    ends, starts = plan.ends, (0, *plan.ends)
    done = [max(0, min(step, end) - start) for start, end in zip(starts, ends)]
    return sum(cost / 10 * steps for cost, steps in zip(COSTS, done))


@pytest.mark.parametrize("index", [0, 1, 2])
def test_the_time_left_is_exact_where_stages_compare_as_was_foretold(index: int) -> None:
    left, begin, end = Remaining(PLAN, COSTS), (0, *PLAN.ends)[index], PLAN.ends[index]
    left.enter(index)
    for step in (begin + 10, begin + 20, begin + 110, end - 1):
        left.see(step, truth(PLAN, step))
        stage, run = left.after(step) or (0, 0)
        assert stage == pytest.approx(truth(PLAN, end) - truth(PLAN, step))
        assert run == pytest.approx(truth(PLAN, PLAN.steps) - truth(PLAN, step))


def test_the_rate_is_that_of_the_stage_and_not_the_mean_so_far() -> None:
    left = Remaining(PLAN, COSTS)
    left.enter(0)
    left.see(10, 9.0)
    left.enter(1)
    left.see(410, 400.0)
    left.see(500, 400.0 + 90 * 0.3)
    assert left.after(500) == pytest.approx((300 * 0.3, 300 * 0.3 + 200 * 0.3 * 12 / 8))
    assert left.after(510) == pytest.approx((290 * 0.3, 290 * 0.3 + 200 * 0.3 * 12 / 8))


def test_a_stage_begins_at_the_rate_that_was_seen_last() -> None:
    left = Remaining(PLAN, COSTS)
    left.enter(0)
    left.see(10, 30.0)  # a slow start
    left.see(400, 30.0 + 390 * 0.6)
    rate = 0.6 * COSTS[1] / COSTS[0]
    assert (left.after(400) or (0,))[0] == pytest.approx(400 * rate)  # of the next stage
    left.enter(1)
    left.see(410, 300.0)
    assert (left.after(410) or (0,))[0] == pytest.approx(390 * rate)


def test_what_is_left_is_unknown_before_anything_was_seen_and_none_at_the_end() -> None:
    left = Remaining(PLAN, COSTS)
    left.enter(2)
    assert left.after(800) is None
    left.see(1000, 100.0)
    assert left.after(1000) == (0.0, 0.0)


def test_without_a_forecast_stages_compare_by_their_arithmetic() -> None:
    costs = Remaining.of(CONFIG, PLAN, None).costs
    assert list(costs) == [work(CONFIG, stage) for stage in PLAN.stages]
    assert Remaining.of(CONFIG, PLAN, Forecast("x", (1.0, 2.0, 3.0))).costs == (1.0, 2.0, 3.0)


@pytest.mark.parametrize("width", [20, 40, 60, 80, 120])
def test_the_view_fits_its_width_and_says_the_most_important_first(width: int) -> None:
    stage, whole, last = view(MIDDLE, width)
    assert max(map(len, (stage, whole, last))) <= width
    assert stage.startswith("stage 2 of 3")
    assert last.startswith("loss 2.346"[:width])
    if width >= 60:
        assert re.search(r"━+─+   20 %     80/400   64 s left$", stage)
        assert re.search(r"48 %  480/1,000  3 min left$", whole)
        assert "· 12,346 tokens/s" in last
    assert ("all learn" in last or "the top 2 learn" in last) == (width >= 100)


def test_a_run_that_has_ended_says_so_and_has_no_time_left() -> None:
    stage, whole, last = view(Status(PLAN, 1000, 2.3, left=(0.0, 0.0), ended="finished"), 80)
    assert stage.startswith("stage 3 of 3")
    assert "100 %" in whole
    assert "left" not in stage + whole
    assert last.startswith("finished · loss 2.300")


def test_what_is_not_known_is_left_out() -> None:
    stage, whole, last = view(Status(PLAN, 0), 80)
    assert "left" not in stage + whole
    assert last == "2 layers, all learn, length 32"


def test_a_bar_shows_where_stages_end() -> None:
    assert bar(0.5, 10) == "━━━━━─────"
    assert bar(0.0, 4, edges=(0.5,)) == "──┼─"
    assert bar(1.0, 4, edges=(0.99,)) == "━━━┼"


def test_time_passes_without_news_and_never_below_none() -> None:
    assert MIDDLE.later(4.0).left == (60.0, 196.0)
    assert MIDDLE.later(100.0).left == (0.0, 100.0)
    assert Status(PLAN, 3).later(5.0).left is None


def test_a_stage_of_longer_sequences_is_one_more_stage() -> None:
    plan = Plan((Stage(2, steps=100, seq_len=16), Stage(2, steps=100, seq_len=32)))
    assert view(Status(plan, 150), 80)[0].startswith("stage 2 of 2")
