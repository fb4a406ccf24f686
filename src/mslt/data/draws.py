"""Random numbers as pure functions of what they are for: no generator, no state, no order.

Any process can draw the numbers of any training instance without having drawn those before it.
"""

from math import isqrt

import numpy as np

_ROUNDS = 4  # of the Feistel network; four make it pseudorandom (Luby and Rackoff 1988)

# 2^64 over the golden ratio, an odd number: the multiples of it spread evenly.
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_SHIFT_1, _SHIFT_2, _SHIFT_3 = np.uint64(30), np.uint64(27), np.uint64(31)
_FACTOR_1, _FACTOR_2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_ONE, _TO_53_BITS = np.uint64(1), np.uint64(11)


def bits(key: int | np.ndarray, counter: int | np.ndarray) -> np.ndarray:
    """64 random bits for each pair of key and counter; they can be the keys of further ones.

    Element `counter` of the SplitMix64 sequence whose state starts at `key` (Steele, Lea and
    Flood 2014), without the elements before it.

    Args:
        key: a seed, or random bits.
        counter: what they are drawn for, from 0 on. Both are broadcast.

    Returns:
        uint64, at least one-dimensional.
    """
    x = (_words(counter) + _ONE) * _GOLDEN + _words(key)
    x ^= x >> _SHIFT_1
    x *= _FACTOR_1
    x ^= x >> _SHIFT_2
    x *= _FACTOR_2
    x ^= x >> _SHIFT_3
    return x


def _words(x: int | np.ndarray) -> np.ndarray:
    if isinstance(x, int):
        return np.array([x % 2**64], np.uint64)
    return x.astype(np.uint64, copy=False)


def units(key: int | np.ndarray, counter: int | np.ndarray) -> np.ndarray:
    """Like `bits`, as float64 in [0, 1)."""
    return (bits(key, counter) >> _TO_53_BITS) * 2.0**-53


def below(unit: np.ndarray, count: int | np.ndarray) -> np.ndarray:
    """Whole numbers in [0, count), int64, from units in [0, 1). A count of 0 gives 0."""
    return (unit * count).astype(np.int64)


def permuted(x: np.ndarray, count: int, key: np.ndarray) -> np.ndarray:
    """Where each `x` goes in the pseudorandom permutation of [0, count) that its key stands for.

    A Feistel network on pairs of digits in base ceil(sqrt(count)); what lands at `count` or above
    is sent through again until it falls inside (Black and Rogaway 2002). It needs no memory,
    whatever the count.

    Args:
        x: int64 [B], each in [0, count).
        count: size of the permuted set, 1 or more.
        key: uint64 [B].

    Returns:
        int64 [B].
    """
    base = np.uint64(isqrt(count - 1) + 1)
    y = _feistel(x.astype(np.uint64), base, key)
    outside = np.flatnonzero(y >= count)
    while outside.size:
        y[outside] = _feistel(y[outside], base, key[outside])
        outside = outside[y[outside] >= count]
    return y.astype(np.int64)


def _feistel(x: np.ndarray, base: np.uint64, key: np.ndarray) -> np.ndarray:
    left, right = np.divmod(x, base)
    for i in range(_ROUNDS):
        # A remainder, so that the sum cannot wrap around 2^64 and break the bijection.
        noise = bits(key, right + base * np.uint64(i)) % base
        left, right = right, (left + noise) % base
    return left * base + right
