"""An interest aggregator that goes by age: a click's weight halves every few days."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dicm_kit import Component, FieldError, HistoryShapes, Interest, InterestAggregator, hookimpl

dicm_api = 1


@dataclass
class RecencyConfig:
    """Averages the history; newer clicks weigh more."""

    half_life: float = 3.0
    """Days in which a click's weight halves."""


class Recency(InterestAggregator):
    """Weighted mean of the history's vectors, weight 0.5 ** (age / half_life)."""

    uses_target = False  # so it runs once per sample group, not once per impression

    def __init__(self, values: tuple[str, ...], dims: tuple[int, ...], half_life: float):
        super().__init__()
        self.values, self.half_life = values, half_life
        self.out_dim = sum(dims)

    def forward(
        self, query: dict[str, Tensor], history: dict[str, Tensor], mask_BL: Tensor, need_weights: bool = False
    ) -> Interest:
        """Returns the mean; zeros for an empty history."""
        vectors_BLD = torch.cat([history[name] for name in self.values], dim=-1)
        # Empty slots may hold anything, NaN too, and 0 * NaN is NaN: they are selected away, not multiplied.
        weight_BL = (0.5 ** (history["age"].squeeze(-1) / self.half_life)).masked_fill(~mask_BL, 0)
        weight_BL = weight_BL / weight_BL.sum(1, keepdim=True).clamp_min(1e-6)  # an empty history divides by no zero
        vectors_BLD = vectors_BLD.masked_fill(~mask_BL.unsqueeze(-1), 0)
        vector_BD = torch.einsum("bl,bld->bd", weight_BL.to(vectors_BLD.dtype), vectors_BLD)
        return Interest(vector_BD, weight_BL.unsqueeze(1) if need_weights else None)


def build(config: RecencyConfig, shapes: HistoryShapes) -> Recency:
    """Makes the aggregator for the slot's columns."""
    if not config.half_life > 0:
        raise FieldError("half_life", f"must be above 0, got {config.half_life}")
    return Recency(shapes.values, tuple(shapes.history[name] for name in shapes.values), config.half_life)


@hookimpl
def dicm_interest_aggregators() -> list[Component[InterestAggregator]]:
    """Returns the aggregators of this plugin."""
    return [Component(name="recency", config=RecencyConfig, build=build)]
