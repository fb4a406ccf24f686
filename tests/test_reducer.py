"""What travels between processes, and what comes of it."""

import gc
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from processes import together

from mslt import reducer as reducers
from mslt.config import ModelConfig, OptimizerConfig
from mslt.data.instances import Batch
from mslt.growth import freeze, grow, learning
from mslt.model import Encoder
from mslt.optim import ROW, Optimizer
from mslt.plan import METHODS, build_plan
from mslt.recipes import RECIPES
from mslt.reducer import Reducer, buckets
from mslt.trainer import Settings, Trainer
from mslt.world import Sum, World, joined

# The key bias has a true gradient of zero, of which AdamW makes a step in the direction of the
# rounding; under LAMB's clipping alone it stays small enough for losses to agree.
PLAIN = Settings(OptimizerConfig("adamw"), "fp32", micro_batch=2, pair=True, seed=7)


class Alone(World):
    """A process whose companions have no gradients: what it sends comes back as it was."""

    def sum(self, tensor):
        return Sum()


def stages(method: str, config: ModelConfig) -> Iterator[Encoder]:
    """The model as it stands in each stage of a plan, grown and frozen."""
    rows = build_plan(method, config.num_hidden_layers, 100).stages
    model = Encoder(config, rows[0].depth)
    for stage in rows:
        model = grow(model, stage.depth) if model.depth != stage.depth else model
        freeze(model, stage.learns_from)
        yield model


# --- bytes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("wire", "precision", "size"),
    [("fp32", "fp32", 4), ("fp32", "bf16", 4), ("bf16", "fp32", 2), ("bf16", "bf16", 2)],
)
def test_what_travels_is_the_gradients_of_what_learns(
    tiny, random_batch, monkeypatch, method, wire, precision, size
):
    """Four bytes for each learning parameter, or two, but for gaps of a few elements that align."""
    monkeypatch.setattr(reducers, "BUCKET", 1000)
    settings = replace(PLAIN, reduce=wire, precision=precision, micro_batch=4)
    for model in stages(method, replace(tiny, num_hidden_layers=4)):
        trainer = Trainer(model, settings, {}, Alone(0, 2))
        for step in range(2):
            trainer.step(step, random_batch(step), 1e-3)
            sizes = [p.numel() for _, p in learning(model)]
            gaps = trainer.reducer.bytes / size - sum(sizes)
            assert 0 <= gaps <= sum(-size % ROW for size in sizes)


def test_stages_2_to_k_of_bert_base_send_a_fifth_of_the_whole_models_bytes():
    """The paper's communication saving: 21.9 of 109.5 million parameters."""
    config = replace(RECIPES["bert_base_mslt"]().model, vocab_size=30_522)
    sent = []
    with torch.device("meta"):
        for model in stages("mslt", config):
            optimizer = Optimizer(dict(learning(model)), OptimizerConfig())
            spans = optimizer.spans()
            reducer = Reducer(optimizer.grads, spans, list(spans), Alone(0, 2))
            reducer.begin()
            reducer.finish()
            sent.append(reducer.bytes)
    assert [round(100 * part / sent[-1]) for part in sent] == [42, 20, 20, 20, 100]


# --- when it travels ----------------------------------------------------------------------------


def test_buckets_cover_the_buffer_once_and_the_top_of_the_model_goes_first(tiny, monkeypatch):
    monkeypatch.setattr(reducers, "BUCKET", 2000)
    parameters = dict(Encoder(tiny, 3).named_parameters())
    spans = Optimizer(parameters, OptimizerConfig()).spans()
    cut = buckets(spans, list(parameters))
    covered = sorted((span.start, span.stop) for span, _ in cut)
    gaps = [start - stop for (_, stop), (start, _) in pairwise(covered)]
    assert all(0 <= gap < ROW for gap in gaps)
    sizes = [p.numel() for p in parameters.values()]
    assert 0 <= covered[-1][1] - sum(sizes) <= sum(-size % ROW for size in sizes)
    assert sorted(name for _, names in cut for name in names) == sorted(parameters)
    assert any(name.startswith("head") for name in cut[0][1])
    assert any(name.startswith("embeddings") for name in cut[-1][1])
    assert all(s.stop - s.start <= 2000 or len(names) == 1 for s, names in cut)


def test_nothing_travels_before_the_last_micro_batch_and_most_does_before_it_ends(
    tiny, random_batch, monkeypatch
):
    """Else every micro-batch would cost the network a pass, or the backward pass hide nothing."""
    monkeypatch.setattr(reducers, "BUCKET", 1000)
    trainer = Trainer(Encoder(tiny, 4), PLAIN, {}, Alone(0, 2))
    sent, backwards = [], []
    monkeypatch.setattr(Alone, "sum", lambda _, part: sent.append(part.numel()) or Sum())
    backward = torch.Tensor.backward

    def watched(loss):
        before = len(sent)
        backward(loss)
        backwards.append(len(sent) - before)

    monkeypatch.setattr(torch.Tensor, "backward", watched)
    trainer.step(0, random_batch(), 1e-3)
    assert backwards[:-1] == [0, 0, 0]
    assert backwards[-1] == len(trainer.reducer._buckets) > 10


