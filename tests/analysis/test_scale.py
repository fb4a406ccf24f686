"""The calculation of many processes adds up."""

from dataclasses import replace
from math import inf

import pytest

from mslt.analysis.scale import (
    H100,
    Network,
    Parts,
    Rates,
    cluster,
    mean_seconds,
    simple_ratio,
    simple_ratio_ahead,
)
from mslt.config import ModelConfig
from mslt.cost import learning_parameters
from mslt.plan import Stage, build_plan

DEEP = ModelConfig(vocab_size=8, hidden_size=256, num_hidden_layers=48, max_position_embeddings=8)
WHOLE = Stage(48)


def ratio(rates: Rates, *, look_ahead: bool = False) -> float:
    """Seconds of the whole model over those of MSLT, layers being all that counts."""
    plan = build_plan("mslt", 48, 1000)

    def seconds(stage: Stage) -> float:
        return rates.parts(DEEP, stage, 4, slots=127).seconds(look_ahead)

    return seconds(WHOLE) / mean_seconds(plan, seconds)


def rates(r: float) -> Rates:
    """Of a machine on which all but the forward pass takes r of those, 2 of them to compute."""
    whole = Parts(prefix=0, forward=1, backward=2, update=0, traffic=r - 2)
    return Rates.of(whole, DEEP, WHOLE, 4, slots=127)


@pytest.mark.parametrize("r", [2, 3, 6, 20])
def test_where_layers_are_all_that_counts_the_parts_give_the_ratio_of_r_alone(r):
    found = rates(r)
    assert found.parts(DEEP, WHOLE, 4, slots=127).r == pytest.approx(r)
    assert ratio(found) == pytest.approx(simple_ratio(r), rel=0.02)
    expected = simple_ratio_ahead(r, hidden=r - 2)
    assert ratio(found, look_ahead=True) == pytest.approx(expected, rel=0.02)


def test_the_ratio_of_r_alone_is_the_paper_s():
    assert simple_ratio(2) == 2
    assert simple_ratio(6) == pytest.approx(2.26, abs=0.005)
    assert simple_ratio(1e9) == pytest.approx(2.5)
    assert simple_ratio_ahead(2, hidden=0) == 2
    assert simple_ratio_ahead(6, hidden=4) == pytest.approx(2.5)


def test_look_ahead_hides_the_shorter_of_traffic_and_forward_only_layers():
    parts = Parts(prefix=3, forward=1, backward=2, update=0.5, traffic=2)
    assert parts.seconds() == 8.5
    assert parts.seconds(look_ahead=True) == 6.5
    assert replace(parts, traffic=5).seconds(look_ahead=True) == 8.5
    assert parts.r == pytest.approx(4.5 / 4)


def test_the_backward_pass_hides_all_buckets_but_the_last():
    parts = Parts(prefix=0, forward=1, backward=2, update=0, traffic=1)
    assert parts.exposed == 1  # a single bucket, which leaves at the end
    assert replace(parts, buckets=4).exposed == 0.25
    assert replace(parts, buckets=4, traffic=8).exposed == 8 - 1.5


def test_each_rank_of_a_ring_sends_every_number_almost_twice():
    network = Network("slow", bandwidth=100.0, hop=0.5)
    assert network.traffic(2, width=4) == 4 / 100
    assert network.traffic(1000, width=2) == pytest.approx(4 / 100, rel=2e-3)
    assert network.latency(32) == 5

    numbers = learning_parameters(DEEP, WHOLE)
    parts = replace(cluster(H100, network, 2), bucket=numbers / 3).parts(DEEP, WHOLE, 4, slots=20)
    assert parts.buckets == 3
    assert parts.traffic == pytest.approx(numbers * 4 / 100 + 3 * 1.0)


def test_measured_parts_come_back_for_the_whole_model():
    whole = Parts(prefix=0, forward=1, backward=2, update=0.1, traffic=7)
    found = Rates.of(whole, DEEP, WHOLE, 4, slots=20)
    assert found.bucket == inf
    again = found.parts(DEEP, WHOLE, 4, slots=20)
    assert again.seconds() == pytest.approx(whole.seconds())
