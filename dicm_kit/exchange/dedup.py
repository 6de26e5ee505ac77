"""Keys -> distinct keys, and the way back."""

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor


def distinct(keys_K: Int[Tensor, " K"]) -> tuple[Int[Tensor, " U"], Int[Tensor, " K"]]:
    """Returns (keys_U, inverse_K): every key once, sorted, and where each reference finds it.

    `keys_U[inverse_K]` is `keys_K` again. Key 0 is a key like others: leave it out beforehand.
    """
    if keys_K.device.type == "cpu":  # numpy's is faster, and does not wait for threads that loader workers hold up
        keys, inverse = np.unique(keys_K.numpy(), return_inverse=True)
        return torch.from_numpy(keys), torch.from_numpy(inverse)
    return torch.unique(keys_K, sorted=True, return_inverse=True)
