"""Keys there and vectors back. Here with one rank, where nothing is sent; it counts all the same."""

from abc import ABC, abstractmethod
from collections.abc import Callable

from jaxtyping import Float, Int
from torch import Tensor

Compute = Callable[[Int[Tensor, " V"]], Float[Tensor, "V D"]]
"""What an owner does with the keys it is asked for, each once and sorted: one vector per key, in their order."""


class Exchange(ABC):
    """Asks the owners of keys for their vectors; autograd carries gradients home and sums them there.

    `fetch` is collective: every rank of the group calls it in every step, also without keys.
    """

    rank: int
    num_ranks: int

    @abstractmethod
    def fetch(self, keys_U: Int[Tensor, " U"], compute: Compute) -> Float[Tensor, "U D"]:
        """Returns the vectors of distinct, sorted keys. On each rank `compute` is called once, with what it serves."""

    @abstractmethod
    def counts(self) -> dict[str, int]:
        """Returns the last fetch in numbers: `asked` (U), `served` (V) and `bytes_sent` to other ranks."""


class LocalExchange(Exchange):
    """One rank, which owns every key."""

    rank = 0
    num_ranks = 1

    def __init__(self) -> None:
        self._asked = 0

    def fetch(self, keys_U: Int[Tensor, " U"], compute: Compute) -> Float[Tensor, "U D"]:
        """Returns `compute(keys_U)`."""
        self._asked = keys_U.shape[0]
        return compute(keys_U)

    def counts(self) -> dict[str, int]:
        """Returns the last fetch in numbers; nothing was sent."""
        return {"asked": self._asked, "served": self._asked, "bytes_sent": 0}
