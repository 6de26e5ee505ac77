"""Rows of different lengths as two flat arrays, without a loop over rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np


@dataclass(frozen=True)
class Ragged:
    """Row i is `values[offsets[i]:offsets[i + 1]]`."""

    values: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, rows: slice) -> "Ragged":
        """Returns consecutive rows; nothing is copied but the offsets."""
        start, stop, step = rows.indices(len(self))
        assert step == 1
        offsets = self.offsets[start : max(start, stop) + 1]
        return Ragged(self.values[offsets[0] : offsets[-1]], offsets - offsets[0])

    @property
    def lengths(self) -> np.ndarray:
        """How many values each row has."""
        return np.diff(self.offsets)

    def take(self, rows: np.ndarray) -> "Ragged":
        """Returns the rows in the order of `rows`, which may repeat them."""
        lengths = self.lengths[rows]
        offsets = offsets_of(lengths)
        index = np.repeat(self.offsets[:-1][rows] - offsets[:-1], lengths) + np.arange(offsets[-1])
        return Ragged(self.values[index], offsets)

    def padded(self, width: int, fill: int | float) -> np.ndarray:
        """Returns [rows, width]: each row's first values, then `fill`."""
        lengths = self.lengths
        values = self.values[self.offsets[0] : self.offsets[-1]]
        if len(lengths) and lengths.min() == lengths.max() == width:
            return values.reshape(-1, width)
        if len(lengths) and lengths.max() > width:
            within = np.arange(len(values)) - np.repeat(self.offsets[:-1] - self.offsets[0], lengths)
            values = values[within < width]
        out = np.full((len(lengths), width), fill, values.dtype)
        out[np.arange(width) < lengths[:, None]] = values
        return out

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> "Ragged":
        """Returns all rows of all parts."""
        offsets = offsets_of(np.concatenate([part.lengths for part in parts]))
        values = [part.values[part.offsets[0] : part.offsets[-1]] for part in parts]
        return Ragged(np.concatenate(values), offsets)


def offsets_of(lengths: np.ndarray) -> np.ndarray:
    """Returns where each row starts, and where the last one ends: one entry more than lengths."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def taken(column: np.ndarray | Ragged, rows: np.ndarray) -> np.ndarray | Ragged:
    """Returns rows of a column of either kind, in the order of `rows`, which may repeat them."""
    return column.take(rows) if isinstance(column, Ragged) else np.take(column, rows, axis=0)
