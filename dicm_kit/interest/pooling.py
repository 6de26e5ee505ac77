"""History vectors -> one interest vector, without looking at the target."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dicm_kit.interfaces import HistoryShapes, InterestAggregator
from dicm_kit.types import Interest


@dataclass
class SumConfig:
    """Adds up the history's vectors; all columns of the slot, side by side."""


class SumPooling(InterestAggregator):
    """Sum over the filled slots: the paper's SumPooling, arXiv:1711.06505, section 5.2, figure 3b.

    [B, L, D] -> [B, D]. Like all of this file it looks at no query, so it runs once per sample group, and two-tower
    nets may use it.
    """

    uses_target = False

    def __init__(self, values: tuple[str, ...], dims: tuple[int, ...]):
        super().__init__()
        self.values = values
        self.out_dim = sum(dims)

    def forward(
        self, query: Mapping[str, Tensor], history: Mapping[str, Tensor], mask_BL: Tensor, need_weights: bool = False
    ) -> Interest:
        """Returns the sums, side by side; every filled slot's weight is 1."""
        history_BLD = side_by_side(history, self.values, mask_BL)
        weights = mask_BL.unsqueeze(1).to(history_BLD.dtype) if need_weights else None
        return Interest(history_BLD.sum(dim=1), weights)


def build_sum(config: SumConfig, shapes: HistoryShapes) -> SumPooling:
    """Makes the pooling of the slot's columns."""
    return SumPooling(shapes.values, widths_of(shapes))


@dataclass
class MeanConfig:
    """Averages the history's vectors: how long a history is leaves no trace."""


class MeanPooling(InterestAggregator):
    """Sum over the filled slots, divided by their number: [B, L, D] -> [B, D]. Not in the paper."""

    uses_target = False

    def __init__(self, values: tuple[str, ...], dims: tuple[int, ...]):
        super().__init__()
        self.values = values
        self.out_dim = sum(dims)

    def forward(
        self, query: Mapping[str, Tensor], history: Mapping[str, Tensor], mask_BL: Tensor, need_weights: bool = False
    ) -> Interest:
        """Returns the means, zeros for an empty history; each of n filled slots weighs 1 / n."""
        history_BLD = side_by_side(history, self.values, mask_BL)
        share_B1 = 1.0 / mask_BL.sum(dim=1, keepdim=True).clamp(min=1).to(history_BLD.dtype)
        weights = (mask_BL * share_B1).unsqueeze(1) if need_weights else None
        return Interest(history_BLD.sum(dim=1) * share_B1, weights)


def build_mean(config: MeanConfig, shapes: HistoryShapes) -> MeanPooling:
    """Makes the pooling of the slot's columns."""
    return MeanPooling(shapes.values, widths_of(shapes))


@dataclass
class MaxConfig:
    """Takes the largest value of each dimension over the history's vectors."""


class MaxPooling(InterestAggregator):
    """Largest value over the filled slots, dimension by dimension: max pooling, the paper's table 4, arXiv:1711.06505.

    [B, L, D] -> [B, D]. Slots that share the largest value share its gradient.
    """

    uses_target = False

    def __init__(self, values: tuple[str, ...], dims: tuple[int, ...]):
        super().__init__()
        self.values = values
        self.out_dim = sum(dims)

    def forward(
        self, query: Mapping[str, Tensor], history: Mapping[str, Tensor], mask_BL: Tensor, need_weights: bool = False
    ) -> Interest:
        """Returns the maxima, zeros for an empty history; a slot weighs the share of dimensions that it wins."""
        history_BLD = side_by_side(history, self.values, mask_BL, empty=float("-inf"))
        is_empty_B1 = ~mask_BL.any(dim=1, keepdim=True)
        vector_BD = history_BLD.amax(dim=1).masked_fill(is_empty_B1, 0.0)
        return Interest(vector_BD, self._won(history_BLD.detach(), mask_BL) if need_weights else None)

    def _won(self, history_BLD: Tensor, mask_BL: Tensor) -> Tensor:
        """Returns [B, 1, L]; slots that are equally large share the dimension."""
        won_BLD = (history_BLD == history_BLD.amax(dim=1, keepdim=True)) & mask_BL.unsqueeze(-1)
        return (won_BLD / won_BLD.sum(dim=1, keepdim=True).clamp(min=1)).mean(dim=-1).unsqueeze(1)


def build_max(config: MaxConfig, shapes: HistoryShapes) -> MaxPooling:
    """Makes the pooling of the slot's columns."""
    return MaxPooling(shapes.values, widths_of(shapes))


@dataclass
class ConcatConfig:
    """Puts the history's vectors side by side, newest first, padded with zeros to `data.history.max_length`."""


class Concat(InterestAggregator):
    """All slots side by side, [B, L, D] -> [B, max_length * D]: the paper's concatenation, arXiv:1711.06505, table 4.

    Slot l fills places l * D to (l + 1) * D, whatever other slots are empty. The net that follows has weights of its
    own for each slot: what it learns of the newest click it does not know of the one before.
    """

    uses_target = False
    uses_order = True

    def __init__(self, values: tuple[str, ...], dims: tuple[int, ...], max_length: int):
        super().__init__()
        self.values, self.max_length = values, max_length
        self.out_dim = max_length * sum(dims)

    def forward(
        self, query: Mapping[str, Tensor], history: Mapping[str, Tensor], mask_BL: Tensor, need_weights: bool = False
    ) -> Interest:
        """Returns the vectors slot after slot, zeros for empty slots; every filled slot's weight is 1."""
        missing = self.max_length - mask_BL.shape[1]
        assert missing >= 0, "no history is longer than the recipe says"
        history_BLD = side_by_side(history, self.values, mask_BL)
        weights = mask_BL.unsqueeze(1).to(history_BLD.dtype) if need_weights else None
        return Interest(nn.functional.pad(history_BLD, (0, 0, 0, missing)).flatten(1), weights)


def build_concat(config: ConcatConfig, shapes: HistoryShapes) -> Concat:
    """Makes the concatenation of the slot's columns."""
    return Concat(shapes.values, widths_of(shapes), shapes.max_length)


def widths_of(shapes: HistoryShapes) -> tuple[int, ...]:
    """Returns the widths of the columns that the slot pools."""
    return tuple(shapes.history[name] for name in shapes.values)


def side_by_side(history: Mapping[str, Tensor], values: tuple[str, ...], mask_BL: Tensor, empty: float = 0.0) -> Tensor:
    """Returns the named vectors, concatenated to [B, L, D], with `empty` in empty slots.

    By selection and not by a product: whatever stands in an empty slot, NaN too, is not read, and gets a zero
    gradient.
    """
    empty_BL1 = ~mask_BL.unsqueeze(-1)
    columns = [history[name].masked_fill(empty_BL1, empty) for name in values]
    return columns[0] if len(columns) == 1 else torch.cat(columns, dim=-1)
