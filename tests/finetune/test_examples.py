"""Batches cover every example once, near in length, as a function of seed and epoch."""

import numpy as np

from mslt.finetune.examples import Encoded, TaskInputs, reading_order, training_order


def made_up(count: int = 203) -> Encoded:
    draw = np.random.default_rng(0)
    ids = [np.arange(draw.integers(3, 40)) + 5 for _ in range(count)]
    return Encoded(ids, [np.zeros_like(x) for x in ids], np.arange(count, dtype=np.float32), 0)


def test_an_epoch_has_every_example_once() -> None:
    encoded = made_up()
    for order in (training_order(encoded, 8, 1, 0), reading_order(encoded, 8)):
        assert sorted(np.concatenate(order)) == list(range(203))


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    encoded = made_up()

    def order(seed: int, epoch: int) -> list[int]:
        return np.concatenate(training_order(encoded, 8, seed, epoch)).tolist()

    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(1, 1)
    assert order(1, 0) != order(2, 0)


def test_little_is_padding() -> None:
    encoded = made_up(2000)
    batches = [encoded.batch(rows) for rows in training_order(encoded, 16, 0, 0)]
    padded = sum(batch.input_ids.size for batch in batches)
    real = sum(int(batch.lengths.sum()) for batch in batches)
    assert real / padded > 0.9


def test_a_batch_of_one_length_needs_no_mask() -> None:
    encoded = made_up()
    same = Encoded([np.arange(7)] * 4, [np.zeros(7, int)] * 4, np.zeros(4, np.float32), 0)
    assert TaskInputs.of(same.batch(np.arange(4)), "cpu").seen is None
    seen = TaskInputs.of(encoded.batch(np.arange(4)), "cpu").seen
    assert seen is not None
    assert seen.sum(1).tolist() == [len(encoded.ids[i]) for i in range(4)]
