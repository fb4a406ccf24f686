from dataclasses import fields

import numpy as np
import pytest
from made_up import FIRST, facts_for, random_split, split_of

from mslt.config import InstanceConfig
from mslt.data.instances import Batch, Instances
from mslt.data.masking import prediction_slots
from mslt.data.store import Split

PAIRS = ("nsp", "sop", "none")
NAMES = [field.name for field in fields(Batch)]


def instances(split=None, batch_size=16, seed=0, **config):
    split = split or random_split(30)
    return Instances(split, InstanceConfig(**config), facts_for(split), seed, batch_size)


def assert_equal(one, two):
    for name in NAMES:
        assert np.array_equal(getattr(one, name), getattr(two, name)), name


def together(batches):
    return Batch(*(np.concatenate([getattr(b, name) for b in batches]) for name in NAMES))


def restored(batch):
    """The pieces as they were before masking."""
    ids = batch.input_ids.copy()
    rows, slots = np.nonzero(batch.masked_weights)
    ids[rows, batch.masked_positions[rows, slots]] = batch.masked_ids[rows, slots]
    return ids


@pytest.mark.parametrize("pair", PAIRS)
def test_a_batch_is_the_same_whenever_it_is_asked_for(pair):
    one, two = instances(pair=pair), instances(pair=pair)
    late = one.batch(7, 64)
    for step in range(7):
        two.batch(step, 128)
    assert_equal(late, two.batch(7, 64))
    assert_equal(late, one.batch(7, 64))


@pytest.mark.parametrize("whole_word", [False, True])
def test_any_rows_of_a_batch_are_those_rows_of_the_whole(whole_word):
    made = instances(whole_word=whole_word)
    whole = made.batch(3, 64)
    for rows in (slice(0, 4), slice(4, 16), slice(1, 16, 5), slice(15, 16), slice(5, 5)):
        part = made.batch(3, 64, rows)
        assert_equal(part, whole[rows])


def test_an_instance_does_not_depend_on_the_batch_size():
    small, large = instances(batch_size=6), instances(batch_size=16)
    assert_equal(
        together([small.batch(step, 64) for step in range(8)]),
        together([large.batch(step, 64) for step in range(3)]),
    )


@pytest.mark.parametrize("dupe_factor", [1, 3])
@pytest.mark.parametrize("seq_len", [32, 128])
def test_batches_come_again_after_whole_steps(dupe_factor, seq_len):
    made = instances(dupe_factor=dupe_factor)
    period, epoch = made.period(seq_len), made.epoch_instances(seq_len)
    assert 0 <= period * 16 - dupe_factor * epoch < 16
    for step in (0, 2, period - 1):
        for later in (period, 5 * period):
            assert_equal(made.batch(step, seq_len), made.batch(step + later, seq_len))
    assert_equal(made.batch(2, seq_len), instances().batch(2, seq_len))
    numbers = np.concatenate([made.batch(step, seq_len).ids for step in range(period)])
    assert np.array_equal(numbers, np.arange(16 * period))
    part = made.batch(period + 1, seq_len, slice(4, 8))
    assert_equal(part, made.batch(1, seq_len)[4:8])


def test_instances_that_never_repeat_have_no_period():
    made = instances()
    assert made.period(64) == 0
    count = made.epoch_instances(64)
    far = made.batch(10 * count, 64)
    assert (far.ids >= 100 * count).all()


