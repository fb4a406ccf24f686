"""AdamW and LAMB against independent implementations."""

from dataclasses import replace

import pytest
import pytorch_optimizer
import torch
from made_up_updates import (
    ADAMW,
    CLIPPED,
    CLOSE,
    LAMB,
    Parameters,
    assert_close,
    gradients,
    lr,
    train,
    values,
)
from torch import Tensor, nn

from mslt.config import OptimizerConfig
from mslt.model import Encoder
from mslt.optim import Optimizer, decays

pytestmark = pytest.mark.usefixtures("float64")


# --- AdamW --------------------------------------------------------------------------------------


@pytest.mark.parametrize("clip_norm", [0.0, 1.0, 1e6])
def test_adamw_is_torchs_adamw_step_by_step(encoder, clip_norm):
    """With decay groups, and clipping by torch.nn.utils.clip_grad_norm_."""
    config = replace(ADAMW, clip_norm=clip_norm)
    ours, theirs = encoder(), encoder()
    groups = [
        {"params": [p for n, p in theirs.items() if decays(n)], "weight_decay": 0.1},
        {"params": [p for n, p in theirs.items() if not decays(n)], "weight_decay": 0.0},
    ]
    reference = torch.optim.AdamW(groups, betas=(config.beta1, config.beta2), eps=config.eps)
    optimizer = Optimizer(ours, config)
    for step in range(20):
        for name, gradient in gradients(ours, step).items():
            ours[name].grad.copy_(gradient)
            theirs[name].grad = gradient.clone()
        norm = nn.utils.clip_grad_norm_(theirs.values(), clip_norm or float("inf"))
        for group in reference.param_groups:
            group["lr"] = lr(step)
        reference.step()
        torch.testing.assert_close(optimizer.update(lr(step)), norm, **CLOSE)
        assert_close(ours, theirs, CLIPPED if clip_norm == 1.0 else CLOSE)


# --- LAMB ---------------------------------------------------------------------------------------


class PlainLamb:
    """Algorithm 2 of You et al. (2019) on one matrix, or Adam on a vector that is not adapted."""

    def __init__(self, weight: Tensor, config: OptimizerConfig, adapted: bool) -> None:
        self.x, self.config, self.adapted = weight, config, adapted
        self.m = torch.zeros_like(weight)
        self.v = torch.zeros_like(weight)
        self.t = 0

    def update(self, g: Tensor, lr: float) -> None:
        beta1, beta2 = self.config.beta1, self.config.beta2
        self.t += 1
        self.m = beta1 * self.m + (1 - beta1) * g
        self.v = beta2 * self.v + (1 - beta2) * g**2
        m, v = self.m / (1 - beta1**self.t), self.v / (1 - beta2**self.t)
        r = m / (v.sqrt() + self.config.eps)
        ratio = 1.0
        if self.adapted:
            r = r + self.config.weight_decay * self.x
            if self.x.norm() > 0 and r.norm() > 0:
                ratio = self.x.norm() / r.norm()
        self.x -= lr * ratio * r


def plainly(parameters: Parameters, config: OptimizerConfig, steps: range) -> dict[str, Tensor]:
    """What `train` should come to: query, key and value are three matrices."""
    weights, rules = values(parameters), {}
    for name, weight in weights.items():
        parts = weight.chunk(3) if ".qkv." in name else [weight]
        rules[name] = [PlainLamb(part, config, decays(name)) for part in parts]
    for step in steps:
        for name, gradient in gradients(parameters, step).items():
            parts = gradient.chunk(len(rules[name]))
            for rule, part in zip(rules[name], parts):
                rule.update(part, lr(step))
    return weights


