import numpy as np
import pytest
from made_up import random_split, split_of

from mslt.data.draws import bits, units
from mslt.data.pairs import DRAWS, Corpus, Segments, segments, truncated_sizes


def draw(split, pair, n=2000, room=60, short_prob=0.1, anchors=None, seed=0):
    corpus = Corpus(split)
    if anchors is None:
        anchors = np.arange(n) * 7919 % corpus.tokens.size
    u = units(bits(seed, np.arange(len(anchors)))[:, None], np.arange(DRAWS))
    return segments(corpus, anchors, u, pair=pair, short_prob=short_prob, room=room)


def document_of(split, token):
    starts = split.sentences[split.documents.astype(int)].astype(np.int64)
    return np.searchsorted(starts, token, side="right") - 1


def devlin_truncation(a, b, room):
    while a + b > room:
        if a > b:
            a -= 1
        else:
            b -= 1
    return a, b


@pytest.mark.parametrize("room", [2, 3, 5, 12, 13])
def test_truncation_leaves_what_the_loop_of_the_original_leaves(room):
    a, b = (x.ravel() for x in np.meshgrid(np.arange(40), np.arange(40)))
    expected = [devlin_truncation(*pair, room) for pair in zip(a.tolist(), b.tolist())]
    assert list(zip(*(x.tolist() for x in truncated_sizes(a, b, room)))) == expected


def test_a_chunk_has_whole_sentences_until_they_suffice_or_the_document_ends():
    corpus = Corpus(split_of([[3, 4, 5], [6]]))
    chunk = corpus.chunk(np.array([0, 0, 1, 2, 3]), np.array([3, 4, 9, 6, 1]))
    assert chunk.first.tolist() == [0, 0, 1, 2, 3]
    assert chunk.last.tolist() == [1, 2, 3, 3, 4]
    assert chunk.document_begin.tolist() == [0, 0, 0, 0, 12]
    assert chunk.document_end.tolist() == [12, 12, 12, 12, 18]


def test_a_window_is_shifted_to_where_its_document_has_enough_tokens():
    corpus = Corpus(split_of([[5] * 4, [5] * 2]))
    tokens, target = np.array([0, 4, 12, 19, 19, 29]), np.array([10, 10, 10, 10, 10, 25])
    lead = np.array([9, 0, 6, 0, 9, 0])
    chunk = corpus.window(tokens, target, lead)
    assert chunk.first.tolist() == [0, 0, 1, 2, 2, 4]
    assert chunk.last.tolist() == [2, 2, 3, 4, 4, 6]


@pytest.mark.parametrize("pair", ["nsp", "sop", "none"])
@pytest.mark.parametrize("room", [5, 60, 500])
@pytest.mark.parametrize("longest", [1, 60])
def test_segments_fit_and_lie_in_one_document_each(pair, room, longest):
    split = random_split(30, longest=longest)
    s = draw(split, pair, room=room)
    assert (s.a_size >= 1).all()
    assert (s.b_size >= (pair == "nsp")).all()
    assert (s.a_size + s.b_size <= room).all()
    assert (document_of(split, s.a_begin) == document_of(split, s.a_begin + s.a_size - 1)).all()
    some = s.b_size > 0
    begin, end = s.b_begin[some], (s.b_begin + s.b_size)[some]
    assert (document_of(split, begin) == document_of(split, end - 1)).all()


@pytest.mark.parametrize("seed", range(5))
def test_a_random_next_comes_from_another_document_always(seed):
    split = random_split(seed + 2, seed=seed)
    s = draw(split, "nsp", seed=seed)
    other = document_of(split, s.a_begin) != document_of(split, s.b_begin)
    assert np.array_equal(other, s.labels == 1)
    assert 0 < s.labels.mean() < 1


def test_a_true_next_begins_where_a_ends_unless_tokens_had_to_go():
    split = random_split(30)
    s = draw(split, "nsp", room=400)
    follows = s.labels == 0
    whole = follows & (s.a_size + s.b_size < 400)
    assert whole.sum() > 100
    assert np.array_equal(s.b_begin[whole], (s.a_begin + s.a_size)[whole])
    assert (s.b_begin[follows] >= (s.a_begin + s.a_size)[follows]).all()
    boundaries = split.sentences.astype(np.int64)
    for edge in (s.a_begin, s.b_begin, s.b_begin + s.b_size):
        assert np.isin(edge[whole], boundaries).all()


def test_half_of_the_next_segments_are_random_and_all_after_a_single_sentence():
    n = 20000
    many = draw(split_of([[2] * 500] * 5), "nsp", n=n, short_prob=0.0)
    assert abs(many.labels.mean() - 0.5) < 5 * 0.5 / np.sqrt(n)
    assert draw(split_of([[20]] * 50), "nsp").labels.all()


