import numpy as np
import pytest

from mslt.data.draws import below, bits, permuted, units


def test_bits_are_the_published_sequence_of_splitmix64():
    published = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    assert bits(1234567, np.arange(5)).tolist() == published


def test_bits_depend_on_key_and_counter_alone_and_are_broadcast():
    keys, counters = np.arange(5), np.arange(7)
    table = bits(keys[:, None], counters)
    assert table.shape == (5, 7)
    for i in range(5):
        for j in range(7):
            assert bits(i, j) == table[i, j]
    assert np.unique(table).size == table.size


@pytest.mark.parametrize("seed", [0, 1, 2**63, 2**64 - 1])
def test_any_whole_number_is_a_seed(seed):
    assert bits(seed, 0).dtype == np.uint64
    assert bits(seed, 0) != bits(seed + 1, 0)


@pytest.mark.parametrize("byte", range(8))
def test_every_byte_is_uniform_over_counters_and_over_keys(byte):
    n = 1 << 16
    instance_keys = bits(bits(0, 0), np.arange(n))
    for words in (bits(7, np.arange(n)), instance_keys, bits(instance_keys, 3)):
        counts = np.bincount(words.view(np.uint8).reshape(n, 8)[:, byte], minlength=256)
        chi_square = ((counts - n / 256) ** 2 / (n / 256)).sum()
        # 255 degrees of freedom: the mean is 255, the standard deviation 22.6.
        assert 255 - 5 * 22.6 < chi_square < 255 + 5 * 22.6


def test_neighbouring_keys_counters_and_seeds_draw_independent_numbers():
    keys = bits(bits(0, 0), np.arange(2000))
    u = units(keys[:, None], np.arange(50)) - 0.5
    other_seed = units(bits(bits(1, 0), np.arange(2000))[:, None], np.arange(50)) - 0.5
    pairs = {
        "counters": (u[:, :-1], u[:, 1:]),
        "keys": (u[:-1], u[1:]),
        "seeds": (u, other_seed),
        "diagonal": (u[:-1, 1:], u[1:, :-1]),
    }
    for name, (x, y) in pairs.items():
        correlation = 12 * (x * y).mean()
        assert abs(correlation) < 5 / np.sqrt(x.size), name


def test_each_bit_of_key_and_counter_flips_half_of_the_result():
    base = np.arange(1000, dtype=np.uint64)
    for position in range(64):
        flip = np.uint64(1 << position)
        by_key = bits(base, 0) ^ bits(base ^ flip, 0)
        by_counter = bits(0, base) ^ bits(0, base ^ flip)
        for changed in (by_key, by_counter):
            share = np.unpackbits(changed.view(np.uint8)).mean()
            assert abs(share - 0.5) < 0.02


def test_units_are_below_one_and_whole_numbers_stay_below_their_count():
    largest = 1 - 2.0**-53
    assert 0 <= units(0, np.arange(10000)).min() < units(0, np.arange(10000)).max() <= largest
    counts = np.array([0, 1, 2, 3, 1000, 2**31, 10**10, 2**40 + 1])
    assert below(np.full(8, largest), counts).tolist() == [0, *(counts[1:] - 1)]
    assert below(np.zeros(8), counts).tolist() == [0] * 8


def test_a_permutation_sends_every_number_to_another_place():
    for count in [*range(1, 301), 65536, 1_000_003]:
        places = permuted(np.arange(count), count, np.repeat(bits(3, count), count))
        assert np.array_equal(np.sort(places), np.arange(count)), count


def test_permutations_of_different_keys_are_different_and_can_be_asked_together():
    x, count = np.arange(100), 100
    first, second = permuted(x, count, bits(0, x * 0)), permuted(x, count, bits(0, x * 0 + 1))
    assert (first == second).sum() < 10
    assert (first == x).sum() < 10
    both = permuted(np.tile(x, 2), count, bits(0, np.repeat([0, 1], 100)))
    assert np.array_equal(both, np.concatenate([first, second]))


@pytest.mark.parametrize("count", [2, 7, 10, 100])
def test_a_number_goes_to_every_place_equally_often(count):
    n = 20000
    for x in (0, count // 2, count - 1):
        places = permuted(np.full(n, x), count, bits(11, np.arange(n)))
        counts = np.bincount(places, minlength=count)
        assert np.abs(counts - n / count).max() < 5 * np.sqrt(n / count)
