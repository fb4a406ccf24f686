"""The local start: positions that a rotation shifts, and heads that look at neighbours."""

import pytest
import torch

from mslt import initial
from mslt.config import ModelConfig
from mslt.model import Encoder

CONFIG = ModelConfig(
    vocab_size=50, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, initializer="local"
)


@pytest.mark.parametrize("by", [-3, -1, 0, 1, 2])
def test_a_rotation_shifts_every_position(by):
    rows = initial.positions(40, 64, 0.1).double()
    moved = rows @ initial.shift(64, by).double().T
    torch.testing.assert_close(moved[5:30], rows[5 + by : 30 + by], atol=1e-6, rtol=0)


def test_positions_up_to_twice_the_width_differ_and_have_the_deviation_asked_for():
    rows = initial.positions(128, 64, 0.1)
    assert torch.pdist(rows).min() > 0.1
    assert rows.std().item() == pytest.approx(0.1, rel=0.05)


def test_heads_look_to_both_sides_and_further_out():
    assert [initial.distance(head) for head in range(6)] == [-1, 1, -2, 2, -3, 3]


def test_each_head_attends_most_to_the_token_at_its_distance():
    model = Encoder(CONFIG)
    positions = model.embeddings.position.weight[:32]
    x = torch.nn.functional.layer_norm(positions, (64,))  # what enters where tokens add nothing
    queries, keys, _ = model.blocks[0].attention.qkv(x).split(64, dim=-1)
    for head in range(4):
        part = slice(16 * head, 16 * (head + 1))
        best = (queries[:, part] @ keys[:, part].T).argmax(-1)
        inside = torch.arange(4, 28)
        hits = (best[inside] == inside + initial.distance(head)).float().mean()
        assert hits > 0.8, head


def test_the_start_is_a_function_of_the_seed_and_only_of_starting_values():
    same, again, other = Encoder(CONFIG), Encoder(CONFIG), Encoder(CONFIG, seed=1)
    name = "blocks.1.attention.qkv.weight"
    assert torch.equal(same.state_dict()[name], again.state_dict()[name])
    assert not torch.equal(same.state_dict()[name], other.state_dict()[name])
    plain = Encoder(ModelConfig(vocab_size=50, hidden_size=64, num_hidden_layers=2))
    shapes = {name: tensor.shape for name, tensor in plain.state_dict().items()}
    assert shapes == {name: tensor.shape for name, tensor in same.state_dict().items()}


def test_a_wrong_initializer_is_refused_by_its_key():
    with pytest.raises(ValueError, match=r"^model\.initializer must be normal or local"):
        ModelConfig(initializer="magic")


def test_where_embeddings_are_narrower_heads_look_the_same_way():
    """An ALBERT's embeddings lie within a frame of the layers' width, where a shift is a turn."""
    shape = dict(vocab_size=50, hidden_size=64, num_hidden_layers=2, num_attention_heads=4)
    model = Encoder(ModelConfig(**shape, embedding_size=32, initializer="local"))
    positions = model.embeddings.position.weight[:32]
    x = model.embeddings.project(torch.nn.functional.layer_norm(positions, (32,)))
    assert x.pow(2).mean().item() == pytest.approx(1, rel=0.1)
    queries, keys, _ = model.blocks[0].attention.qkv(x).split(64, dim=-1)
    for head in range(4):
        part = slice(16 * head, 16 * (head + 1))
        best = (queries[:, part] @ keys[:, part].T).argmax(-1)
        inside = torch.arange(4, 28)
        hits = (best[inside] == inside + initial.distance(head)).float().mean()
        assert hits > 0.6, head