def test_a_takes_every_number_of_the_sentences_equally_often():
    n = 20000
    s = draw(split_of([[1] * 500] * 5), "nsp", n=n, room=11, short_prob=0.0)
    counts = np.bincount(s.a_size, minlength=11)
    assert counts[0] == 0
    assert counts.size == 11
    assert np.abs(counts[1:] - n / 10).max() < 5 * np.sqrt(n / 10)


def test_random_segments_come_from_all_other_tokens_equally_often():
    n = 30000
    split = split_of([[1] * 100, [1] * 100, [1] * 200, [1] * 50])
    s = draw(split, "nsp", n=n, room=2, short_prob=0.0, anchors=np.full(n, 150))
    picked = s.b_begin[s.labels == 1]
    counts = np.bincount(picked, minlength=450)
    assert (counts[100:200] == 0).all()
    assert (counts[:100] > 0).all()
    assert (counts[200:] > 0).all()
    by_document = np.bincount(document_of(split, picked), minlength=4)
    expected = picked.size * np.array([100, 0, 200, 50]) / 350
    assert (np.abs(by_document - expected) <= 5 * np.sqrt(expected)).all()


def test_one_in_ten_aims_at_a_random_shorter_length():
    n, room = 20000, 100
    split = split_of([[1] * 3000] * 3)
    full = draw(split, "sop", n=n, room=room, short_prob=0.0)
    assert (full.a_size + full.b_size == room).all()
    some = draw(split, "sop", n=n, room=room, short_prob=0.1)
    sizes = some.a_size + some.b_size
    expected = 0.1 * (1 - 1 / 99)
    assert abs((sizes < room).mean() - expected) < 5 * np.sqrt(0.1 * 0.9 / n)
    short = draw(split, "sop", n=n, room=room, short_prob=1.0)
    counts = np.bincount(short.a_size + short.b_size, minlength=room + 1)
    assert (counts[:2] == 0).all()
    assert np.abs(counts[2:] - n / 99).max() < 5 * np.sqrt(n / 99)


def test_swapped_segments_are_the_ordered_ones_in_the_other_order():
    split = random_split(30, sentences=80)
    s = draw(split, "sop", n=20000, room=100)
    assert abs(s.labels.mean() - 0.5) < 5 * 0.5 / np.sqrt(20000)
    swapped = s.labels == 1
    assert (document_of(split, s.a_begin) == document_of(split, s.b_begin)).all()
    assert ((s.a_begin + s.a_size)[~swapped] <= s.b_begin[~swapped]).all()
    assert ((s.b_begin + s.b_size)[swapped] <= s.a_begin[swapped]).all()
    whole = swapped & (s.a_size + s.b_size < 100)
    assert np.array_equal((s.b_begin + s.b_size)[whole], s.a_begin[whole])


@pytest.mark.parametrize("size", [2, 30, 500])
def test_a_single_sentence_is_cut_inside_and_its_parts_meet(size):
    s = draw(split_of([[size]] * 20), "sop", room=60)
    assert (s.a_size + s.b_size == min(size, 60)).all()
    assert np.minimum(s.a_size, s.b_size).min() >= 1
    ordered = s.labels == 0
    assert np.array_equal(s.b_begin[ordered], (s.a_begin + s.a_size)[ordered])
    assert np.array_equal(s.a_begin[~ordered], (s.b_begin + s.b_size)[~ordered])


def test_a_sentence_longer_than_there_is_room_for_is_seen_in_all_its_parts():
    split = split_of([[1000], [1000]])
    for pair in ("nsp", "sop", "none"):
        s = draw(split, pair, n=4000, room=100)
        seen = np.zeros(2001, np.int64)
        np.add.at(seen, s.a_begin, 1)
        np.add.at(seen, s.a_begin + s.a_size, -1)
        np.add.at(seen, s.b_begin, 1)
        np.add.at(seen, s.b_begin + s.b_size, -1)
        assert (seen.cumsum()[[10, 500, 990, 1010, 1500, 1990]] > 0).all()


def test_documents_of_one_token_still_make_instances():
    split = split_of([[1]] * 10)
    for pair in ("nsp", "sop", "none"):
        s = draw(split, pair, n=100, room=5)
        assert isinstance(s, Segments)
        assert (s.a_size + s.b_size == (2 if pair == "nsp" else 1)).all()


def test_whatever_the_type_of_the_offsets_the_segments_are_the_same():
    split = random_split(20)
    other = type(split)(
        split.tokens, split.sentences.astype(np.int64), split.documents.astype(np.uint32)
    )
    one, two = draw(split, "nsp"), draw(other, "nsp")
    for name in Segments.__dataclass_fields__:
        assert np.array_equal(getattr(one, name), getattr(two, name))
