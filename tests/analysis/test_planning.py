"""What plans take is counted stage by stage, by rates or by what was timed."""

from dataclasses import replace

import pytest

from mslt.analysis.estimate import (
    Calculated,
    Machine,
    Measured,
    all_ways,
    expected_memory,
    way,
)
from mslt.analysis.plan_tables import plan_table, search_table, stage_table
from mslt.analysis.planning import Prospect, beside, search
from mslt.analysis.scale import Accelerator, Network
from mslt.config import Config, ModelConfig, PlanConfig
from mslt.cost import FREE, learning_parameters, speedup, step_cost
from mslt.forecast import Forecast
from mslt.plan import Stage
from mslt.recipes import RECIPES

BASE = RECIPES["bert_base_mslt"]().with_vocabulary(30_522)
DEVICE = Accelerator(flops=1e12, memory=float("inf"))
ETHERNET = Network("25 GbE", bandwidth=25e9 / 8, hop=0.0)


def prospect(config: Config, machine: Machine | None = None) -> Prospect:
    machine = machine or Machine()
    return Prospect(
        estimate=Calculated(config, machine, DEVICE, "arithmetic"),
        machine=machine,
        micro_batch=lambda length: 32,
        half=False,
        memory={},
    )


def test_one_device_takes_the_flops_of_a_step_over_its_rate() -> None:
    found = prospect(BASE).outlook("x", BASE)
    for row, stage in zip(found.rows, BASE.stages().stages):
        flops = step_cost(BASE.model, stage, 1024, 20).total()
        assert row["flops"] == flops
        assert row["seconds"] == pytest.approx(flops / 1e12)
        assert row["tokens"] == stage.steps * 1024 * 128
        assert row["learning"] == learning_parameters(BASE.model, stage)
        assert row["reduced"] == 4 * row["learning"]
        assert row["sent"] == 0


def test_the_ratio_and_its_bound_are_those_of_the_cost_model() -> None:
    found = {k: prospect(BASE).outlook(k, c) for k, c in beside("mine", BASE).items()}
    whole = found["whole"].total("seconds")
    plan = BASE.stages()
    assert list(found) == ["mine", "whole", "stacking"]
    assert whole / found["mine"].total("seconds") == pytest.approx(speedup(BASE.model, plan, 20))
    free = speedup(BASE.model, plan, 20, prefix_speed=FREE)
    assert whole / found["mine"].total("bound") == pytest.approx(free)
    assert found["mine"].bounded
    assert not found["whole"].bounded


def test_several_processes_share_the_work_and_send_gradients() -> None:
    machine = Machine(8, ETHERNET)
    config = replace(BASE, look_ahead=False)
    [first, second, *_] = prospect(config, machine).outlook("x", config).rows
    assert first["sent"] == pytest.approx(2 * 7 / 8 * first["reduced"])
    alone = first["flops"] / 8 / 1e12
    assert first["seconds"] > alone
    assert first["seconds"] < alone + first["sent"] / ETHERNET.bandwidth
    ahead = prospect(BASE, machine).outlook("x", BASE).rows[1]
    assert ahead["seconds"] < second["seconds"]


def test_what_was_timed_is_what_is_predicted() -> None:
    took = {(3, 0, 128): (1.0, 0.0), (6, 3, 128): (1.5, 0.4), (12, 0, 128): (4.0, 0.0)}
    known = Measured(BASE, Machine(), took, "a watch")
    for stage in (Stage(3), Stage(6, 3), Stage(12)):
        parts = known.parts(stage)
        assert parts.seconds() == pytest.approx(took[way(stage)][0])
        assert parts.prefix == took[way(stage)][1]
        assert parts.forward + parts.backward == pytest.approx(parts.seconds() - parts.prefix)


