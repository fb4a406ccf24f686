"""Distances, alignments, changes and shares have the values that they must have in known cases."""

import math
from dataclasses import replace

import pytest
import torch
from made_up_run import trained_model

from mslt.analysis.attention import Sentences, observe
from mslt.analysis.attention_numbers import (
    Alone,
    jensen_shannon,
    linear_cka,
    looks_at,
    measure,
    pairs_of,
    weight_change,
)
from mslt.analysis.attention_tables import _layers, _settled, to_csv, to_text, to_values
from mslt.model import Encoder

CLS, SEP = 2, 3


def sample(sequences: int = 6) -> Sentences:
    """Sequences of 6 to 8 tokens, the last one [SEP]."""
    generator = torch.Generator().manual_seed(1)
    lengths = [6 + i % 3 for i in range(sequences)]
    ids_BL = torch.zeros(sequences, 8, dtype=torch.int64)
    for i, length in enumerate(lengths):
        words = torch.randint(5, 15, (length - 2,), generator=generator)
        ids_BL[i, :length] = torch.tensor([CLS, *words.tolist(), SEP])
    return Sentences(ids_BL, torch.zeros_like(ids_BL), lengths, [["x"] * n for n in lengths])


def shifted(model: Encoder, factor: float, first: int) -> Encoder:
    """A copy whose layers from `first` on are `factor` times as large."""
    other = trained_model(model.depth)
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        for block in other.layers(first, other.depth):
            for parameter in block.parameters():
                parameter *= factor
    return other


def test_the_distance_is_0_for_the_same_and_1_for_nothing_in_common() -> None:
    one = torch.eye(4)
    assert torch.equal(jensen_shannon(one, one), torch.zeros(4))
    torch.testing.assert_close(jensen_shannon(one, one.roll(1, 1)), torch.ones(4))


def test_the_distance_is_the_root_of_what_mixing_adds_to_entropy_and_a_metric() -> None:
    generator = torch.Generator().manual_seed(0)
    p, q, r = torch.rand(3, 20, 7, generator=generator, dtype=torch.float64).softmax(-1)

    def bits(x: torch.Tensor) -> torch.Tensor:
        return -(x * x.log2()).sum(-1)

    expected = (bits((p + q) / 2) - (bits(p) + bits(q)) / 2).sqrt()
    torch.testing.assert_close(jensen_shannon(p, q), expected)
    assert torch.equal(jensen_shannon(p, q), jensen_shannon(q, p))
    assert (jensen_shannon(p, r) <= jensen_shannon(p, q) + jensen_shannon(q, r)).all()


def test_half_of_a_certain_look_given_away_has_the_distance_of_the_formula() -> None:
    # Of (1, 0) and (1/2, 1/2), with the middle (3/4, 1/4).
    bits = (math.log2(4 / 3) + (math.log2(2 / 3) + math.log2(2)) / 2) / 2
    found = float(jensen_shannon(torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5])))
    assert found == pytest.approx(math.sqrt(bits), rel=1e-6)


def test_cka_does_not_see_turning_scaling_and_shifting_and_is_0_without_relation() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 5, generator=generator, dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(5, 5, generator=generator, dtype=torch.float64))[0]
    assert linear_cka(x, 3 * x @ turn + 7) == pytest.approx(1)
    first = torch.tensor([[1.0], [1.0], [-1.0], [-1.0]])
    second = torch.tensor([[1.0], [-1.0], [1.0], [-1.0]])
    assert linear_cka(first, second) == pytest.approx(0, abs=1e-12)
    # Of two directions of one length one is kept: 1 / sqrt(2) by the definition.
    assert linear_cka(torch.cat([first, second], 1), first) == pytest.approx(1 / math.sqrt(2))


def test_the_change_of_weights_is_relative_and_blind_to_key_biases() -> None:
    model = trained_model(2)
    (block,) = model.layers(1, 2)
    (larger,) = shifted(model, 1.5, 1).layers(1, 2)
    assert weight_change(block, larger) == pytest.approx(0.5, rel=1e-5)
    (same,) = shifted(model, 1, 1).layers(1, 2)
    with torch.no_grad():
        same.attention.qkv.bias[32:64] += 1  # type: ignore[union-attr, operator, index]
    assert weight_change(block, same) == 0


def test_a_look_counts_for_one_class_each() -> None:
    is_cls, is_sep = torch.zeros(1, 8).bool(), torch.zeros(1, 8).bool()
    is_cls[0, 0], is_sep[0, 7] = True, True
    found = looks_at(torch.full((1, 1, 8, 8), 1 / 8), is_cls, is_sep)[0, 0] * 8
    assert found[:, 0].tolist() == [1] * 8
    assert found[:, 1].tolist() == [1] * 8
    # Of row 4: 2 to 6 are near, [CLS] and [SEP] count as themselves, 1 is left.
    assert found[4].tolist() == [1, 1, 5, 1]
    assert found[0].tolist() == [1, 1, 2, 4]
    assert found[7].tolist() == [1, 1, 2, 4]


