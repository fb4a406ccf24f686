"""Random numbers as pure functions of what they are for: no generator, no state, no order.

Any process can draw the numbers of any training instance without having drawn those before it.
"""

from math import isqrt

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)  # 2^64 over the golden ratio: steps that never line up
_ROUNDS = 4  # of the Feistel network; four make it pseudorandom (Luby and Rackoff 1988)


def bits(*counters: int | np.ndarray) -> np.ndarray:
    """64 random bits for each tuple of counters, for instance (seed, instance, lane).

    Args:
        counters: whole numbers from 0 on, or arrays of them; they are broadcast.

    Returns:
        uint64, of the broadcast shape, at least one-dimensional.
    """
    key = np.zeros(1, np.uint64)
    for counter in counters:
        if isinstance(counter, int):
            counter = np.array([counter % 2**64], np.uint64)
        key = _mix(key + (counter.astype(np.uint64, copy=False) + np.uint64(1)) * _GOLDEN)
    return key


def _mix(x: np.ndarray) -> np.ndarray:
    """A bijection of uint64 in which every bit moves all the others; overwrites its argument.

    The finaliser of SplitMix64 (Steele, Lea and Flood 2014, with Stafford's constants).
    """
    x ^= x >> np.uint64(30)
    x *= np.uint64(0xBF58476D1CE4E5B9)
    x ^= x >> np.uint64(27)
    x *= np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    return x


def units(*counters: int | np.ndarray) -> np.ndarray:
    """Like `bits`, as float64 in [0, 1)."""
    return (bits(*counters) >> np.uint64(11)) * 2.0**-53


def below(unit: np.ndarray, count: int | np.ndarray) -> np.ndarray:
    """Whole numbers in [0, count), int64, from units in [0, 1). A count below 1 gives 0."""
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
        noise = bits(key, right + np.uint64(i) * base) % base
        left, right = right, (left + noise) % base
    return left * base + right
