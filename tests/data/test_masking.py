import numpy as np
import pytest

from mslt.data.draws import bits
from mslt.data.masking import VocabularyFacts, mask, prediction_slots

PAD, UNK, CLS, SEP, MASK = range(5)
V = 1000


def facts(continuation=()):
    ids = np.arange(V)
    return VocabularyFacts(PAD, CLS, SEP, MASK, ids < 5, np.isin(ids, list(continuation)))


def sequences(rows, length, content_sizes=None, seed=0):
    """Rows [CLS] content [SEP] padding, and which is content."""
    random = np.random.default_rng(seed)
    ids = random.integers(5, V, (rows, length))
    sizes = np.full(rows, length - 2) if content_sizes is None else np.asarray(content_sizes)
    column = np.arange(length)
    content = (column > 0) & (column <= sizes[:, None])
    ids[~content] = PAD
    ids[:, 0] = CLS
    ids[np.arange(rows), sizes + 1] = SEP
    return ids, content


def masked(ids, content, vocabulary=None, seed=0, mask_prob=0.15, whole_word=False):
    return mask(
        ids.copy(),
        content,
        bits(seed, np.arange(len(ids))),
        vocabulary or facts(),
        mask_prob=mask_prob,
        whole_word=whole_word,
    )


def chosen(result, shape):
    """Which positions are predicted, as bool [B, L]."""
    where = np.zeros(shape, bool)
    rows, slots = np.nonzero(result.weights)
    where[rows, result.positions[rows, slots]] = True
    return where


def test_there_are_20_slots_at_128_and_77_at_512():
    assert prediction_slots(0.15, 128) == 20
    assert prediction_slots(0.15, 512) == 77
    assert prediction_slots(0.07, 100) == 7
    assert prediction_slots(0.001, 128) == 1


@pytest.mark.parametrize("whole_word", [False, True])
@pytest.mark.parametrize("mask_prob", [0.01, 0.15, 0.5, 0.9])
def test_every_sequence_predicts_its_share_and_one_at_the_least(mask_prob, whole_word):
    sizes = np.arange(1, 127)
    ids, content = sequences(len(sizes), 128, sizes)
    result = masked(ids, content, mask_prob=mask_prob, whole_word=whole_word)
    expected = np.maximum(1, np.floor(mask_prob * sizes + 0.5))
    assert np.array_equal(result.weights.sum(axis=1), expected)
    slots = prediction_slots(mask_prob, 128)
    assert result.positions.shape == result.ids.shape == result.weights.shape == (126, slots)
    assert result.weights.dtype == np.float32


@pytest.mark.parametrize("whole_word", [False, True])
def test_only_content_is_predicted_and_the_rest_is_left_alone(whole_word):
    ids, content = sequences(500, 64, np.arange(500) % 62 + 1)
    result = masked(ids, content, whole_word=whole_word)
    where = chosen(result, ids.shape)
    assert not (where & ~content).any()
    assert np.array_equal(result.input_ids[~where], ids[~where])


@pytest.mark.parametrize("whole_word", [False, True])
def test_what_was_there_can_be_restored(whole_word):
    ids, content = sequences(300, 64, np.arange(300) % 62 + 1)
    result = masked(ids, content, facts(range(5, V, 3)), whole_word=whole_word)
    restored = result.input_ids.copy()
    rows, slots = np.nonzero(result.weights)
    restored[rows, result.positions[rows, slots]] = result.ids[rows, slots]
    assert np.array_equal(restored, ids)


@pytest.mark.parametrize("whole_word", [False, True])
def test_positions_ascend_and_slots_without_use_are_zero(whole_word):
    ids, content = sequences(300, 64, np.arange(300) % 62 + 1)
    result = masked(ids, content, whole_word=whole_word)
    used = result.weights > 0
    assert set(np.unique(result.weights)) == {0.0, 1.0}
    assert (used[:, :-1] >= used[:, 1:]).all()
    assert (np.diff(result.positions, axis=1)[used[:, 1:]] > 0).all()
    assert not result.positions[~used].any()
    assert not result.ids[~used].any()


