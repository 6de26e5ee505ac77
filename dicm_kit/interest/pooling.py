"""History vectors -> one interest vector, without looking at the target."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from dicm_kit.interfaces import HistoryShapes, InterestAggregator
from dicm_kit.types import Interest


@dataclass
class SumConfig:
    """Adds up the history's vectors; all columns of the slot, side by side."""


class SumPooling(InterestAggregator):
    """Sum over the filled slots: the paper's SumPooling, arXiv:1711.06505, section 5.2, figure 3b.

    Looks at no query, so it runs once per sample group, and two-tower nets may use it.
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
    return SumPooling(shapes.values, tuple(shapes.history[name] for name in shapes.values))


def side_by_side(history: Mapping[str, Tensor], values: tuple[str, ...], mask_BL: Tensor) -> Tensor:
    """Returns the named vectors, concatenated to [B, L, D], with zeros in empty slots.

    Zeros by selection and not by a product: whatever stands in an empty slot, NaN too, is not read, and gets a zero
    gradient.
    """
    empty_BL1 = ~mask_BL.unsqueeze(-1)
    columns = [history[name].masked_fill(empty_BL1, 0.0) for name in values]
    return columns[0] if len(columns) == 1 else torch.cat(columns, dim=-1)
