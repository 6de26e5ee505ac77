"""Which order: random orders that depend on a few numbers only, the same on every machine and for every library."""

import numpy as np

from dicm_kit.exchange.owner import mix64

GOLDEN = 0x9E3779B97F4A7C15 - 2**64  # splitmix64's step, as the signed number with the same bits
_MASK = 2**64 - 1

LANES, ROW_GROUPS, GROUPS, PICTURES, NEGATIVES = range(5)  # what an order is for, so that none repeats another's


def random_bits(first: int, count: int, *key: int) -> np.ndarray:
    """Returns numbers `first` to `first + count` of the random int64 stream that `key` names: splitmix64."""
    state = 0
    for part in key:
        state = int(mix64(np.array([_signed(state + part * GOLDEN + 1)]))[0])
    with np.errstate(over="ignore"):  # it is meant to overflow
        return mix64(np.arange(first + 1, first + count + 1, dtype=np.int64) * np.int64(GOLDEN) + np.int64(state))


def mixed_bits(key: int, *parts: np.ndarray) -> np.ndarray:
    """Returns one random int64 for each row of `parts`, which depends on `key` and on the numbers of that row only."""
    state = np.full(len(parts[0]), random_bits(0, 1, key)[0])
    with np.errstate(over="ignore"):
        for part in parts:
            state = mix64(state + part.astype(np.int64) * np.int64(GOLDEN) + np.int64(1))
    return state


def repeated(drawn: np.ndarray) -> np.ndarray:
    """Returns which entries of each row are in it before, [rows, k]: what must be drawn again."""
    order = np.argsort(drawn, axis=1, kind="stable")
    in_order = np.take_along_axis(drawn, order, 1)
    again = np.zeros(drawn.shape, bool)
    np.put_along_axis(again, order[:, 1:], in_order[:, 1:] == in_order[:, :-1], 1)
    return again


def permutation(count: int, *key: int) -> np.ndarray:
    """Returns 0 to count - 1 in the random order that `key` names."""
    return np.argsort(random_bits(0, count, *key), kind="stable")


def random_lanes(first: int, count: int, lanes: int, *key: int) -> np.ndarray:
    """Returns the lanes of groups number `first` to `first + count`.

    Every run of `lanes` groups gets every lane once, in a random order, so that lanes differ by one group at most.
    """
    start, stop = first // lanes, -(-(first + count) // lanes)
    bits = random_bits(start * lanes, (stop - start) * lanes, *key).reshape(-1, lanes)
    dealt = np.argsort(bits, axis=1, kind="stable").ravel()
    return dealt[first - start * lanes :][:count]


def _signed(number: int) -> int:
    number &= _MASK
    return number - 2**64 if number >= 2**63 else number
