"""A step that is not accepted leaves no trace; broken numbers are met before they do harm."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from mslt import trainer as trainers
from mslt.config import OptimizerConfig
from mslt.model import Encoder
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
        real = trainers.losses
        patch.setattr(trainers, "losses", lambda *a, **k: [x * torch.nan for x in real(*a, **k)])
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
