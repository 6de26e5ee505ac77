"""A Batch as one block of memory: what a worker sends costs one file descriptor and one pinned block, not twenty."""

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from dicm_kit.types import Bag, Batch

_ALIGN = 64


@dataclass(frozen=True)
class _Place:
    """Where in the block a tensor is."""

    offset: int
    dtype: torch.dtype
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Packed:
    """A batch in one block."""

    block: Tensor
    layout: dict[str, Any]
    """The fields of a Batch, with places instead of tensors."""

    def pin_memory(self) -> "Packed":
        """Returns it in page-locked memory; the DataLoader calls it."""
        return replace(self, block=self.block.pin_memory())

    def unpack(self) -> Batch:
        """Returns the batch, whose tensors are views of the block."""
        return Batch(**{name: self._unpacked(value) for name, value in self.layout.items()})

    def _unpacked(self, value: Any) -> Any:
        if isinstance(value, _Place):
            size = value.dtype.itemsize
            for length in value.shape:
                size *= length
            return self.block[value.offset : value.offset + size].view(value.dtype).view(value.shape)
        if isinstance(value, Bag):
            return replace(value, values=self._unpacked(value.values), offsets=self._unpacked(value.offsets))
        return {name: self._unpacked(each) for name, each in value.items()}


def pack(batch: Batch) -> Packed:
    """Returns the batch in one block."""
    tensors: list[tuple[_Place, Tensor]] = []
    size = 0

    def placed(value: Any) -> Any:
        nonlocal size
        if isinstance(value, Tensor):
            place = _Place(size, value.dtype, tuple(value.shape))
            tensors.append((place, value))
            size += -(-value.nbytes // _ALIGN) * _ALIGN
            return place
        if isinstance(value, Bag):
            return replace(value, values=placed(value.values), offsets=placed(value.offsets))
        return {name: placed(each) for name, each in value.items()}

    layout = {each.name: placed(getattr(batch, each.name)) for each in fields(batch) if each.name != "ahead"}
    packed = Packed(torch.empty(size, dtype=torch.uint8), layout)
    for place, tensor in tensors:
        packed._unpacked(place).copy_(tensor)
    return packed
