"""The model against Hugging Face's, and what its shortcuts leave out."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from theirs import (
    call_theirs,
    our_model,
    shape,
    some_inputs,
    their_labels,
    their_loss,
    their_model,
    their_pair_logits,
)
from torch import Tensor

from mslt.config import ModelConfig
from mslt.growth import freeze, is_fixed
from mslt.huggingface import from_hf, to_hf
from mslt.model import Encoder, take_rows
from mslt.objective import Inputs, losses, scores


def mean_loss(model: Encoder, inputs: Inputs) -> Tensor:
    mlm, pair = losses(model, inputs)
    return mlm / inputs.masked_weights.sum() + pair / len(inputs.pair_labels)


ALBERT = {"embedding_size": 12, "hidden_act": "gelu_new"}

SHAPES = pytest.mark.parametrize(
    ("padded", "config"),
    [
        (False, shape(2, 32, 2)),
        (True, shape(3, 64, 4)),
        (True, shape(3, 64, 4, hidden_act="gelu_new")),
        *((True, shape(4, 48, 3, **ALBERT, num_hidden_groups=groups)) for groups in (1, 2, 4)),
        (False, shape(3, 32, 2, embedding_size=32, num_hidden_groups=1)),
    ],
    ids=str,
)


@SHAPES
def test_logits_are_those_of_hugging_face(padded, config):
    inputs = some_inputs(padded)
    theirs = their_model(config)
    ours = our_model(theirs, config)
    with torch.no_grad():
        expected = call_theirs(theirs, inputs)
        mlm_BMV, pair_B2 = ours(
            inputs.input_ids, inputs.segment_ids, inputs.seen, inputs.masked_positions
        )
        everywhere_BLD = ours.hidden(inputs.input_ids, inputs.segment_ids, inputs.seen)
        mlm_BLV = ours.head.mlm(everywhere_BLD, ours.embeddings.token.weight)
    expected_BMV = take_rows(expected.prediction_logits, inputs.masked_positions)
    assert (mlm_BMV - expected_BMV).abs().max() < 1e-5
    assert (mlm_BLV - expected.prediction_logits).abs().max() < 1e-5
    assert (pair_B2 - their_pair_logits(expected, config)).abs().max() < 1e-5


@SHAPES
def test_losses_are_those_of_hugging_face(padded, config):
    inputs = some_inputs(padded)
    theirs = their_model(config)
    with torch.no_grad():
        expected = their_loss(theirs, config, inputs)
        mlm, pair = losses(our_model(theirs, config), inputs)
    mlm, pair = mlm / inputs.masked_weights.sum(), pair / len(inputs.pair_labels)
    theirs_mlm = F.cross_entropy(
        expected.prediction_logits.flatten(0, 1), their_labels(inputs).flatten()
    )
    theirs_pair = F.cross_entropy(their_pair_logits(expected, config), inputs.pair_labels)
    assert abs(mlm - theirs_mlm) < 1e-5
    assert abs(pair - theirs_pair) < 1e-5
    assert abs(mlm + pair - expected.loss) < 1e-5


@SHAPES
def test_gradients_are_those_of_hugging_face(padded, config):
    inputs = some_inputs(padded)
    theirs = their_model(config)
    ours = our_model(theirs, config)
    their_loss(theirs, config, inputs).loss.backward()
    mean_loss(ours, inputs).backward()
    renamed = to_hf({name: p.grad for name, p in ours.named_parameters()}, config)
    expected = {name: p.grad for name, p in theirs.named_parameters()}
    assert renamed.keys() == expected.keys()
    # fp32 rounds at 1e-7 of a number, and sums run in another order. The key bias has no gradient
    # but for rounding (it shifts all of a query's scores alike), whence the absolute part.
    for name, gradient in expected.items():
        tolerance = 1e-5 * gradient.abs().max() + 1e-8
        assert (renamed[name] - gradient).abs().max() <= tolerance, name


@SHAPES
def test_weights_survive_the_way_to_hugging_face_and_back(padded, config):
    model = Encoder(config)
    theirs = to_hf(model.state_dict(), config)
    back = from_hf(theirs, config)
    assert theirs.keys() == dict(their_model(config).named_parameters()).keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in model.state_dict().items())
    assert all(tensor.is_contiguous() for tensor in theirs.values())


def test_weights_of_another_model_are_refused_by_name():
    theirs = to_hf(Encoder(shape()).state_dict(), shape())
    with pytest.raises(ValueError, match=r"cls\.other\.weight is no tensor of BertForPreTraining"):
        from_hf(theirs | {"cls.other.weight": torch.zeros(1)}, shape())
    del theirs["bert.encoder.layer.1.attention.self.key.weight"]
    with pytest.raises(ValueError, match=r"layer\.1\.attention\.self"):
        from_hf(theirs, shape())


def filled_model(layers: int = 3) -> Encoder:
    config = shape(layers)
    return our_model(their_model(config), config)


def gradients(model: Encoder, loss: Callable[[Encoder], Tensor]) -> dict[str, Tensor]:
    model.zero_grad(set_to_none=True)
    loss(model).backward()
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("padded", [False, True])
def test_the_rows_of_the_last_layer_are_those_of_the_whole_layer(padded):
    model, inputs = filled_model(), some_inputs(padded)
    rows_BR = inputs.masked_positions
    weights_BRD = torch.randn(*rows_BR.shape, 32, generator=torch.Generator().manual_seed(2))
    arguments = inputs.input_ids, inputs.segment_ids, inputs.seen

    def rows_alone(model: Encoder) -> Tensor:
        return model.hidden(*arguments, rows_BR)

    def rows_of_all(model: Encoder) -> Tensor:
        return take_rows(model.hidden(*arguments), rows_BR)

    # Not bit for bit: a matrix product of another size adds up in another order.
    assert (rows_alone(model) - rows_of_all(model)).abs().max() < 1e-5
    alone = gradients(model, lambda model: (rows_alone(model) * weights_BRD).sum())
    of_all = gradients(model, lambda model: (rows_of_all(model) * weights_BRD).sum())
    assert alone.keys() == of_all.keys()
    for name, gradient in of_all.items():
        # Terms of size 1 that cancel in the sum leave their rounding behind.
        assert (alone[name] - gradient).abs().max() <= 1e-5 * gradient.abs().max() + 1e-5, name


def test_the_rows_may_come_in_any_order_and_more_than_once():
    model, inputs = filled_model(), some_inputs(padded=True)
    rows_BR = torch.tensor([[7, 0, 7, 3]]).expand(4, -1)
    arguments = inputs.input_ids, inputs.segment_ids, inputs.seen
    with torch.no_grad():
        expected = model.hidden(*arguments)[:, [7, 0, 7, 3]]
        assert (model.hidden(*arguments, rows_BR) - expected).abs().max() < 1e-5


def test_padding_changes_nothing_that_is_read():
    model, inputs = filled_model(), some_inputs(padded=True)
    other = inputs.input_ids.masked_fill(~inputs.seen, 77)
    arguments = inputs.segment_ids, inputs.seen, inputs.masked_positions
    with torch.no_grad():
        mlm_BMV, pair_B2 = model(inputs.input_ids, *arguments)
        other_BMV, other_B2 = model(other, *arguments)
    assert torch.equal(mlm_BMV, other_BMV)
    assert torch.equal(pair_B2, other_B2)


def saved_shapes(model: Encoder, inputs: Inputs) -> list[tuple[int, ...]]:
    """Shapes of all tensors that autograd keeps for the backward pass."""
    shapes: list[tuple[int, ...]] = []

    def pack(tensor: Tensor) -> Tensor:
        shapes.append(tuple(tensor.shape))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        mean_loss(model, inputs)
    return sorted(shapes)


@pytest.mark.parametrize("padded", [False, True])
def test_autograd_saves_nothing_for_layers_that_only_run_forward(padded):
    inputs = some_inputs(padded)
    deep, shallow, single = filled_model(4), filled_model(2), filled_model(1)
    full = saved_shapes(deep, inputs)
    freeze(deep, below=3)
    freeze(shallow, below=1)
    single.embeddings.requires_grad_(False)
    # The layer that learns and the heads, whatever lies below them.
    alone = saved_shapes(single, inputs)
    assert saved_shapes(deep, inputs) == alone
    assert saved_shapes(shallow, inputs) == alone
    elements = [sum(torch.Size(shape).numel() for shape in shapes) for shapes in (full, alone)]
    assert elements[0] > 3 * elements[1]


def test_no_backward_pass_enters_layers_that_only_run_forward():
    model, inputs = filled_model(3), some_inputs()
    freeze(model, below=2)
    entering: list[bool] = []
    for block in model.blocks:
        block.register_forward_pre_hook(lambda _, x: entering.append(x[0].requires_grad))
    mean_loss(model, inputs).backward()
    assert entering == [False, False, False]
    assert all((p.grad is None) == is_fixed(name, 2) for name, p in model.named_parameters())


@pytest.mark.parametrize("below", [1, 2])
def test_gradients_of_learning_layers_are_those_of_a_full_backward_pass(below):
    model, inputs = filled_model(3), some_inputs(padded=True)
    full = gradients(model, lambda model: mean_loss(model, inputs))
    freeze(model, below)
    part = gradients(model, lambda model: mean_loss(model, inputs))
    assert part.keys() == {name for name in full if not is_fixed(name, below)}
    # Attention takes another kernel where no gradient is wanted: equal but for rounding.
    assert all((part[name] - full[name]).abs().max() < 1e-6 for name in part)


def test_scores_count_what_is_right():
    model, inputs = filled_model(), some_inputs(padded=True)
    with torch.no_grad():
        values = scores(model, inputs)
        mlm_BMV, pair_B2 = model(
            inputs.input_ids, inputs.segment_ids, inputs.seen, inputs.masked_positions
        )
        mlm, pair = losses(model, inputs)
    used = inputs.masked_weights.bool()
    right = mlm_BMV.argmax(-1)[used] == inputs.masked_ids[used]
    assert (values["mlm_loss"], values["pair_loss"]) == (mlm, pair)
    assert values["mlm_right"] == right.sum()
    assert values["pair_right"] == (pair_B2.argmax(-1) == inputs.pair_labels).sum()


def test_initial_weights_are_truncated_normal_and_depend_on_the_seed_alone():
    config = shape(width=64)
    model, same, other = Encoder(config, seed=3), Encoder(config, seed=3), Encoder(config, seed=4)
    for name, tensor in model.state_dict().items():
        if "norm" in name:
            assert torch.equal(tensor, torch.full_like(tensor, float(name.endswith("weight"))))
        elif name.endswith("bias"):
            assert not tensor.any()
        else:
            assert tensor.abs().max() <= 2 * config.initializer_range
            assert not torch.equal(tensor, other.state_dict()[name])
        assert torch.equal(tensor, same.state_dict()[name])
    # A normal distribution cut at two standard deviations has 0.88 of its spread.
    spread = model.blocks[0].mlp.up.weight.std() / config.initializer_range
    assert 0.86 < spread < 0.90


def test_a_model_without_vocabulary_or_of_a_wrong_depth_is_refused():
    with pytest.raises(ValueError, match=r"model\.vocab_size"):
        Encoder(ModelConfig(hidden_size=32, num_hidden_layers=2))
    for depth in (0, 4):
        with pytest.raises(ValueError, match=f"depth must be 1 to 3, not {depth}"):
            Encoder(shape(3), depth)
