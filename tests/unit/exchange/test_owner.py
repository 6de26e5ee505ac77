"""Who owns a key: numbers worked out beforehand, and arrays and tensors alike."""

import numpy as np
import pytest
import torch

from dicm_kit.exchange.owner import mix64, owner, partition
from dicm_kit.shards import partition_of


def test_mix64_is_splitmix64s_finaliser() -> None:
    # splitmix64 seeded with 0 first adds 0x9E3779B97F4A7C15, then finalises; its known first output:
    golden = np.array([0x9E3779B97F4A7C15], dtype=np.uint64).view(np.int64)
    assert mix64(golden).view(np.uint64).tolist() == [0xE220A8397B1DCDAF]
    assert mix64(torch.from_numpy(golden)).numpy().view(np.uint64).tolist() == [0xE220A8397B1DCDAF]


@pytest.mark.parametrize("num_partitions", [1, 2, 3, 16, 1000, 2**31 + 11])
def test_partition_is_the_same_for_numbers_arrays_and_tensors(num_partitions: int) -> None:
    keys = np.array([0, 1, 2, 4, 7, 2**62 + 5, 2**63 - 1, *np.random.default_rng(0).integers(0, 2**63 - 1, 200)])
    expected = [partition_of(int(key), num_partitions) for key in keys]
    assert partition(keys, num_partitions).tolist() == expected
    assert partition(torch.from_numpy(keys), num_partitions).tolist() == expected
    assert partition(torch.from_numpy(keys[:4].reshape(2, 2)), num_partitions).tolist() == [expected[:2], expected[2:4]]


def test_keys_spread_evenly_and_owners_go_round() -> None:
    counts = np.bincount(partition(np.arange(160_000), 16), minlength=16)
    assert counts.min() > 9_500
    assert counts.max() < 10_500
    assert owner(torch.arange(5), 2).tolist() == [0, 1, 0, 1, 0]
    assert owner(np.arange(5), 3).tolist() == [0, 1, 2, 0, 1]
