"""Distinct keys, and the way back."""

import torch

from dicm_kit.exchange.dedup import distinct


def test_by_hand() -> None:
    keys_U, inverse_K = distinct(torch.tensor([4, 7, 4, 2**62]))
    assert keys_U.tolist() == [4, 7, 2**62]
    assert inverse_K.tolist() == [0, 1, 0, 2]


def test_no_keys() -> None:
    keys_U, inverse_K = distinct(torch.empty(0, dtype=torch.int64))
    assert keys_U.shape == inverse_K.shape == (0,)
    assert keys_U.dtype == inverse_K.dtype == torch.int64