def test_80_percent_become_mask_10_percent_another_piece_and_10_percent_stay():
    ids, content = sequences(8000, 128)
    result = masked(ids, content)
    used = result.weights > 0
    shown = np.take_along_axis(result.input_ids, result.positions, axis=1)[used]
    n = used.sum()
    is_mask, stays = shown == MASK, shown == result.ids[used]
    # A random piece is the one that was there once in 995 times.
    expected = {"mask": 0.8, "stays": 0.1 + 0.1 / 995, "random": 0.1 - 0.1 / 995}
    found = {"mask": is_mask, "stays": stays, "random": ~is_mask & ~stays}
    for name, share in expected.items():
        assert abs(found[name].mean() - share) < 5 * np.sqrt(share * (1 - share) / n), name
    pieces = np.bincount(shown[~is_mask & ~stays], minlength=V)
    assert (pieces[:5] == 0).all()
    mean = pieces[5:].mean()
    assert np.abs(pieces[5:] - mean).max() < 6 * np.sqrt(mean)


def test_every_position_is_predicted_equally_often_and_neighbours_independently():
    n, length = 20000, 42
    ids, content = sequences(n, length)
    where = chosen(masked(ids, content), ids.shape)[:, 1:-1]
    share = 6 / 40
    assert np.abs(where.mean(axis=0) - share).max() < 5 * np.sqrt(share * (1 - share) / n)
    both = (where[:, 1:] & where[:, :-1]).mean()
    assert abs(both - 6 * 5 / (40 * 39)) < 0.001


def test_an_odd_length_works_like_an_even_one():
    ids, content = sequences(100, 33)
    result = masked(ids, content)
    assert (result.weights.sum(axis=1) == 5).all()


def test_other_keys_give_other_masks_and_the_same_keys_the_same():
    ids, content = sequences(50, 64)
    one, same, other = (masked(ids, content, seed=seed) for seed in (0, 0, 1))
    assert np.array_equal(one.positions, same.positions)
    assert np.array_equal(one.input_ids, same.input_ids)
    assert (one.positions != other.positions).any(axis=1).mean() > 0.99


def words_of(row, content, continuation):
    """Positions of each word, in plain Python; a gap in the content ends a word."""
    words = []
    for position in np.flatnonzero(content):
        joined = words and continuation[row[position]] and words[-1][-1] == position - 1
        if joined:
            words[-1].append(position)
        else:
            words.append([position])
    return words


def test_whole_words_are_never_cut_and_as_many_are_taken_as_fit():
    vocabulary = facts(range(500, V))
    ids, content = sequences(400, 64, np.arange(400) % 62 + 1)
    content[:, 20] = False  # a [SEP] between two segments
    ids[:, 20] = SEP
    result = masked(ids, content, vocabulary, whole_word=True)
    where = chosen(result, ids.shape)
    budget = np.maximum(1, np.floor(0.15 * content.sum(axis=1) + 0.5))
    for row in range(400):
        words = words_of(ids[row], content[row], vocabulary.continuation)
        taken = [where[row, word].all() for word in words]
        assert all(where[row, word].any() == t for word, t in zip(words, taken))
        left = budget[row] - where[row].sum()
        assert left >= 0
        assert all(len(word) > left for word, t in zip(words, taken) if not t)


def test_short_and_long_words_begin_with_equal_chances():
    # Words of one and of two pieces by turns: with a large budget, chances differ little.
    row = np.array([CLS, *[10, 11, 600] * 20, SEP])
    ids = np.tile(row, (5000, 1))
    content = (ids != CLS) & (ids != SEP)
    where = chosen(masked(ids, content, facts(range(500, V)), whole_word=True), ids.shape)
    single, double = where[:, 1:-1:3].mean(), where[:, 2:-1:3].mean()
    assert single == pytest.approx(0.16, abs=0.02)
    assert double == pytest.approx(0.14, abs=0.02)


def test_a_word_too_long_for_the_share_is_never_predicted():
    row = np.array([CLS, 10, *[600] * 7, SEP])
    ids = np.tile(row, (50, 1))
    content = (ids != CLS) & (ids != SEP)
    result = masked(ids, content, facts(range(500, V)), whole_word=True)
    assert not result.weights.any()
    assert np.array_equal(result.input_ids, ids)
