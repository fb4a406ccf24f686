"""One optimisation step, against loops that anyone can read."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mslt.config import ModelConfig, OptimizerConfig
from mslt.data.instances import Batch
from mslt.growth import freeze, is_fixed, learning
from mslt.kernels import find
from mslt.model import Encoder, equip
from mslt.objective import Inputs, losses
from mslt.optim import Moment, Optimizer, decays
from mslt.plan import build_plan
from mslt.schedule import Schedule
from mslt.trainer import Settings, Trainer

ADAMW = OptimizerConfig("adamw", weight_decay=0.1)
LAMB = OptimizerConfig("lamb", weight_decay=0.1)
PLAIN = Settings(optimizer=ADAMW, precision="fp32", micro_batch=8, pair=True, seed=7)
PLAN = build_plan("whole", 3, 6, schedule=Schedule(lr=1e-2, warmup_steps=2))

Batches = Callable[..., Batch]


def state(model: Encoder) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def without_dropout(config: ModelConfig) -> ModelConfig:
    return replace(config, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)


def without_key_bias(name: str, tensor: Tensor) -> Tensor:
    """The key bias has a true gradient of zero: what an optimizer sees of it is rounding."""
    if not name.endswith("qkv.bias"):
        return tensor
    query, _, value = tensor.chunk(3)
    return torch.cat([query, value])


def train(model: Encoder, settings: Settings, batches: list[Batch], lr: float = 1e-2) -> Trainer:
    trainer = Trainer(model, settings, {})
    for step, batch in enumerate(batches):
        trainer.step(step, batch, lr)
    return trainer


# --- against plain loops ------------------------------------------------------------------------


@pytest.mark.parametrize("kernels", [False, True])
@pytest.mark.parametrize("optimizer", [ADAMW, LAMB], ids=lambda config: config.name)
def test_a_whole_plan_is_a_plain_loop_bit_for_bit(tiny, random_batch, optimizer, kernels):
    """Dropout included: the seed of a step's draws is all that the loop has to know."""
    model = Encoder(tiny, 3)
    seen = []
    for _, stage, steps in PLAN.remaining(0):
        freeze(model, stage.learns_from)
        trainer = Trainer(model, replace(PLAIN, optimizer=optimizer, kernels=kernels), {})
        for step in steps:
            seen.append(trainer.step(step, random_batch(step), PLAN.lr(step)))

    plain = Encoder(tiny, 3).train()
    in_c = find(torch.float32) if kernels else None
    equip(plain, in_c)
    plain_optimizer = Optimizer(dict(plain.named_parameters()), optimizer, kernels=in_c)
    for step in range(6):
        batch = random_batch(step)
        plain_optimizer.grads.zero_()
        torch.manual_seed(hash((7, step, 0, 1)) & (2**63 - 1))
        mlm, pair = losses(plain, Inputs.of(batch, "cpu"))
        mlm, pair = mlm / float(batch.masked_weights.sum()), pair / 8
        (mlm + pair).backward()
        norm = plain_optimizer.update(PLAN.lr(step))
        expected = {"mlm_loss": mlm.detach(), "pair_loss": pair.detach(), "grad_norm": norm}
        assert same(seen[step], expected)

    assert same(state(model), state(plain))