def test_other_seeds_give_other_instances():
    one, two = (instances(seed=seed).batch(0, 64) for seed in (0, 1))
    assert (one.input_ids != two.input_ids).any(axis=1).all()


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("seq_len", [8, 33, 128])
@pytest.mark.parametrize("whole_word", [False, True])
def test_shapes_and_types_are_the_same_for_every_batch(pair, seq_len, whole_word):
    made = instances(pair=pair, whole_word=whole_word)
    slots = prediction_slots(0.15, seq_len)
    for step in range(5):
        batch = made.batch(step, seq_len)
        assert batch.input_ids.shape == batch.token_type_ids.shape == (16, seq_len)
        assert batch.masked_positions.shape == batch.masked_ids.shape == (16, slots)
        assert batch.masked_weights.shape == (16, slots)
        assert batch.lengths.shape == batch.pair_labels.shape == (16,)
        for name in NAMES:
            expected = np.float32 if name == "masked_weights" else np.int64
            assert getattr(batch, name).dtype == expected, name


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("seq_len", [8, 64, 300])
@pytest.mark.parametrize("longest", [1, 60])
def test_a_sequence_is_cls_a_sep_b_sep_and_padding(pair, seq_len, longest):
    split = random_split(40, longest=longest)
    vocabulary = facts_for(split)
    batch = instances(split, batch_size=300, pair=pair).batch(1, seq_len)
    starts = split.sentences[split.documents.astype(int)].astype(np.int64)
    documents = np.searchsorted(starts, np.arange(len(split.tokens)), side="right") - 1
    for ids, types, length, label in zip(
        restored(batch), batch.token_type_ids, batch.lengths, batch.pair_labels
    ):
        assert (ids[length:] == vocabulary.pad).all()
        assert ids[0] == vocabulary.cls
        ends = np.flatnonzero(ids == vocabulary.sep)
        assert ends[-1] == length - 1
        assert len(ends) == (1 if pair == "none" else 2)
        a = ids[1 : ends[0]] - FIRST
        b = ids[ends[0] + 1 : ends[-1]] - FIRST if pair != "none" else a[:0]
        expected_types = np.zeros(seq_len, np.int64)
        expected_types[ends[0] + 1 : length] = 1
        assert np.array_equal(types, expected_types)
        assert a.size > 0
        for segment in (a, b):
            assert (np.diff(segment) == 1).all()
            assert len(set(documents[segment])) <= 1
        if pair == "nsp":
            assert b.size > 0
            assert (documents[a[0]] != documents[b[0]]) == label
        if pair == "sop" and b.size:
            assert documents[a[0]] == documents[b[0]]
            assert (b[0] < a[0]) == label
        if pair == "none":
            assert label == 0


@pytest.mark.parametrize("pair", PAIRS)
def test_sequences_are_full_where_documents_are_long(pair):
    made = instances(split_of([[10] * 400] * 5), batch_size=500, pair=pair, short_prob=0.0)
    lengths = made.batch(0, 128).lengths
    if pair == "nsp":  # a random segment stops where its document does
        assert (lengths == 128).mean() > 0.97
    else:
        assert (lengths == 128).all()


@pytest.mark.parametrize("pair", PAIRS)
def test_an_epoch_takes_every_slot_of_the_corpus_once(pair):
    split = random_split(50)
    made = instances(split, pair=pair)
    count = made.epoch_instances(32)
    tokens = len(split.tokens)
    orders = []
    for epoch in range(3):
        anchors = made.anchors(np.arange(count) + epoch * count, 32)
        assert anchors.min() >= 0
        assert anchors.max() < tokens
        steps = np.diff(np.sort(anchors))
        assert (np.abs(steps - tokens / count) <= 1).all()
        orders.append(anchors)
    assert not np.array_equal(np.sort(orders[0]), np.sort(orders[1]))
    assert (np.abs(orders[0] - orders[1]) < tokens / count).mean() < 0.1
    assert abs(np.corrcoef(np.arange(count), orders[0])[0, 1]) < 5 / np.sqrt(count)


def test_an_epoch_reads_each_token_of_a_long_document_about_once():
    split = split_of([[1] * 20000])
    made = instances(split, batch_size=200, pair="none", short_prob=0.0)
    assert made.epoch_instances(102) == 200
    ids = restored(together([made.batch(epoch, 102) for epoch in range(50)]))
    seen = np.bincount(ids[:, 1:-1].ravel() - FIRST, minlength=20000)
    middle = seen[200:-200]
    assert abs(middle.mean() - 50) < 1
    assert middle.min() > 25
    assert seen[:10].mean() > 15  # half as often at the ends, rather than never
    assert seen[-10:].mean() > 15
    assert seen.sum() == 50 * 20000


