"""The model against Hugging Face's, and what its shortcuts leave out."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import BertConfig, BertForPreTraining

from mslt.config import ModelConfig
from mslt.growth import freeze, is_fixed
from mslt.huggingface import config_to_hf, from_hf, to_hf
from mslt.model import Encoder, take_rows
from mslt.objective import Inputs, losses, scores

DROPOUT_OFF = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def shape(layers: int = 3, width: int = 32, heads: int = 4) -> ModelConfig:
    return ModelConfig(
        vocab_size=101,
        hidden_size=width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=3 * width,
        max_position_embeddings=24,
        **DROPOUT_OFF,
    )


def their_model(config: ModelConfig, seed: int = 0) -> BertForPreTraining:
    """With random biases and LayerNorms too: zeros and ones would hide a wrong mapping."""
    model = BertForPreTraining(BertConfig(**config_to_hf(config, config.num_hidden_layers)))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(std=0.1, generator=generator)
            if name.endswith("LayerNorm.weight"):
                parameter += 1
    return model.eval()


def our_model(theirs: BertForPreTraining, config: ModelConfig) -> Encoder:
    model = Encoder(config)
    model.load_state_dict(from_hf(theirs.state_dict()), strict=True)
    return model


def some_inputs(padded: bool = False, seed: int = 1) -> Inputs:
    """Four sequences of 20 tokens with 5 prediction slots, some of them without use."""
    B, L, M, V = 4, 20, 5, 101
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int, *size: int) -> Tensor:
        return torch.randint(low, high, size, generator=generator)

    lengths = torch.tensor([20, 13, 17, 8]) if padded else torch.full((B,), L)
    real = torch.arange(L) < lengths[:, None]
    used = torch.arange(M) < torch.tensor([5, 2, 3, 1])[:, None]
    positions = torch.stack([torch.randperm(7, generator=generator)[:M] + 1 for _ in range(B)])
    return Inputs(
        input_ids=draw(5, V, B, L) * real,
        segment_ids=(torch.arange(L) >= lengths[:, None] // 2).long() * real,
        seen=real if padded else None,
        masked_positions=positions * used,
        masked_ids=draw(5, V, B, M) * used,
        masked_weights=used.float(),
        pair_labels=torch.tensor([0, 1, 1, 0]),
        ids=np.arange(B),
    )


def call_theirs(model: BertForPreTraining, inputs: Inputs, **labels: Tensor):
    return model(
        input_ids=inputs.input_ids,
        token_type_ids=inputs.segment_ids,
        attention_mask=None if inputs.seen is None else inputs.seen.long(),
        **labels,
    )


def their_labels(inputs: Inputs) -> Tensor:
    """[B, L] with -100 wherever nothing is to be predicted."""
    labels = torch.full_like(inputs.input_ids, -100)
    rows, slots = inputs.masked_weights.nonzero(as_tuple=True)
    labels[rows, inputs.masked_positions[rows, slots]] = inputs.masked_ids[rows, slots]
    return labels


def mean_loss(model: Encoder, inputs: Inputs) -> Tensor:
    mlm, pair = losses(model, inputs)
    return mlm / inputs.masked_weights.sum() + pair / len(inputs.pair_labels)


SHAPES = pytest.mark.parametrize(
    ("padded", "layers", "width", "heads"), [(False, 2, 32, 2), (True, 3, 64, 4)]
)


@SHAPES
def test_logits_are_those_of_hugging_face(padded, layers, width, heads):
    config, inputs = shape(layers, width, heads), some_inputs(padded)
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
    assert (pair_B2 - expected.seq_relationship_logits).abs().max() < 1e-5


@SHAPES
def test_losses_are_those_of_hugging_face(padded, layers, width, heads):
    config, inputs = shape(layers, width, heads), some_inputs(padded)
    theirs = their_model(config)
    labels = their_labels(inputs)
    with torch.no_grad():
        expected = call_theirs(
            theirs, inputs, labels=labels, next_sentence_label=inputs.pair_labels
        )
        mlm, pair = losses(our_model(theirs, config), inputs)
    mlm, pair = mlm / inputs.masked_weights.sum(), pair / len(inputs.pair_labels)
    theirs_mlm = F.cross_entropy(expected.prediction_logits.flatten(0, 1), labels.flatten())
    theirs_pair = F.cross_entropy(expected.seq_relationship_logits, inputs.pair_labels)
    assert abs(mlm - theirs_mlm) < 1e-5
    assert abs(pair - theirs_pair) < 1e-5
    assert abs(mlm + pair - expected.loss) < 1e-5


@SHAPES
def test_gradients_are_those_of_hugging_face(padded, layers, width, heads):
    config, inputs = shape(layers, width, heads), some_inputs(padded)
    theirs = their_model(config)
    ours = our_model(theirs, config)
    labels = their_labels(inputs)
    call_theirs(
        theirs, inputs, labels=labels, next_sentence_label=inputs.pair_labels
    ).loss.backward()
    mean_loss(ours, inputs).backward()
    renamed = to_hf({name: p.grad for name, p in ours.named_parameters()})
    expected = {name: p.grad for name, p in theirs.named_parameters()}
    assert renamed.keys() == expected.keys()
    # fp32 rounds at 1e-7 of a number, and sums run in another order. The key bias has no gradient
    # but for rounding (it shifts all of a query's scores alike), whence the absolute part.
    for name, gradient in expected.items():
        tolerance = 1e-5 * gradient.abs().max() + 1e-8
        assert (renamed[name] - gradient).abs().max() <= tolerance, name


def test_weights_survive_the_way_to_hugging_face_and_back():
    model = Encoder(shape())
    theirs = to_hf(model.state_dict())
    back = from_hf(theirs)
    assert theirs.keys() == dict(their_model(shape()).named_parameters()).keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in model.state_dict().items())
    assert all(tensor.is_contiguous() for tensor in theirs.values())


def test_weights_of_another_model_are_refused_by_name():
    theirs = to_hf(Encoder(shape()).state_dict())
    with pytest.raises(ValueError, match=r"cls\.other\.weight is no tensor of BertForPreTraining"):
        from_hf(theirs | {"cls.other.weight": torch.zeros(1)})
    del theirs["bert.encoder.layer.1.attention.self.key.weight"]
    with pytest.raises(ValueError, match=r"layer\.1\.attention\.self"):
        from_hf(theirs)


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
