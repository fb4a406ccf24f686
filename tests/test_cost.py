"""The cost model knows the floors of cost, and counts what the model has."""

from dataclasses import replace

import pytest
from torch.utils.flop_counter import FlopCounterMode

from mslt.config import ModelConfig
from mslt.cost import (
    FREE,
    Savings,
    StepCost,
    learning_parameters,
    parameters,
    speedup,
    step_cost,
)
from mslt.growth import freeze, learning
from mslt.model import Encoder
from mslt.objective import Inputs, losses
from mslt.plan import Stage, build_plan
from mslt.recipes import RECIPES

BASE = ModelConfig(vocab_size=30_522, hidden_size=768, num_hidden_layers=12)
LARGE = ModelConfig(vocab_size=30_522, hidden_size=1024, num_hidden_layers=24)
SLOTS = 0.15 * 128
NONE = Savings(masked_rows=False, fixed_gradients=False, last_layer_rows=False)
MASKED = replace(NONE, masked_rows=True)
IDLE = replace(MASKED, fixed_gradients=True)


@pytest.mark.parametrize(
    ("savings", "prefix_speed", "base", "large"),
    [
        (NONE, 1.0, 1.64, 1.83),
        (MASKED, 1.0, 1.92, 1.97),
        (IDLE, 1.0, 1.97, 1.99),
        (Savings(), 1.0, 2.09, 2.05),
        (Savings(), 2.0, 2.34, 2.29),
        (Savings(), FREE, 2.65, 2.59),
    ],
)
def test_multi_stage_training_saves_what_the_arithmetic_says(savings, prefix_speed, base, large):
    for model, expected in ((BASE, base), (LARGE, large)):
        plan = build_plan("mslt", model.num_hidden_layers, 1000)
        found = speedup(model, plan, SLOTS, prefix_speed=prefix_speed, savings=savings)
        assert found == pytest.approx(expected, abs=0.005)


def test_the_whole_model_costs_three_times_its_forward_pass_per_token():
    for model, layer, head, step in ((BASE, 14.55, 7.2, 545), (LARGE, 25.69, 9.69, 1879)):
        cost = step_cost(model, Stage(model.num_hidden_layers), 1, SLOTS, MASKED)
        assert cost.prefix == 0
        assert cost.layers / 128e6 == pytest.approx(layer * model.num_hidden_layers, rel=1e-3)
        assert cost.head / 128e6 == pytest.approx(head, rel=5e-3)
        assert cost.backward == pytest.approx(2 * (cost.layers + cost.head))
        assert cost.total() / 128e6 == pytest.approx(step, rel=1e-3)


def test_costs_are_in_proportion_to_the_sequences():
    one, eight = (step_cost(BASE, Stage(6, 3), n, 20) for n in (1, 8))
    assert eight == StepCost(8 * one.prefix, 8 * one.layers, 8 * one.head, 8 * one.backward)


def test_the_whole_plan_saves_nothing_and_the_paper_without_retraining_more():
    assert speedup(BASE, build_plan("whole", 12, 100), 20) == 1
    without = speedup(BASE, build_plan("mslt", 12, 100, retrain=0.0), 20)
    assert without > speedup(BASE, build_plan("mslt", 12, 100), 20) > 2


@pytest.mark.parametrize("stage", [Stage(3), Stage(4, 2), Stage(4, 3)], ids=str)
def test_a_step_of_the_model_does_the_arithmetic_that_is_counted(tiny, random_batch, stage):
    model = Encoder(tiny, stage.depth)
    freeze(model, stage.learns_from)
    batch = random_batch(sequences=4, length=12, slots=3)
    counter = FlopCounterMode(display=False)
    with counter:
        mlm, pair = losses(model, Inputs.of(batch, "cpu"))
        (mlm + pair).backward()
    cost = step_cost(tiny, replace(stage, seq_len=12), 4, 3)
    assert counter.get_total_flops() == pytest.approx(cost.total())


@pytest.mark.parametrize("stage", [Stage(3), Stage(6, 3), Stage(4, 3), Stage(12)], ids=str)
def test_parameters_are_the_model_s(tiny, stage):
    model = Encoder(tiny, stage.depth)
    freeze(model, stage.learns_from)
    assert parameters(tiny, stage.depth) == sum(p.numel() for p in model.parameters())
    assert learning_parameters(tiny, stage) == sum(p.numel() for _, p in learning(model))


def test_bert_base_and_large_have_the_sizes_that_are_known() -> None:
    """110,106,428 and 336,226,108 as Hugging Face's BertForPreTraining."""
    for recipe, expected in (("bert_base_mslt", 110_106_428), ("bert_large_mslt", 336_226_108)):
        model = replace(RECIPES[recipe]().model, vocab_size=30_522)
        assert parameters(model, model.num_hidden_layers) == expected


def test_later_stages_move_a_fifth_of_the_whole_model_s_parameters():
    for model, share in ((BASE, 0.204), (LARGE, 0.232)):
        each = model.num_hidden_layers // 4
        found = learning_parameters(model, Stage(2 * each, each))
        assert found / parameters(model, 4 * each) == pytest.approx(share, abs=0.001)
