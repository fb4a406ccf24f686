"""LAMB and AdamW against independent implementations, and moments by name.

In float64, where only the order of operations is left to differ: a relative 1e-12 is some thousand
roundings, and a wrong formula is off by far more.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import pytorch_optimizer
import torch
from torch import Tensor, nn

from mslt.config import OptimizerConfig
from mslt.model import Encoder
from mslt.optim import Moment, Moments, Optimizer, decays

CLOSE = {"rtol": 1e-12, "atol": 1e-15}
CLIPPED = {"rtol": 1e-7, "atol": 1e-8}  # AdamW's kernel takes the factor in fp32
LAMB = OptimizerConfig("lamb", weight_decay=0.1, clip_norm=0.0)
ADAMW = OptimizerConfig("adamw", weight_decay=0.1, clip_norm=0.0)
BOTH = pytest.mark.parametrize("config", [LAMB, ADAMW], ids=lambda config: config.name)

Parameters = dict[str, nn.Parameter]


@pytest.fixture(autouse=True)
def _float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def encoder(tiny) -> Callable[[], Parameters]:
    """The named parameters of a two-layer model, biases filled as well; the same at each call."""

    def parameters() -> Parameters:
        model = Encoder(tiny, 2, seed=1)
        generator = torch.Generator().manual_seed(1)
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
        return dict(model.named_parameters())

    return parameters


def gradients(parameters: Parameters, step: int) -> dict[str, Tensor]:
    """Made-up gradients of very different sizes."""
    generator = torch.Generator().manual_seed(step)
    return {
        name: torch.randn(p.shape, generator=generator) * 10.0 ** (i % 7 - 4)
        for i, (name, p) in enumerate(parameters.items())
    }


def lr(step: int) -> float:
    return 0.01 / (1 + step % 3)


def train(
    parameters: Parameters, config: OptimizerConfig, steps: range, moments: Moments | None = None
) -> Optimizer:
    """Some updates along the made-up gradients."""
    optimizer = Optimizer(parameters, config, moments)
    for step in steps:
        for name, gradient in gradients(parameters, step).items():
            parameters[name].grad.copy_(gradient)
        optimizer.update(lr(step))
    return optimizer


def assert_close(
    parameters: Parameters, expected: dict[str, Tensor], bounds: dict[str, float] = CLOSE
) -> None:
    for name, tensor in expected.items():
        torch.testing.assert_close(parameters[name].data, tensor.data, **bounds, msg=name)


def values(parameters: Parameters) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in parameters.items()}


# --- which tensors ------------------------------------------------------------------------------


def test_biases_and_layer_norms_are_left_out_of_decay_and_nothing_else(tiny):
    """Devlin et al.: LayerNorm, layer_norm and bias; You et al. adapt the same tensors."""
    decayed = {name for name, _ in Encoder(tiny, 1).named_parameters() if decays(name)}
    assert decayed == {
        "embeddings.token.weight",
        "embeddings.position.weight",
        "embeddings.segment.weight",
        "blocks.0.attention.qkv.weight",
        "blocks.0.attention.out.weight",
        "blocks.0.mlp.up.weight",
        "blocks.0.mlp.down.weight",
        "head.transform.weight",
        "head.pooler.weight",
        "head.pair.weight",
    }


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


# --- gradients ----------------------------------------------------------------------------------


@BOTH
def test_an_update_returns_the_gradients_norm(encoder, config):
    parameters = encoder()
    optimizer = Optimizer(parameters, replace(config, clip_norm=0.5))
    for name, gradient in gradients(parameters, 0).items():
        parameters[name].grad.copy_(gradient)
    norm = torch.cat([p.grad.flatten() for p in parameters.values()]).norm()
    torch.testing.assert_close(optimizer.update(0.1), norm, **CLOSE)


@BOTH
def test_a_gradient_that_is_dropped_is_zero_and_all_else_as_it_was(encoder, config):
    parameters = encoder()
    optimizer = Optimizer(parameters, config)
    optimizer.grads.fill_(1.0)
    optimizer.drop(["head.bias", "blocks.0.attention.qkv.weight"])
    zero = {name for name, p in parameters.items() if not p.grad.any()}
    assert zero == {"head.bias", "blocks.0.attention.qkv.weight"}


@BOTH
def test_clipping_scales_all_gradients_together_and_only_down(encoder, config):
    """By the first moment, which after one step is (1 - beta1) times the clipped gradients."""
    for clip_norm in (0.5, 1e9):
        parameters = encoder()
        raw = gradients(parameters, 0)
        norm = torch.cat([g.flatten() for g in raw.values()]).norm()
        optimizer = train(parameters, replace(config, clip_norm=clip_norm), range(1))
        scale = min(1.0, clip_norm / (norm + 1e-6))
        bounds = CLIPPED if config.name == "adamw" and scale < 1 else CLOSE
        for name, (mean, _, _) in optimizer.moments().items():
            torch.testing.assert_close(mean, 0.1 * scale * raw[name], **bounds, msg=name)


@BOTH
def test_backward_accumulates_into_the_optimizers_gradients(config):
    weight = nn.Parameter(torch.ones(3))
    optimizer = Optimizer({"a.weight": weight}, config)
    for _ in range(2):
        (weight * torch.arange(3.0)).sum().backward()
    assert optimizer.grads[:3].tolist() == [0.0, 2.0, 4.0]
    assert not optimizer.grads[3:].any()  # room behind it, so that the next begins a row


@BOTH
def test_the_given_values_are_not_changed_by_being_taken_over(encoder, config):
    parameters = encoder()
    before = values(parameters)
    Optimizer(parameters, config)
    assert all(torch.equal(before[name], p) for name, p in parameters.items())


def test_an_optimizer_of_nothing_is_refused():
    with pytest.raises(ValueError, match="no parameter learns"):
        Optimizer({}, LAMB)


# --- moments by name ----------------------------------------------------------------------------


@BOTH
def test_moments_handed_on_continue_the_training_bit_for_bit(encoder, config):
    whole, halves = encoder(), encoder()
    train(whole, config, range(10))
    first = train(halves, config, range(5))
    saved = {n: Moment(m.clone(), s.clone(), u) for n, (m, s, u) in first.moments().items()}
    train(halves, config, range(5, 10), saved)
    assert all(torch.equal(whole[name], halves[name]) for name in whole)


@BOTH
def test_moments_are_found_by_name_whatever_the_order(encoder, config):
    parameters = encoder()
    moments = train(parameters, config, range(3)).moments()
    shuffled = dict(reversed(moments.items()))
    taken = Optimizer(dict(reversed(parameters.items())), config, shuffled).moments()
    assert taken.keys() == parameters.keys()
    for name, (mean, square, updates) in taken.items():
        assert torch.equal(mean, moments[name].mean)
        assert torch.equal(square, moments[name].square)
        assert updates == 3
        assert mean.shape == parameters[name].shape


@BOTH
def test_moments_of_parameters_that_do_not_learn_now_are_not_touched(encoder, config):
    parameters = encoder()
    moments = train(parameters, config, range(3)).moments()
    before = {name: moment.mean.clone() for name, moment in moments.items()}
    few = {name: p for name, p in parameters.items() if name.startswith("head.")}
    assert train(few, config, range(2), moments).moments().keys() == few.keys()
    assert all(torch.equal(moment.mean, before[name]) for name, moment in moments.items())


@pytest.mark.parametrize("which", ["mean", "square"])
def test_moments_of_another_shape_are_refused_by_name(which):
    right, wrong = torch.zeros(2, 3), torch.zeros(3, 2)
    moment = Moment(right, right, 1)._replace(**{which: wrong})
    with pytest.raises(ValueError, match=r"the moments of a\.weight are \[3, 2\], not \[2, 3\]"):
        Optimizer({"a.weight": nn.Parameter(right)}, LAMB, {"a.weight": moment})


@BOTH
def test_each_parameter_has_its_own_bias_correction(encoder, config):
    """A head after 200 updates beside fresh layers: as if each had an optimizer of its own."""
    together, apart = encoder(), encoder()
    head = {name for name in together if name.startswith("head.")}
    layer = {name for name in together if name.startswith("blocks.0.")}
    moments: Moments = {}
    for parameters in (together, apart):
        moments = train({n: parameters[n] for n in head}, config, range(200)).moments()
        part = {n: parameters[n] for n in layer}
        moments |= train(part, config, range(7)).moments()
    assert {moment.updates for moment in moments.values()} == {200, 7}

    def gradient(name: str, step: int) -> Tensor:
        return gradients(apart, step)[name]

    joint = Optimizer(together, config, moments)
    rest = apart.keys() - head - layer
    single = [
        Optimizer({n: apart[n] for n in part}, config, moments) for part in (head, layer, rest)
    ]
    for step in range(5):
        for name in together:
            together[name].grad.copy_(gradient(name, step))
            apart[name].grad.copy_(gradient(name, step))
        for optimizer in (joint, *single):
            optimizer.update(lr(step))
        assert_close(together, apart)
    counts = {name: moment.updates for name, moment in joint.moments().items()}
    assert {counts[name] for name in head} == {205}
    assert {counts[name] for name in layer} == {12}
    assert {counts[name] for name in rest} == {5}