def test_epochs_count_how_often_the_corpus_has_been_seen():
    made = instances(split_of([[1] * 1000]), batch_size=5, pair="none", short_prob=0.0)
    assert made.epoch_instances(102) == 10
    assert [made.epoch(step, 102) for step in (0, 1, 2, 6)] == [0, 0.5, 1, 3]


def test_the_epochs_of_a_corpus_smaller_than_a_batch_follow_each_other_inside_it():
    split = split_of([[3, 2], [4], [1, 1, 1]])
    made = instances(split, batch_size=64)
    assert made.epoch_instances(128) == 1
    batch = made.batch(0, 128)
    assert len(np.unique(batch.input_ids, axis=0)) > 10
    assert (batch.masked_weights.sum(axis=1) >= 1).all()


def test_every_epoch_has_new_masks():
    made = instances(split_of([[60]]), batch_size=500, pair="none")
    assert made.epoch_instances(128) == 1
    batch = made.batch(0, 128)
    assert len(np.unique(batch.masked_positions, axis=0)) == 500


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("documents", [[[1]] * 10, [[20]] * 10, [[1] * 50] * 2, [[5000], [1]]])
def test_odd_corpora_make_instances_too(pair, documents):
    split = split_of(documents)
    batch = instances(split, pair=pair, batch_size=100).batch(2, 16)
    ids = restored(batch)
    assert set(ids[ids >= FIRST]) <= set(split.tokens.tolist())
    assert (batch.masked_weights.sum(axis=1) >= 1).all()


def test_a_store_on_disk_in_16_bits_gives_the_same_instances(tmp_path):
    split = random_split(40)
    mapped = {}
    for name, dtype in (("tokens", "uint16"), ("sentences", "uint64"), ("documents", "uint64")):
        getattr(split, name).astype(dtype).tofile(tmp_path / name)
        mapped[name] = np.memmap(tmp_path / name, dtype=dtype, mode="r")
    one, two = (instances(s).batch(3, 128) for s in (split, Split(**mapped)))
    assert_equal(one, two)


def test_instances_are_the_ones_that_earlier_versions_made():
    # A run that is resumed goes on with the same data; whoever changes these numbers changes that.
    batch = instances(split_of([[7, 5, 9] * 6] * 4), batch_size=2, seed=3).batch(6, 16)
    assert batch.input_ids.tolist() == [
        [2, 320, 321, 322, 323, 324, 325, 326, 3, 102, 103, 104, 4, 106, 4, 3],
        [2, 459, 460, 190, 462, 463, 464, 4, 3, 468, 469, 470, 471, 472, 473, 3],
    ]
    assert batch.masked_positions.tolist() == [[12, 14, 0], [3, 7, 0]]
    assert batch.pair_labels.tolist() == [1, 0]


def test_nsp_needs_a_second_document():
    single = split_of([[5, 5, 5]])
    with pytest.raises(ValueError, match=r"instances\.pair nsp needs two documents"):
        instances(single)
    for pair in ("sop", "none"):
        instances(single, pair=pair).batch(0, 16)


def test_a_corpus_without_text_is_refused():
    empty = Split(np.zeros(0, np.uint16), np.zeros(1, np.uint64), np.zeros(1, np.uint64))
    with pytest.raises(ValueError, match="no text"):
        Instances(empty, InstanceConfig(), facts_for(random_split(2)), 0, 16)


def test_a_sequence_too_short_for_two_segments_is_refused():
    with pytest.raises(ValueError, match="seq_len must be 8 or more, not 7"):
        instances().batch(0, 7)