def test_kinds_of_steps_that_were_not_timed_are_fitted_to_those_that_were() -> None:
    """Where time is in proportion to FLOPs and to numbers that learn, the fit is exact."""

    def truth(stage: Stage) -> tuple[float, float]:
        cost = step_cost(BASE.model, stage, 1, 20)
        rest = (cost.total() - cost.prefix) / 1e12
        return cost.prefix / 2e12 + rest + learning_parameters(BASE.model, stage) / 1e10, 0.0

    timed = (Stage(3), Stage(6), Stage(6, 3), Stage(9, 6), Stage(12, 9), Stage(12))
    known = Measured(BASE, Machine(), {way(s): truth(s) for s in timed}, "a watch")
    for stage in (Stage(4), Stage(8, 4), Stage(12, 8), Stage(12, 11)):
        assert known.parts(stage).seconds() == pytest.approx(truth(stage)[0])


def test_all_kinds_of_steps_are_a_plan_that_can_be_trained() -> None:
    plans = [config.stages() for config in beside("mine", BASE).values()]
    found = all_ways(*plans)
    assert [way(stage)[:2] for stage in found.stages] == [
        (3, 0), (6, 0), (6, 3), (9, 6), (12, 0), (12, 9),
    ]  # fmt: skip
    squad = RECIPES["bert_base_mslt_squad"]().with_vocabulary(30_522)
    assert (12, 0, 512) in {way(stage) for stage in all_ways(squad.stages()).stages}


def test_a_method_that_has_no_plan_for_so_many_layers_is_left_out() -> None:
    model = ModelConfig(vocab_size=100, num_hidden_layers=5)
    odd = Config(steps=100, model=model, plan=PlanConfig("whole"))
    assert list(beside("mine", odd)) == ["mine"]


def test_a_search_ranks_by_time_and_each_row_is_a_plan_that_pretrain_takes() -> None:
    found = search(BASE, prospect(BASE))
    seconds = [split.outlook.total("seconds") for split in found]
    assert seconds == sorted(seconds)
    assert {split.k for split in found} == {2, 3, 4, 6, 12}
    for split in found:
        first, other, retrain = split.shares
        assert first + (split.k - 1) * other + retrain == pytest.approx(100)
        assert split.outlook.plan.steps == BASE.steps
    as_the_paper = next(s for s in found if s.shares == (20.0, 20.0, 20.0))
    assert as_the_paper.options == "--plan.k 4 --plan.shares 20,20,20,20,20"
    usual = prospect(BASE).outlook("x", BASE)
    assert as_the_paper.outlook.total("seconds") == pytest.approx(usual.total("seconds"))


def test_memory_grows_with_what_learns_and_shrinks_with_recomputing_and_half_the_bits() -> None:
    plan = BASE.stages()
    stages = [expected_memory(BASE, plan, i, 32, half=False) for i in range(5)]
    assert max(stages) == stages[-1]
    assert stages[0] > 4 * 4 * 45e6
    again = replace(BASE, recompute=True)
    assert expected_memory(again, plan, 4, 32, half=False) < stages[-1]
    assert expected_memory(BASE, plan, 4, 32, half=True) < stages[-1]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_tables_fit_the_terminal(width: int) -> None:
    known = prospect(BASE, Machine(8, ETHERNET))
    outlooks = [known.outlook(name, config) for name, config in beside("mine", BASE).items()]
    text = f"{stage_table(outlooks[0], width)}\n{plan_table(outlooks, width)}"
    assert max(map(len, text.splitlines())) <= width
    for word in ("200,000", "26.2G", "46.3M", "185MB", "memory", "disk", "its bound *", "stacking"):
        assert word in text
    ranked = search_table(search(BASE, known), outlooks[1].total("seconds"), most=5)
    assert max(map(len, ranked.splitlines())) <= 60
    assert len(ranked.splitlines()) == 7


def test_a_script_gets_every_figure_and_pretrain_the_forecast() -> None:
    found = prospect(BASE).outlook("mine", BASE)
    values = found.to_dict()
    assert values["seconds"] == pytest.approx(sum(r["steps"] * r["seconds"] for r in found.rows))
    assert Forecast.of_run(values, BASE.stages()) == found.forecast()
    assert values["evaluations"] == 5 + 100