def test_what_is_measured_of_a_model_and_itself_is_nothing() -> None:
    model = trained_model(4)
    measured = measure([shifted(model, 1, 0), model], 2, sample(), CLS, SEP)
    pair = measured.pairs[0, 1]
    assert not pair.distance_SnH.any()
    torch.testing.assert_close(pair.cka_n1, torch.ones(5))
    assert pair.weights_n == [0] * 4
    for alone in measured.alone:
        torch.testing.assert_close(alone.looks_SNHC.sum(-1), torch.ones(6, 4, 2))
        assert torch.equal(alone.shares().sum(-1), torch.ones(6, 4).double())


def test_a_head_counts_where_most_of_its_attention_goes_in_each_sequence() -> None:
    # Two sequences, one layer, two heads.
    looks = torch.tensor([[[[0.9, 0, 0, 0.1], [0, 0.6, 0.4, 0]]], [[[0.9, 0, 0.1, 0]] * 2]])
    alone = Alone(looks, torch.zeros(2, 0, 2), torch.zeros(2, 1))
    assert alone.shares()[:, 0].tolist() == [[0.5, 0.5, 0, 0], [1, 0, 0, 0]]
    told = _layers(alone)[0]["share_of_heads"]["[CLS]"]
    assert (told["mean"], told["over_sequences"]) == (0.75, pytest.approx(0.5**0.5 / 2, abs=1e-6))


def test_layers_below_a_change_stay_and_padding_does_not_count() -> None:
    model, texts = trained_model(4), sample()
    measured = measure([model, shifted(model, 1.5, 2)], 2, texts, CLS, SEP)
    pair = measured.pairs[0, 1]
    assert not pair.distance_SnH[:, :2].any()
    assert (pair.distance_SnH[:, 2:] > 0).all()
    assert pair.weights_n == pytest.approx([0, 0, 0.5, 0.5], rel=1e-5)
    alone = measure([model, shifted(model, 1.5, 2)], 2, texts[:1], CLS, SEP).pairs[0, 1]
    torch.testing.assert_close(alone.distance_SnH[0], pair.distance_SnH[0], atol=1e-4, rtol=0)
    assert alone.cka_error is None
    assert pair.cka_error is not None


def test_halves_are_the_layers_that_stand_over_each_other() -> None:
    model, texts = trained_model(4), sample(2)
    measured = measure([model], 1, texts, CLS, SEP)
    seen = observe(model, texts[:1]).weights_NBHLL[:, 0]
    expected = jensen_shannon(seen[:2], seen[2:]).mean(-1)
    torch.testing.assert_close(measured.alone[0].halves_ShH[0], expected)
    between = jensen_shannon(seen[:, 0], seen[:, 1]).mean(-1)
    torch.testing.assert_close(measured.alone[0].heads_SN[0], between)


def test_each_model_is_compared_with_the_last_of_the_trail_and_with_the_next() -> None:
    assert pairs_of(3, 4) == [(0, 2), (1, 2), (3, 2), (0, 1)]
    assert pairs_of(1, 1) == []


def test_models_of_other_heads_are_refused() -> None:
    model = trained_model(2)
    other = Encoder(replace(model.config, num_attention_heads=4))
    with pytest.raises(ValueError, match="different shapes"):
        measure([model, other], 2, sample(), CLS, SEP)


def test_tables_say_the_numbers_and_since_when_a_layer_is_settled() -> None:
    model = trained_model(4)
    models = [trained_model(2), shifted(model, 1.2, 2), model]
    told = {"text": "held-out text", "sequences": 6, "tokens": 41}
    values = to_values(measure(models, 3, sample(), CLS, SEP), ["a", "b", "c"], told, 2)
    assert [row["model"] for row in values["settled"][:2]] == ["a", "a"]
    text, lines = to_text(values, 80), to_csv(values).splitlines()
    assert "6 sequences, 41 tokens of held-out text" in text
    assert "Attention: distance from the model before" in text
    kinds = {line.partition(",")[0] for line in lines[1:]}
    assert kinds == {
        *("share of heads", "attention", "distance between heads", "distance of halves"),
        *("cka", "distance", "change of weights"),
    }
    one = to_values(measure([model], 1, sample(1), CLS, SEP), ["c"], {**told, "sequences": 1}, 0)
    assert one["pairs"] == one["settled"] == []
    assert "±" not in to_text(one, 80).partition("share of heads")[0]


def test_a_layer_that_left_its_place_again_was_not_settled() -> None:
    def pair(place: int, *means: float) -> dict[str, object]:
        rows = [{"layer": i, "distance": {"mean": mean}} for i, mean in enumerate(means, 1)]
        return {"from": f"m{place}", "models": [place, 3], "layers": [{"layer": 0}, *rows]}

    found = _settled([pair(0, 0.05, 0.05), pair(1, 0.2, 0.05), pair(2, 0.05, 0.05, 0.3)], 3)
    assert [row["model"] for row in found] == ["m2", "m0", None]
