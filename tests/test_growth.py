"""What one stage of a plan does to the model: growth and freezing (section 3.2)."""

import pytest
import torch

from mslt.growth import copied_from, freeze, grow, is_fixed, learning
from mslt.model import Encoder
from mslt.objective import Inputs, losses


def state(model: Encoder) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def storages(model: Encoder) -> list[int]:
    return [p.untyped_storage().data_ptr() for p in model.parameters()]


def with_tagged_blocks(model: Encoder) -> Encoder:
    """Block i holds the number i everywhere, so that a copy tells where it is from."""
    with torch.no_grad():
        for i, block in enumerate(model.blocks):
            for parameter in block.parameters():
                parameter.fill_(i)
    return model


def tags(model: Encoder) -> list[int]:
    """The number that each block holds; it must hold one."""
    found = [torch.cat([p.flatten() for p in block.parameters()]) for block in model.blocks]
    assert all((values == values[0]).all() for values in found)
    return [int(values[0].item()) for values in found]


# --- growth -------------------------------------------------------------------------------------

STEPS = [(1, 2), (3, 6), (6, 9), (9, 12), (3, 5), (6, 12), (11, 12)]


@pytest.mark.parametrize(("depth", "to"), STEPS)
def test_what_stood_before_is_bit_identical_after_growth(tiny, depth, to):
    model = Encoder(tiny, depth, seed=1)
    before = state(model)
    grown = grow(model, to)
    assert grown.depth == to
    after = grown.state_dict()
    assert same(before, {name: after[name] for name in before})
    assert all(name.startswith("blocks.") for name in after.keys() - before.keys())


@pytest.mark.parametrize(("depth", "to"), STEPS)
def test_new_layers_are_copies_of_the_topmost_ones(tiny, depth, to):
    model = Encoder(tiny, depth, seed=1)
    grown = grow(model, to)
    for new in range(depth, to):
        assert same(grown.blocks[new].state_dict(), model.blocks[new - (to - depth)].state_dict())


def test_mslt_copies_the_top_layers_above_themselves_at_every_stage(tiny):
    """Section 3.2: the top N/k layers of the model trained in the previous stage."""
    model = with_tagged_blocks(Encoder(tiny, 3))
    for to in (6, 9, 12):
        model = grow(model, to)
    assert tags(model) == [0, 1, 2] * 4


def test_mslt_copies_what_was_learned_last(tiny):
    model = with_tagged_blocks(grow(with_tagged_blocks(Encoder(tiny, 3)), 6))
    assert tags(grow(model, 9)) == [0, 1, 2, 3, 4, 5, 3, 4, 5]


def test_stacking_repeats_the_whole_model(tiny):
    """Gong et al. (2019): 3 -> 6 -> 12."""
    model = with_tagged_blocks(grow(with_tagged_blocks(Encoder(tiny, 3)), 6))
    assert tags(grow(model, 12)) == [0, 1, 2, 3, 4, 5] * 2


def test_a_grown_model_shares_no_memory_with_anything(tiny):
    model = Encoder(tiny, 3)
    grown = grow(grow(model, 6), 9)
    assert len(set(storages(grown))) == len(storages(grown))
    assert not set(storages(grown)) & set(storages(model))
    with torch.no_grad():
        grown.blocks[0].mlp.up.weight.zero_()
    assert grown.blocks[3].mlp.up.weight.any()


def test_growth_leaves_the_given_model_as_it_was(tiny):
    model = Encoder(tiny, 3, seed=1)
    freeze(model, 2)
    before, depth = state(model), model.depth
    asks = [p.requires_grad for p in model.parameters()]
    grown = grow(model, 6)
    with torch.no_grad():
        for parameter in grown.parameters():
            parameter += 1
    assert same(before, model.state_dict())
    assert model.depth == depth
    assert [p.requires_grad for p in model.parameters()] == asks


def test_growth_carries_no_gradient_over(tiny):
    model = Encoder(tiny, 3)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    assert all(parameter.grad is None for parameter in grow(model, 6).parameters())


def test_a_grown_model_computes_what_its_layers_do_one_after_another(tiny, random_batch):
    model = Encoder(tiny, 2).eval()
    grown = grow(model, 4).eval()
    inputs = Inputs.of(random_batch(), "cpu")
    x_BLD = model.hidden(inputs.input_ids, inputs.segment_ids, inputs.seen)
    for block in model.blocks:
        x_BLD = block(x_BLD, inputs.seen)
    assert torch.equal(x_BLD, grown.hidden(inputs.input_ids, inputs.segment_ids, inputs.seen))


@pytest.mark.parametrize("to", [-1, 0, 2, 3, 7, 9])
def test_growth_to_less_or_to_more_than_twice_the_depth_is_refused(tiny, to):
    with pytest.raises(ValueError, match=f"3 layers grows to at most 6 layers, .* not to {to}$"):
        grow(Encoder(tiny, 3), to)


