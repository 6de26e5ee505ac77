"""The mistake: it returns the vector itself and no `Interest`."""

from dataclasses import dataclass

import torch
from torch import nn

from dicm_kit import Component, InterestAggregator, hookimpl

dicm_api = 1
CAUGHT_BY = "runs"


@dataclass
class Config:
    """Weighs clicks by a trained comparison with the target's id."""

    hidden: int = 4
    """Width of the comparison."""


class Mine(InterestAggregator):
    uses_target = True

    def __init__(self, shapes, hidden):
        super().__init__()
        self.values = shapes.values
        self.out_dim = sum(shapes.history[name] for name in shapes.values)
        self.of_history = nn.Linear(self.out_dim, hidden)
        self.of_query = nn.Linear(shapes.query["target.item_id"], hidden)

    def forward(self, query, history, mask_BL, need_weights=False):
        empty_BL1 = ~mask_BL.unsqueeze(-1)
        history_BLD = torch.cat([history[name].masked_fill(empty_BL1, 0.0) for name in self.values], dim=-1)
        query_B1H = self.of_query(query["target.item_id"]).unsqueeze(1)
        score_BL = (self.of_history(history_BLD) * query_B1H).sum(-1)
        weight_BL = score_BL.masked_fill(~mask_BL, 0.0)
        vector_BD = (weight_BL.unsqueeze(-1) * history_BLD).sum(1)
        return vector_BD


def build(config, shapes):
    return Mine(shapes, config.hidden)


@hookimpl
def dicm_interest_aggregators():
    return [Component(name="mine", config=Config, build=build)]
