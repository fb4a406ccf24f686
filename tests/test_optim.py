"""What an optimizer keeps: gradients, copies, moments by name, and steps yet to be taken."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from made_up_updates import (
    BOTH,
    CLIPPED,
    CLOSE,
    LAMB,
    assert_close,
    gradients,
    lr,
    train,
    values,
)
from torch import Tensor, nn

from mslt.model import Encoder
from mslt.optim import Moment, Moments, Optimizer, decays

pytestmark = pytest.mark.usefixtures("float64")


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


# --- gradients ----------------------------------------------------------------------------------


@BOTH
def test_an_update_returns_the_gradients_norm(encoder, config):
    parameters = encoder()
    optimizer = Optimizer(parameters, replace(config, clip_norm=0.5))
    for name, gradient in gradients(parameters, 0).items():
        parameters[name].grad.copy_(gradient)
    norm = torch.cat([p.grad.flatten() for p in parameters.values()]).norm()
    torch.testing.assert_close(optimizer.update(0.1), norm, **CLOSE)


@pytest.mark.parametrize("width", [16, 513])
def test_the_norm_of_many_gradients_is_exact(width):
    """Which torch's, of all of them at once, is not on a CPU; in rows of 128, and of one."""
    torch.set_default_dtype(torch.float32)
    name, shape = "a.qkv.weight", (3 * width, width)
    many = {name: nn.Parameter(torch.zeros(shape)), "b.weight": nn.Parameter(torch.zeros(1 << 22))}
    optimizer = Optimizer(many, LAMB)
    optimizer.grads.normal_(generator=torch.Generator().manual_seed(0))
    exact = float(optimizer.grads.double().norm())
    assert float(optimizer.norm()) == pytest.approx(exact, rel=1e-6)


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


# --- copies, and steps that wait to be taken ----------------------------------------------------


@BOTH
def test_copies_follow_the_weights_and_the_room_behind_them_stays_empty(encoder, config):
    parameters, token = encoder(), "embeddings.token.weight"
    most = parameters[token].numel() + 1000
    optimizer = Optimizer(parameters, config, copies=True, room={token: most})
    for step in range(3):
        for name, gradient in gradients(parameters, step).items():
            parameters[name].grad.copy_(gradient)
        optimizer.update(lr(step))
        copies = optimizer.copies()
        assert copies is not None
        assert copies.keys() == parameters.keys()
        for name, parameter in parameters.items():
            mine, behind = copies[name].tensor_split([parameter.numel()])
            assert torch.equal(mine, parameter.detach().flatten().bfloat16())
            assert not behind.any()
        assert len(copies[token]) >= most


@BOTH
def test_a_step_that_is_prepared_and_not_taken_leaves_no_trace(encoder, config):
    plain, other = encoder(), encoder()
    expected = train(plain, config, range(2))
    optimizer = Optimizer(other, config)
    for step in range(2):
        for name, gradient in gradients(other, step).items():
            other[name].grad.copy_(gradient)
        optimizer.ready(1.0, optimizer.norm())
        optimizer.update(lr(step))
    assert all(torch.equal(plain[name], other[name]) for name in plain)
    assert {m.updates for m in optimizer.moments().values()} == {2}
    assert {m.updates for m in expected.moments().values()} == {2}


def test_an_update_may_be_a_record_that_sees_nothing_but_what_it_is_given(encoder):
    """As on a GPU: the rate, the bias corrections and the clipping change from step to step."""
    kept: list[tuple[Callable[..., None], list[Tensor]]] = []

    def record(work: Callable[..., None], given: list[Tensor]) -> None:
        if not kept:
            kept.append((work, [x.clone() for x in given]))
        first, places = kept[0]
        for place, x in zip(places, given):
            place.copy_(x)
        first(*places)

    config = replace(LAMB, clip_norm=0.5)
    plain, recorded = encoder(), encoder()
    train(plain, config, range(4))
    optimizer = Optimizer(recorded, config, record=record)
    for step in range(4):
        for name, gradient in gradients(recorded, step).items():
            recorded[name].grad.copy_(gradient)
        optimizer.update(lr(step))
    assert all(torch.equal(plain[name], recorded[name]) for name in plain)


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