def test_a_whole_plan_is_a_loop_of_torchs_own_parts(tiny, random_batch):
    """torch.optim.AdamW, clip_grad_norm_ and mean losses; they round in another order, so equal to
    1e-5 of weights that move by about 1e-2 at each step.
    """
    model, plain = Encoder(without_dropout(tiny), 3), Encoder(without_dropout(tiny), 3)
    trainer = Trainer(model, PLAIN, {})
    groups = [
        {"params": [p for n, p in plain.named_parameters() if decays(n)], "weight_decay": 0.1},
        {"params": [p for n, p in plain.named_parameters() if not decays(n)], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, eps=ADAMW.eps)
    for step in range(6):
        batch = random_batch(step)
        inputs = Inputs.of(batch, "cpu")
        targets = inputs.masked_ids.masked_fill(inputs.masked_weights == 0, -100).flatten()
        mlm_BMV, pair_B2 = plain(
            inputs.input_ids, inputs.segment_ids, inputs.seen, inputs.masked_positions
        )
        mlm = F.cross_entropy(mlm_BMV.flatten(0, 1), targets)
        pair = F.cross_entropy(pair_B2, inputs.pair_labels)
        adamw.zero_grad()
        (mlm + pair).backward()
        norm = torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        for group in adamw.param_groups:
            group["lr"] = PLAN.lr(step)
        adamw.step()
        seen = trainer.step(step, batch, PLAN.lr(step))
        torch.testing.assert_close(seen["mlm_loss"], mlm.detach(), rtol=1e-5, atol=0.0)
        torch.testing.assert_close(seen["pair_loss"], pair.detach(), rtol=1e-5, atol=0.0)
        torch.testing.assert_close(seen["grad_norm"], norm, rtol=1e-5, atol=0.0)
    for (name, ours), theirs in zip(model.named_parameters(), plain.parameters()):
        ours, theirs = without_key_bias(name, ours.data), without_key_bias(name, theirs.data)
        torch.testing.assert_close(ours, theirs, rtol=0.0, atol=1e-5, msg=name)


def test_training_lowers_the_loss(tiny, random_batch):
    model = Encoder(without_dropout(tiny), 2)
    trainer = Trainer(model, PLAIN, {})
    seen = [trainer.step(step, random_batch(), 1e-2) for step in range(30)]
    assert seen[-1]["mlm_loss"] < 0.5 * seen[0]["mlm_loss"]
    assert seen[-1]["pair_loss"] < 0.5 * seen[0]["pair_loss"]


# --- accumulation -------------------------------------------------------------------------------


@pytest.mark.parametrize("micro_batch", [1, 2, 3, 4, 5, 100])
def test_accumulating_micro_batches_is_one_big_batch(tiny, random_batch, micro_batch):
    """Whatever the cut, and though sequences have different numbers of predictions. fp32 sums in
    another order: 1e-5 of the largest gradient of a tensor.
    """
    config = replace(ADAMW, clip_norm=0.0)
    big, small = Encoder(without_dropout(tiny), 2), Encoder(without_dropout(tiny), 2)
    settings = replace(PLAIN, optimizer=config)
    one = Trainer(big, settings, {})
    many = Trainer(small, replace(settings, micro_batch=micro_batch), {})
    expected, seen = (trainer.step(0, random_batch(), 1e-2) for trainer in (one, many))
    for name, value in expected.items():
        torch.testing.assert_close(seen[name], value, rtol=1e-5, atol=0.0)
    # After one step from zero, the first moment is a tenth of the gradient.
    for name, (mean, _, _) in one.moments().items():
        most = float(mean.abs().max())
        torch.testing.assert_close(
            many.moments()[name].mean, mean, rtol=0.0, atol=1e-5 * most + 1e-9, msg=name
        )


def test_micro_batches_drop_out_different_activations(tiny, random_batch):
    """Else accumulating would repeat one pattern. Two equal halves then have different losses."""
    half = random_batch(sequences=4)
    whole = Trainer(Encoder(tiny, 2), replace(PLAIN, micro_batch=4), {})
    first = Trainer(Encoder(tiny, 2), replace(PLAIN, micro_batch=4), {})
    twice = Batch(*(getattr(half, name).repeat(2, axis=0) for name in Batch.__annotations__))
    twice = Batch(*(values[[0, 2, 4, 6, 1, 3, 5, 7]] for values in vars(twice).values()))
    mean = whole.step(0, twice, 1e-2)["mlm_loss"]
    assert abs(mean - first.step(0, half, 1e-2)["mlm_loss"]) > 1e-4


# --- what a step depends on ---------------------------------------------------------------------


def test_a_step_depends_on_its_number_and_not_on_what_was_drawn_before(tiny, random_batch):
    one, other = Encoder(tiny, 2), Encoder(tiny, 2)
    torch.manual_seed(1)
    train(one, PLAIN, [random_batch(0)])
    torch.manual_seed(2)
    torch.rand(5)
    train(other, PLAIN, [random_batch(0)])
    assert same(state(one), state(other))


@pytest.mark.parametrize(("step", "seed"), [(1, 7), (0, 8)])
def test_another_step_or_seed_drops_out_other_activations(tiny, random_batch, step, seed):
    one = Trainer(Encoder(tiny, 2), PLAIN, {}).step(0, random_batch(), 1e-2)
    other = Trainer(Encoder(tiny, 2), replace(PLAIN, seed=seed), {}).step(
        step, random_batch(), 1e-2
    )
    assert one["mlm_loss"] != other["mlm_loss"]


# --- frozen and learning ------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("optimizer", [ADAMW, LAMB], ids=lambda config: config.name)
@pytest.mark.parametrize("below", [0, 1, 3])
def test_frozen_parameters_do_not_move_and_all_others_do(
    tiny, random_batch, below, optimizer, precision
):
    """With weight decay, dropout and clipping on, over real steps."""
    model = Encoder(tiny, 4)
    freeze(model, below)
    before = state(model)
    settings = replace(PLAIN, optimizer=optimizer, precision=precision, micro_batch=4)
    train(model, settings, [random_batch(step) for step in range(3)])
    moved = {name for name, tensor in state(model).items() if not torch.equal(tensor, before[name])}
    assert moved == {name for name in before if not is_fixed(name, below)}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("below", [0, 1])
def test_without_a_pair_objective_pooler_and_pair_classifier_do_not_move(
    tiny, random_batch, below, precision
):
    model = Encoder(tiny, 2)
    freeze(model, below, pair_head=False)
    before = state(model)
    trainer = Trainer(model, replace(PLAIN, pair=False, precision=precision), {})
    for step in range(3):
        seen = trainer.step(step, random_batch(step), 1e-2)
    assert seen.keys() == {"mlm_loss", "grad_norm"}
    moved = {name for name, tensor in state(model).items() if not torch.equal(tensor, before[name])}
    assert moved == {name for name, _ in learning(model)}
    assert not any(name.startswith(("head.pooler", "head.pair")) for name in moved)


def test_moments_of_fixed_layers_are_kept_as_they_are(tiny, random_batch):
    model = Encoder(tiny, 2)
    freeze(model, 0)
    first = train(model, PLAIN, [random_batch(step) for step in range(3)]).moments()
    kept = {n: Moment(m.clone(), s.clone(), u) for n, (m, s, u) in first.items()}
    freeze(model, 1)
    trainer = Trainer(model, PLAIN, first)
    for step in range(2):
        trainer.step(3 + step, random_batch(step), 1e-2)
    after = trainer.moments()
    assert after.keys() == kept.keys()
    for name, moment in after.items():
        fixed = is_fixed(name, 1)
        assert moment.updates == (3 if fixed else 5)
        assert torch.equal(moment.mean, kept[name].mean) == fixed
        assert torch.equal(moment.square, kept[name].square) == fixed


def test_moments_know_only_what_has_learned(tiny, random_batch):
    model = Encoder(tiny, 3)
    freeze(model, 2)
    moments = train(model, PLAIN, [random_batch()]).moments()
    assert moments.keys() == {name for name, _ in learning(model)}


# --- bf16 ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("below", [0, 2])
def test_bf16_computes_about_the_same_as_fp32(tiny, random_batch, below):
    """bf16 has 8 bits: losses to 1 %, and the gradient of each tensor in the same direction.

    With weights large enough that gradients do not cancel out over the batch.
    """
    moments, seen = {}, {}
    for precision in ("fp32", "bf16"):
        model = Encoder(replace(without_dropout(tiny), initializer_range=0.2), 3)
        freeze(model, below)
        trainer = Trainer(model, replace(PLAIN, precision=precision, micro_batch=4), {})
        seen[precision] = trainer.step(0, random_batch(), 1e-2)
        moments[precision] = trainer.moments()
    for name, value in seen["fp32"].items():
        torch.testing.assert_close(seen["bf16"][name], value, rtol=0.01, atol=0.0, msg=name)
    for name, moment in moments["fp32"].items():
        one = without_key_bias(name, moment.mean).flatten()
        other = without_key_bias(name, moments["bf16"][name].mean).flatten()
        assert F.cosine_similarity(one, other, dim=0) > 0.99, name


def test_bf16_learns_in_fp32_so_that_small_updates_are_not_lost(tiny, random_batch):
    """A hundredth of a bf16 rounding per step, and still every weight has moved."""
    model = Encoder(tiny, 2)
    before = state(model)
    train(model, replace(PLAIN, precision="bf16"), [random_batch(s) for s in range(3)], lr=1e-6)
    weight = model.blocks[0].mlp.up.weight.detach()
    assert weight.dtype == torch.float32
    assert ((weight - before["blocks.0.mlp.up.weight"]) != 0).float().mean() > 0.9
    assert all(tensor.dtype == torch.float32 for tensor in state(model).values())


def test_bf16_computes_with_the_updated_weights(tiny, random_batch):
    """A trainer that goes on computes what one that is built anew from its weights computes."""
    model, settings = Encoder(tiny, 2), replace(PLAIN, precision="bf16")
    trainer = train(model, settings, [random_batch(step) for step in range(3)])
    anew = Encoder(tiny, 2)
    anew.load_state_dict(state(model))
    fresh = Trainer(anew, settings, trainer.moments())
    for step in range(3, 5):
        one, other = (t.step(step, random_batch(step), 1e-2) for t in (trainer, fresh))
        assert same(one, other)
    assert same(state(model), state(anew))


def test_a_trainer_keeps_what_it_frees(tiny, monkeypatch):
    asked = []
    monkeypatch.setattr("mslt.trainer.keep_freed_memory", lambda: asked.append(True))
    Trainer(Encoder(tiny, 1), PLAIN, {})
    assert asked


# --- evaluation ---------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_evaluation_changes_nothing_and_repeats_itself(tiny, random_batch, precision):
    model, twin = Encoder(tiny, 2), Encoder(tiny, 2)
    settings = replace(PLAIN, precision=precision)
    trainer = train(model, settings, [random_batch(0)])
    other = train(twin, settings, [random_batch(0)])
    before, draws = state(model), torch.get_rng_state()
    heldout = [random_batch(100), random_batch(101)]
    assert trainer.evaluate(heldout) == trainer.evaluate(heldout)
    assert same(state(model), before)
    assert torch.equal(torch.get_rng_state(), draws)
    assert same(
        trainer.step(1, random_batch(1), 1e-2),
        other.step(1, random_batch(1), 1e-2),
    )
    assert same(state(model), state(twin))


@pytest.mark.parametrize("micro_batch", [1, 3, 8])
def test_evaluation_is_without_dropout_and_weighs_every_prediction_alike(
    tiny, random_batch, micro_batch
):
    model = Encoder(tiny, 2, seed=3)
    heldout = [random_batch(100), random_batch(101, sequences=5)]
    seen = Trainer(model, replace(PLAIN, micro_batch=micro_batch), {}).evaluate(heldout)
    model.eval()
    nats, right, pair_nats, pair_right = [], [], [], []
    for batch in heldout:
        inputs = Inputs.of(batch, "cpu")
        mlm_BMV, pair_B2 = (
            logits.detach()
            for logits in model(
                inputs.input_ids, inputs.segment_ids, inputs.seen, inputs.masked_positions
            )
        )
        used = inputs.masked_weights == 1
        nats.append(F.cross_entropy(mlm_BMV[used], inputs.masked_ids[used], reduction="none"))
        right.append(mlm_BMV[used].argmax(-1) == inputs.masked_ids[used])
        pair_nats.append(F.cross_entropy(pair_B2, inputs.pair_labels, reduction="none"))
        pair_right.append(pair_B2.argmax(-1) == inputs.pair_labels)
    expected = {
        "mlm_loss": torch.cat(nats).mean(),
        "mlm_accuracy": torch.cat(right).float().mean(),
        "pair_loss": torch.cat(pair_nats).mean(),
        "pair_accuracy": torch.cat(pair_right).float().mean(),
    }
    assert seen == pytest.approx({k: float(v) for k, v in expected.items()}, rel=1e-5)


def test_what_stands_in_the_padding_changes_nothing(tiny, random_batch):
    batch = random_batch()
    padding = np.arange(batch.input_ids.shape[1]) >= batch.lengths[:, None]
    assert padding.any()
    other = replace(batch, input_ids=np.where(padding, 7, batch.input_ids))
    for settings in (PLAIN, replace(PLAIN, precision="bf16")):
        trainer = Trainer(Encoder(replace(tiny, initializer_range=0.2), 2), settings, {})
        assert trainer.evaluate([batch]) == trainer.evaluate([other])


def test_evaluation_without_a_pair_objective_says_nothing_of_pairs(tiny, random_batch):
    trainer = Trainer(Encoder(tiny, 1), replace(PLAIN, pair=False), {})
    assert trainer.evaluate([random_batch()]).keys() == {"mlm_loss", "mlm_accuracy"}
