"""Gradients on their way from the tensors that compute to those that learn."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from mslt.config import OptimizerConfig
from mslt.growth import freeze
from mslt.model import Encoder
from mslt.objective import pretraining
from mslt.trainer import Settings, Trainer
from mslt.twin import Twin

PLAIN = Settings(OptimizerConfig("adamw"), precision="fp32", micro_batch=8, pair=True, seed=7)


def test_a_twin_has_the_model_s_tensors_and_gradients_of_its_own(tiny):
    model = Encoder(tiny, 2)
    freeze(model, 1)
    twin = Twin(model, copies=None, complete=lambda name: None).model
    theirs = dict(twin.named_parameters())
    for name, tensor in model.named_parameters():
        assert theirs[name] is not tensor
        assert theirs[name].data_ptr() == tensor.data_ptr()
        assert theirs[name].requires_grad == tensor.requires_grad


def test_in_bf16_embeddings_and_on_a_cpu_layer_norms_stay_what_they_are(tiny):
    model = Encoder(tiny, 2)
    twin = Twin(model, copies={}, complete=lambda name: None).model
    shared = {n for n, p in twin.named_parameters() if p.dtype == torch.float32}
    assert shared == {
        n for n, _ in model.named_parameters() if n.startswith("embeddings.") or ".norm." in n
    }
    assert twin.output is not None
    assert torch.equal(twin.output, model.embeddings.token.weight.bfloat16())
    assert all(p.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_in_which_a_parameter_plays_no_part_does_not_repeat_its_last_gradient(
    tiny, random_batch, precision
):
    """Gradients are written over those of the last step, which then must not be there."""
    plain = pretraining(pair=True)

    def one_part(*given: Any, **how: Any) -> list[Tensor]:
        mlm, pair = plain.losses(*given, **how)
        return [mlm, pair if step == 0 else torch.zeros_like(pair)]

    settings, seen = replace(PLAIN, precision=precision), []
    trainer = Trainer(Encoder(tiny, 2), settings, {}, objective=replace(plain, losses=one_part))
    for step in range(2):
        trainer.step(step, random_batch(step), 1e-2)
        seen.append(trainer.moments()["head.pooler.weight"].mean.clone())
    assert seen[0].any()
    torch.testing.assert_close(seen[1], 0.9 * seen[0])


def test_the_tied_matrix_is_complete_when_both_its_gradients_are_there(tiny, random_batch):
    """In bf16 the output layer has a copy of it; before the embedding's rows it must not travel."""
    trainer, told = Trainer(Encoder(tiny, 2), replace(PLAIN, precision="bf16"), {}), []
    gathered = trainer.twin.gathered

    def watched(name: str) -> None:
        told.append(f"gathered {name}")
        gathered(name)

    trainer.twin.gathered = watched  # type: ignore[method-assign]
    trainer.twin._complete = lambda name: told.append(f"complete {name}")
    trainer.step(0, random_batch(), 1e-2)
    token = "embeddings.token.weight"
    places = [told.index(x) for x in ("gathered output", f"gathered {token}", f"complete {token}")]
    assert places == sorted(places)
    assert told.count(f"complete {token}") == 1


@pytest.mark.parametrize("micro_batch", [8, 3])
def test_where_nothing_travels_all_gradients_are_added_at_once(tiny, random_batch, micro_batch):
    """As on a GPU; the tied matrix gets both of its own."""
    seen = []
    for at_once in (False, True):
        how = replace(PLAIN, micro_batch=micro_batch, kernels=False)
        trainer = Trainer(Encoder(tiny, 2), how, {})
        if at_once:
            trainer.twin = Twin(trainer.model, copies=None, complete=None)
            trainer.computing = trainer.twin.model
        for step in range(2):
            trainer.step(step, random_batch(step), 1e-2)
        seen.append(trainer.optimizer.grads.clone())
    torch.testing.assert_close(*seen)
    assert seen[0].any()


@pytest.mark.parametrize("below", [0, 1])
@pytest.mark.parametrize("name", ["adamw", "lamb"])
def test_what_computes_in_bf16_follows_what_learns(tiny, random_batch, name, below):
    """After steps that are taken, and one that is refused."""
    model = Encoder(tiny, 2)
    freeze(model, below)
    how = replace(PLAIN, precision="bf16", optimizer=OptimizerConfig(name))
    trainer = Trainer(model, how, {})
    weights = dict(model.named_parameters())
    for step in range(3):
        trainer.step(step, random_batch(step), 1e-2, lambda _, step=step: step != 1)
        for leaf_name, leaf in trainer.computing.named_parameters():
            weight = weights["embeddings.token.weight" if leaf_name == "output" else leaf_name]
            assert torch.equal(leaf, weight.to(leaf.dtype)), leaf_name
