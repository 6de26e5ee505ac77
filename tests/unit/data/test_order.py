import numpy as np

from dicm_kit.data.order import permutation, random_bits, random_lanes


def test_bits_are_splitmix64():
    # with the empty key the stream is that of splitmix64 seeded with 0; the first numbers are published ones
    assert [int(bits) % 2**64 for bits in random_bits(0, 3)] == [
        0xE220A8397B1DCDAF,
        0x6E789E6AA1B965F4,
        0x06C45D188009454F,
    ]


def test_bits_do_not_depend_on_where_one_begins():
    assert random_bits(5, 4, 1, 2).tolist() == random_bits(0, 9, 1, 2)[5:].tolist()


def test_permutations_of_different_keys_differ():
    orders = {tuple(permutation(20, *key)) for key in [(0, 0), (0, 1), (1, 0), (1,), (0, 0, 0)]}
    assert len(orders) == 5
    assert all(sorted(order) == list(range(20)) for order in orders)


def test_lanes_differ_by_one_group_at_most_wherever_it_is_cut():
    lanes = random_lanes(0, 1003, 8, 5)
    assert np.ptp(np.bincount(lanes)) == 1
    pieces = [random_lanes(first, min(101, 1003 - first), 8, 5) for first in range(0, 1003, 101)]
    assert np.concatenate(pieces).tolist() == lanes.tolist()