def test_buckets_leave_in_one_order_whatever_is_complete_first(tiny, monkeypatch):
    monkeypatch.setattr(reducers, "BUCKET", 2000)
    sent: list[int] = []
    monkeypatch.setattr(Alone, "sum", lambda _, part: sent.append(part.data_ptr()) or Sum())
    parameters = dict(Encoder(tiny, 2).named_parameters())
    optimizer = Optimizer(parameters, OptimizerConfig())
    for turned in (1, -1):
        reducer = Reducer(optimizer.grads, optimizer.spans(), list(parameters), Alone(0, 2))
        reducer.begin()
        for name in list(parameters)[::turned]:
            reducer.complete(name)
        reducer.finish()
    half = len(sent) // 2
    assert sent[:half] == sent[half:]
    assert len(set(sent)) == half > 2


def test_a_trainer_of_an_earlier_stage_is_forgotten(tiny, random_batch):
    """The same parameters learn on in the next stage: nothing may fill, or keep, old buffers."""
    model = Encoder(tiny, 2)
    first = Trainer(model, PLAIN, {}, Alone(0, 2))
    first.step(0, random_batch(), 1e-3)
    old, twin = first.reducer, weakref.ref(first.twin.model)
    del first
    gc.collect()
    assert twin() is None
    second = Trainer(model, PLAIN, {}, Alone(0, 2))
    old.begin()
    second.step(1, random_batch(1), 1e-3)
    assert not old._sent


# --- with other processes -----------------------------------------------------------------------


Steps = list[tuple[list[float], list[int]]]


def train(
    world: World, config: ModelConfig, settings: Settings, batches: list[Batch], look_ahead: bool
) -> tuple[Steps, float]:
    """Losses and instances of each step in two stages of training, and a sum of all weights."""
    found = []
    model = Encoder(config, 3)
    rows = world.rows(len(batches[0].lengths), settings.micro_batch)
    mine = dict(enumerate(batch[rows] for batch in batches))
    for below in (0, 2):
        freeze(model, below)
        how = replace(settings, first=rows.start, look_ahead=look_ahead)
        trainer = Trainer(model, how, {}, world)
        for step, batch in mine.items():
            later: Callable[[], Batch] | None = partial(mine.__getitem__, step + 1)
            if step + 1 not in mine:
                later = None
            values = trainer.step(step, batch, 1e-2, upcoming=later)
            found.append(([float(value) for value in values.values()], batch.ids.tolist()))
    return found, sum(float(p.detach().double().abs().sum()) for p in model.parameters())


def variants(config: ModelConfig, batches: list[Batch]) -> dict[str, tuple[Steps, float]]:
    """What one of some processes finds."""
    with joined("cpu") as world:
        return {
            "plain": train(world, config, PLAIN, batches, look_ahead=False),
            "ahead": train(world, config, PLAIN, batches, look_ahead=True),
            "bf16": train(world, config, replace(PLAIN, reduce="bf16"), batches, look_ahead=True),
        }


@pytest.fixture(scope="module")
def seen(tiny, random_batch) -> dict[int, list[dict[str, tuple[Steps, float]]]]:
    """What each of 1, 2 and 4 processes finds on five global batches."""
    batches = [random_batch(step) for step in range(5)]
    alone = variants(tiny, batches)
    return {1: [alone], **{size: together(size, variants, tiny, batches) for size in (2, 4)}}


@pytest.mark.parametrize("size", [2, 4])
def test_any_number_of_processes_trains_the_same(seen, size):
    """Dropout on. Sums are rounded in another order: 1e-5 of a loss, after ten steps."""
    alone, _ = seen[1][0]["plain"]
    parts = [one["plain"] for one in seen[size]]
    for step, (losses, ids) in enumerate(alone):
        assert [number for steps, _ in parts for number in steps[step][1]] == ids
        for steps, _ in parts:
            np.testing.assert_allclose(steps[step][0], losses, rtol=1e-5)
            assert steps[step][0] == parts[0][0][step][0]
    assert all(weights == parts[0][1] for _, weights in parts)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_looking_ahead_changes_no_bit(seen, size):
    """Dropout on, in the layers that are passed ahead too."""
    for one in seen[size]:
        assert one["ahead"] == one["plain"]


@pytest.mark.parametrize("size", [2, 4])
def test_gradients_may_travel_in_bf16(seen, size):
    """Rounded to 8 bits: every process has the same, and losses agree to 1 %."""
    parts = [one["bf16"] for one in seen[size]]
    assert all(weights == parts[0][1] for _, weights in parts)
    assert parts[0] != seen[size][0]["plain"]
    for (losses, _), (expected, _) in zip(parts[0][0], seen[1][0]["plain"][0]):
        np.testing.assert_allclose(losses[:2], expected[:2], rtol=0.01)
