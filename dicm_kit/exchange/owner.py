"""Which rank serves a key: key -> partition -> rank."""

from typing import overload

import numpy as np
from torch import Tensor

# splitmix64's two factors as the signed numbers that have the same 64 bits
_FIRST = 0xBF58476D1CE4E5B9 - 2**64
_SECOND = 0x94D049BB133111EB - 2**64


@overload
def mix64(keys: Tensor) -> Tensor: ...
@overload
def mix64(keys: np.ndarray) -> np.ndarray: ...
def mix64(keys: Tensor | np.ndarray) -> Tensor | np.ndarray:
    """Returns splitmix64's finaliser of int64 keys, as the int64 with the same bits: every bit depends on every bit."""
    if isinstance(keys, np.ndarray):
        with np.errstate(over="ignore"):  # it is meant to overflow
            return _mix64(keys)
    return _mix64(keys)


@overload
def partition(keys: Tensor, num_partitions: int) -> Tensor: ...
@overload
def partition(keys: np.ndarray, num_partitions: int) -> np.ndarray: ...
def partition(keys: Tensor | np.ndarray, num_partitions: int) -> Tensor | np.ndarray:
    """Returns mix64(key) % P of each key, with mix64 read as an unsigned number."""
    mixed = mix64(keys)
    # unsigned = signed + 2**64 where negative; both remainders are floored, so lie in 0..P-1
    return (mixed % num_partitions + (mixed < 0) * (2**64 % num_partitions)) % num_partitions


@overload
def owner(partitions: Tensor, num_ranks: int) -> Tensor: ...
@overload
def owner(partitions: np.ndarray, num_ranks: int) -> np.ndarray: ...
def owner(partitions: Tensor | np.ndarray, num_ranks: int) -> Tensor | np.ndarray:
    """Returns the rank that owns each partition: partition % R."""
    return partitions % num_ranks


def _mix64(keys):  # type: ignore[no-untyped-def]
    keys = (keys ^ _shifted(keys, 30)) * _FIRST
    keys = (keys ^ _shifted(keys, 27)) * _SECOND
    return keys ^ _shifted(keys, 31)


def _shifted(keys, bits: int):  # type: ignore[no-untyped-def]
    return (keys >> bits) & (2 ** (64 - bits) - 1)  # int64 shifts drag the sign in; uint64 has no kernels in torch