def test_growth_beyond_the_config_is_refused(tiny):
    with pytest.raises(ValueError, match=r"the config's 12, not to 13"):
        grow(Encoder(tiny, 9), 13)


@pytest.mark.parametrize(("depth", "to"), STEPS)
def test_every_new_tensor_knows_which_one_it_was_copied_from(tiny, depth, to):
    model = Encoder(tiny, depth, seed=1)
    before = dict(model.named_parameters())
    for name, tensor in grow(model, to).named_parameters():
        source = copied_from(name, depth, to)
        assert (source is None) == (name in before)
        if source is not None:
            assert torch.equal(tensor, before[source])


# --- freezing -----------------------------------------------------------------------------------

OUTPUT = {"head.transform", "head.norm", "head", "head.pooler", "head.pair"}


@pytest.mark.parametrize("below", [0, 3, 6, 9])
def test_the_added_layers_and_the_output_layer_learn(tiny, below):
    """Section 3.2; the word embeddings only where nothing is fixed."""
    model = Encoder(tiny)
    freeze(model, below)
    names = {name for name, _ in learning(model)}
    blocks = {int(name.split(".")[1]) for name in names if name.startswith("blocks.")}
    assert blocks == set(range(below, 12))
    for number in blocks:
        learns = {name for name in names if name.startswith(f"blocks.{number}.")}
        assert learns == {f"blocks.{number}.{n}" for n, _ in model.blocks[0].named_parameters()}
    assert {n.rpartition(".")[0] for n in names if n.startswith("head.")} == OUTPUT
    embeddings = {name for name in names if name.startswith("embeddings.")}
    every = {f"embeddings.{name}" for name, _ in model.embeddings.named_parameters()}
    assert embeddings == (set() if below else every)


def test_the_output_matrix_is_the_token_embedding_and_is_fixed_with_it(tiny, random_batch):
    model = Encoder(tiny, 2)
    assert not any(tuple(p.shape) == (40, 16) for p in model.head.parameters())
    freeze(model, 1)
    sum(losses(model, Inputs.of(random_batch(), "cpu"))).backward()
    assert model.embeddings.token.weight.grad is None
    assert model.head.bias.grad is not None


def test_freezing_again_lets_learn_what_was_fixed(tiny):
    model = Encoder(tiny)
    freeze(model, 9)
    freeze(model, 0)
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_freezing_drops_stale_gradients(tiny):
    model = Encoder(tiny, 3)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    freeze(model, 2)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("below", [0, 1])
def test_without_a_pair_objective_pooler_and_pair_classifier_are_fixed(tiny, below):
    model = Encoder(tiny, 2)
    freeze(model, below, pair_head=False)
    without = {name for name, _ in learning(model)}
    freeze(model, below)
    pair = {name for name, _ in learning(model)} - without
    assert pair == {"head.pooler.weight", "head.pooler.bias", "head.pair.weight", "head.pair.bias"}


@pytest.mark.parametrize("below", [-1, 3, 4])
def test_a_stage_in_which_no_layer_learns_is_refused(tiny, below):
    with pytest.raises(ValueError, match=f"{below} of 3 layers cannot be fixed"):
        freeze(Encoder(tiny, 3), below)


def test_a_layers_number_is_read_whole():
    assert is_fixed("blocks.1.mlp.up.weight", 2)
    assert not is_fixed("blocks.10.mlp.up.weight", 2)
    assert not is_fixed("blocks.2.mlp.up.weight", 2)


@pytest.mark.parametrize("below", [0, 1, 2])
def test_the_first_learning_layers_input_asks_for_no_gradient(tiny, random_batch, below):
    """Else the backward pass would run on through the layers below (trap of half a freeze)."""
    model = Encoder(tiny, 3)
    freeze(model, below)
    asks = []
    for block in model.blocks:
        block.register_forward_pre_hook(lambda _, args: asks.append(args[0].requires_grad))
    losses(model, Inputs.of(random_batch(), "cpu"))
    assert asks == [below == 0, *(number > below for number in (1, 2))]


@pytest.mark.parametrize("below", [1, 2, 3])
def test_freezing_changes_no_gradient_of_what_learns_even_with_dropout(tiny, random_batch, below):
    """The draws of the forward pass are the same, so the gradients are, bit for bit."""
    model = Encoder(tiny, 4, seed=2).train()
    inputs = Inputs.of(random_batch(), "cpu")

    def gradients() -> dict[str, torch.Tensor]:
        torch.manual_seed(3)
        sum(losses(model, inputs)).backward()
        return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    freeze(model, 0)
    full = gradients()
    freeze(model, below)
    partial = gradients()
    assert partial.keys() == {name for name, _ in learning(model)} < full.keys()
    assert all(torch.equal(partial[name], full[name]) for name in partial)
