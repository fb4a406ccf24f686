"""What finished runs took and reached, over seeds."""

from dataclasses import replace
from pathlib import Path

import pytest
from made_up_run import CONFIG, end_stages, new_run, trained_model

from mslt.analysis.results import (
    Result,
    Spread,
    by_plan,
    finished,
    inside_noise,
    inside_range,
    plan_and_seed,
    reference,
    scores_of,
    tokens_at,
)
from mslt.plan import build_plan


def result(plan: str = "mslt", seed: int = 0, method: str = "mslt", **values) -> Result:
    stages = build_plan(method, 12, 1000)
    numbers = {"tokens": 1000, "seconds": 10.0, "loss": 2.0, "baseline": 3.0, "parameters": 9}
    return Result(plan, seed, stages, **{**numbers, "curve": (), **values})


def test_a_spread_is_a_median_and_a_range() -> None:
    spread = Spread((3.0, 1.0, 2.5))
    assert (spread.median, spread.low, spread.high) == (2.5, 1.0, 3.0)
    assert Spread((1.0, 2.0)).median == 1.5


@pytest.mark.parametrize(
    ("differences", "noise"),
    [
        ([0.5], None),  # one seed says nothing about noise
        ([0.1, 0.2, -0.1], True),  # not one sign
        ([0.1, 0.12, 0.11], False),
        ([-0.1, -0.12, -0.11], False),
        ([0.1, 0.3, 0.2], False),  # spreads by as much as its median
        ([0.1, 0.4, 0.2], True),  # spreads by more
        ([0.0, 0.0], True),
    ],
)
def test_a_difference_of_one_sign_that_spreads_little_is_no_noise(differences, noise) -> None:
    assert inside_noise(differences) is noise


@pytest.mark.parametrize(
    ("difference", "sides", "noise"),
    [
        (1.0, [(60.0, 61.0), (61.0, 62.0)], True),  # as much as a side's range
        (-1.5, [(60.0, 61.0), (61.0, 62.0)], False),
        (1.5, [(60.0, 61.0), (61.0, 63.0)], True),  # either side counts
        (9.0, [(60.0, None), (61.0, 62.0)], None),
        (9.0, [(60.0,), (61.0, 62.0)], None),
        (9.0, [(), ()], None),
    ],
)
def test_medians_that_differ_by_less_than_their_seeds_may_be_equal(difference, sides, noise):
    assert inside_range(difference, sides) is noise


def test_a_result_is_what_a_finished_runs_folder_tells(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    run = new_run(tmp_path / "runs" / "mine-seed3", replace(CONFIG, seed=3))
    end_stages(run, 2)
    assert finished(run.path) is None
    end_stages(run, 3)
    found = finished(run.path)
    assert found is not None
    assert (found.plan, found.seed, found.loss, found.seconds) == ("mine", 3, 1.5, 100.0)
    assert found.tokens == 1000 * 8 * 32
    assert found.baseline == 2.5
    assert found.curve[-1] == (1000, 100.0, 1.5)
    assert found.parameters == sum(p.numel() for p in trained_model(4).parameters())


def test_scores_are_read_from_the_runs_folder_by_the_papers_columns(tmp_path: Path) -> None:
    assert scores_of(tmp_path) == ({}, {})
    file = tmp_path / "scores.json"
    file.write_text('{"MNLI": 84.3, "SQuAD1.1 F1": 89, "CoLA": -1.5}')
    assert scores_of(tmp_path) == ({"MNLI": 84.3, "SQuAD1.1 F1": 89, "CoLA": -1.5}, {})
    file.write_text('{"MNLI": 84.3, "RTE": 61.2, "seeds": {"RTE": [66.1, null, 61.2]}}')
    assert scores_of(tmp_path) == ({"MNLI": 84.3, "RTE": 61.2}, {"RTE": [66.1, None, 61.2]})
    for text, says in (
        ('{"mnli": 84.3}', "scores.json: mnli is no column of the paper's tables: MNLI, QQP"),
        ('{"MNLI": 843}', "scores.json: MNLI must be a score in percent, not 843"),
        ('{"MNLI": "84"}', "scores.json: MNLI must be a score in percent, not '84'"),
        ("[1]", "scores.json is damaged: it is no object"),
        ('{"seeds": [1]}', "scores.json: seeds must hold a list of scores for each column"),
        ('{"RTE": 1, "seeds": {"RTE": 1}}', "seeds must hold a list of scores for each column"),
        ('{"RTE": 1, "seeds": {"RTE": [843]}}', "RTE must be a score in percent, not 843"),
        ('{"RTE": 5, "seeds": {"RTE": [1, 2, 9]}}', "RTE is not the median of its seeds, 2.0"),
        ('{"seeds": {"RTE": [1, 2, 9]}}', "RTE is not the median of its seeds, 2.0"),
        ('{"RTE": 5, "seeds": {"RTE": []}}', "RTE is not the median of its seeds"),
    ):
        file.write_text(text)
        with pytest.raises(ValueError, match=says):
            scores_of(tmp_path)


def test_a_runs_name_tells_plan_and_seed() -> None:
    assert plan_and_seed(Path("runs/early-seed12")) == ("early", 12)
    assert plan_and_seed(Path("runs/a-seed1-seed2")) == ("a-seed1", 2)
    assert plan_and_seed(Path("runs/mine")) == ("mine", None)


def test_time_to_a_loss_is_that_of_the_first_evaluation_that_reaches_it() -> None:
    ours = result(curve=((1, 5.0, 3.0), (2, 6.0, 2.0), (3, 7.0, 2.5), (4, 8.0, 1.0)))
    assert ours.seconds_to(2.2) == 6.0
    assert ours.seconds_to(2.0) == 6.0
    assert ours.seconds_to(0.5) is None


def test_tokens_are_counted_stage_by_stage() -> None:
    plan = build_plan("whole", 12, 100, seq_len=64, long_share=0.1)
    assert tokens_at(plan, 4, 0) == 0
    assert tokens_at(plan, 4, 90) == 90 * 4 * 64
    assert tokens_at(plan, 4, 95) == 4 * (90 * 64 + 5 * 512)
    assert tokens_at(plan, 4, 100) == 4 * (90 * 64 + 10 * 512)


def test_plans_are_told_by_their_stages() -> None:
    whole, stacking, mslt = (result(method=m) for m in ("whole", "stacking", "mslt"))
    assert (whole.is_whole, stacking.is_whole, mslt.is_whole) == (True, False, False)
    assert (stacking.is_layerwise, mslt.is_layerwise, mslt.is_retrained) == (False, True, True)
    bare = replace(mslt, stages=build_plan("mslt", 12, 800, retrain=0.0))
    assert not bare.is_retrained
    long = replace(whole, stages=build_plan("whole", 12, 100, long_share=0.1))
    assert long.is_whole


def test_the_reference_is_the_plan_that_trains_the_whole_model_or_the_first() -> None:
    whole = result("w", 1, "whole")
    plans = by_plan([result("m", 1), result("m", 0), whole])
    assert [r.seed for r in plans["m"]] == [0, 1]
    assert reference(plans) == "w"
    assert reference({"m": plans["m"]}) == "m"
    with pytest.raises(ValueError, match="no run has come to its end"):
        reference({})
