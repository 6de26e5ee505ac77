"""How many bytes of tensors are alive at once while something runs: what a step needs beside what stays."""

import weakref
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only


class LiveBytes(TorchDispatchMode):
    """Counts the tensors that operations make while it is entered, backward included, until nobody holds them.

    What was there before does not count, nor do scratch memory inside a kernel and what an allocator keeps.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = 0
        """Alive."""
        self.peak = 0
        """The most that were alive at once."""
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self._note, made)
        return made

    def _note(self, tensor: Tensor) -> None:
        if tensor.is_sparse:
            self._note(tensor._indices())
            self._note(tensor._values())
            return
        storage = tensor.untyped_storage()  # views and what is changed in place share one
        name = storage._cdata
        if name in self._sizes:
            return
        self._sizes[name] = storage.nbytes()
        self.now += storage.nbytes()
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._forget, name)

    def _forget(self, name: int) -> None:
        self.now -= self._sizes.pop(name)


def growing(small: tuple[int, int], large: tuple[int, int], wanted: int) -> int:
    """Returns the part of a size that grows with a count, at the count `wanted`, from two (count, size)."""
    slope = (large[1] - small[1]) / (large[0] - small[0])
    return max(0, round(slope * wanted))
