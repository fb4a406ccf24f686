"""A forecast is kept with a run, made for its stages and no others, and compared with what came."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from made_up_run import CONFIG

from mslt.forecast import Forecast, extrapolated, stage_seconds, verdict, work
from mslt.plan import Stage

PLAN = CONFIG.stages()  # 400 steps of 2 layers, 400 of 4 with the top 2 learning, 200 of all 4
GIVEN = Forecast("a guess", (0.1, 0.2, 0.4), evaluation=2.0)


def written(path: Path, **other: object) -> Path:
    stages = [asdict(stage) | {"seconds": 1.0} for stage in PLAN.stages]
    content = {"batch_size": 8, "stages": stages, "forecast": GIVEN.to_dict()} | other
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def test_the_steps_of_all_stages_add_up() -> None:
    assert GIVEN.training(PLAN) == pytest.approx(400 * 0.1 + 400 * 0.2 + 200 * 0.4)


def test_run_json_gives_back_what_was_kept_in_it() -> None:
    assert Forecast.of_run({"forecast": json.loads(json.dumps(GIVEN.to_dict()))}, PLAN) == GIVEN
    assert Forecast.of_run({}, PLAN) is None


def test_a_forecast_for_another_number_of_stages_is_none() -> None:
    longer = replace(PLAN, stages=(*PLAN.stages, Stage(4, 0, 10, 48)))
    assert Forecast.of_run({"forecast": GIVEN.to_dict()}, longer) is None


@pytest.mark.parametrize(
    ("values", "says"),
    [({"by": 3}, "by is 3"), ({"by": "x", "seconds": ["1"]}, "seconds is"), ([], "no object")],
)
def test_a_damaged_forecast_is_named(values: object, says: str) -> None:
    with pytest.raises(ValueError, match=f"forecast in run.json is damaged: .*{says}"):
        Forecast.of_run({"forecast": values}, PLAN)


def test_a_file_of_mslt_plan_is_read_for_the_run_that_it_was_made_for(tmp_path: Path) -> None:
    path = written(tmp_path / "plan.json")
    assert Forecast.read(path, CONFIG) == GIVEN
    with pytest.raises(ValueError, match="made for other stages"):
        Forecast.read(path, replace(CONFIG, steps=1001))
    with pytest.raises(ValueError, match="made for a batch_size of 8"):
        Forecast.read(path, replace(CONFIG, batch_size=16))
    with pytest.raises(ValueError, match=r"plan.json is damaged: stages is None"):
        Forecast.read(written(path, stages=None), CONFIG)


def test_what_one_stage_takes_tells_the_others_by_their_arithmetic() -> None:
    found = extrapolated(CONFIG, PLAN, 0.5, "the first steps")
    assert found.seconds[0] == 0.5
    for seconds, stage in zip(found.seconds, PLAN.stages):
        assert seconds / 0.5 == pytest.approx(work(CONFIG, stage) / work(CONFIG, PLAN.stages[0]))
    by_second = extrapolated(CONFIG, PLAN, found.seconds[1], "its steps", index=1)
    assert by_second.seconds == pytest.approx(found.seconds)


def test_fast_forward_only_layers_are_reckoned_as_less_work() -> None:
    fast, fixed = replace(CONFIG, prefix="fast"), PLAN.stages[1]
    assert work(fast, fixed) < work(CONFIG, fixed)
    assert work(fast, PLAN.stages[0]) == work(CONFIG, PLAN.stages[0])


def test_a_stage_took_what_lies_between_the_evaluations_at_the_ends() -> None:
    lines = [{"step": 100, "seconds": 9.0}, {"step": 400, "seconds": 40.0}]
    assert stage_seconds(PLAN, lines) == [40.0]
    assert stage_seconds(PLAN, [*lines, {"step": 800, "seconds": 130.0}]) == [40.0, 90.0]


def test_the_verdict_gives_the_total_and_the_stage_that_was_furthest_off() -> None:
    assert verdict(GIVEN, PLAN, [42.0, 80.0, 60.0]) == (
        "predicted 200.0 s of training by a guess: took 9.0% less; "
        "furthest off in stage 3, 25.0% less"
    )
    whole = replace(PLAN, stages=PLAN.stages[-1:])
    assert verdict(Forecast("x", (0.4,)), whole, [100.0]).endswith("by x: took 25.0% more")