@pytest.mark.parametrize("width", [9, 12, 24])
def test_lamb_knows_queries_keys_and_values_apart_at_any_width(tiny, width):
    """Their matrices are of 81, 144 and 576 numbers, which no row of 128 divides."""
    config = replace(tiny, hidden_size=width, num_attention_heads=1)
    ours, theirs = (dict(Encoder(config, 1, seed=1).named_parameters()) for _ in range(2))
    train(ours, LAMB, range(3))
    assert_close(ours, plainly(theirs, LAMB, range(3)))


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("steps", [1, 2, 20])
def test_lamb_is_algorithm_2_tensor_by_tensor(encoder, weight_decay, steps):
    config = replace(LAMB, weight_decay=weight_decay)
    parameters = encoder()
    expected = plainly(parameters, config, range(steps))
    train(parameters, config, range(steps))
    assert_close(parameters, expected)


def test_lamb_is_that_of_pytorch_optimizer(encoder):
    """Which never corrects the bias of the moments: the trust ratio cancels that where nothing is
    decayed and eps is too small to matter. It caps ‖w‖ at 10, so these weights stay below.
    """
    config = replace(LAMB, weight_decay=0.0, eps=1e-30)
    ours = {name: p for name, p in encoder().items() if decays(name)}
    theirs = {
        f"{name}/{i}": nn.Parameter(part.clone())
        for name, p in ours.items()
        for i, part in enumerate(p.detach().chunk(3 if ".qkv." in name else 1))
    }
    reference = pytorch_optimizer.Lamb(
        theirs.values(), weight_decay=0.0, eps=1e-30, adam_debias=True
    )
    optimizer = Optimizer(ours, config)
    for step in range(20):
        for name, gradient in gradients(ours, step).items():
            ours[name].grad.copy_(gradient)
            for i, part in enumerate(gradient.chunk(3 if ".qkv." in name else 1)):
                theirs[f"{name}/{i}"].grad = part.clone()
        reference.param_groups[0]["lr"] = lr(step)
        reference.step()
        optimizer.update(lr(step))
        for name, p in ours.items():
            parts = [theirs[key].data for key in theirs if key.startswith(f"{name}/")]
            torch.testing.assert_close(p.data, torch.cat(parts), **CLOSE, msg=name)
            assert max(part.norm() for part in parts) < 10


def test_lamb_moves_an_adapted_tensor_by_its_own_norm_times_the_rate(encoder):
    parameters = {n: p for n, p in encoder().items() if decays(n) and ".qkv." not in n}
    before = values(parameters)
    train(parameters, LAMB, range(1))
    for name, p in parameters.items():
        moved = (p.detach() - before[name]).norm() / before[name].norm()
        torch.testing.assert_close(moved, torch.tensor(lr(0)), rtol=1e-9, atol=0.0, msg=name)


def test_the_trust_ratio_is_1_where_the_weights_are_zero():
    zero = {"a.weight": nn.Parameter(torch.zeros(3, 4))}
    adam = {"a.weight": nn.Parameter(torch.zeros(3, 4))}
    train(zero, LAMB, range(1))
    train(adam, ADAMW, range(1))
    assert zero["a.weight"].detach().all()
    torch.testing.assert_close(zero["a.weight"], adam["a.weight"])  # another kernel


def test_where_there_is_no_update_nothing_moves_and_nothing_is_nan():
    weights = {"a.weight": nn.Parameter(torch.ones(3, 4)), "b.weight": nn.Parameter(torch.ones(2))}
    optimizer = Optimizer(weights, replace(LAMB, weight_decay=0.0))
    weights["b.weight"].grad += 1.0
    optimizer.update(0.1)
    assert torch.equal(weights["a.weight"], torch.ones(3, 4))
    assert torch.allclose(weights["b.weight"], torch.full((2,), 0.9))


def test_without_decay_biases_and_layer_norms_are_still_not_adapted(encoder):
    """Decay groups and adaptation are two things, though the same tensors have both."""
    lamb, adamw = encoder(), encoder()
    train(lamb, replace(LAMB, weight_decay=0.0), range(5))
    train(adamw, replace(ADAMW, weight_decay=0.0), range(5))
    for name in lamb:
        assert decays(name) != torch.allclose(lamb[name], adamw[name], **CLOSE), name
