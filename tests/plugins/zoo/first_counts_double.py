"""The mistake: the first id of a row counts double."""

from dataclasses import dataclass

import torch
from torch import nn

from dicm_kit import Component, FeatureEncoder, FieldError, hookimpl

dicm_api = 1
CAUGHT_BY = "order_in_a_row_does_not_matter"


@dataclass
class Config:
    """A trained vector for each id; a row's are averaged."""

    dim: int = 4
    """Width of the vectors."""


class Mine(FeatureEncoder):
    def __init__(self, num_ids, dim):
        super().__init__()
        self.table = nn.Embedding(num_ids, dim)
        self.out_dim = dim

    def forward(self, values):
        lengths = values.offsets.diff()
        row = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
        is_first = torch.ones(len(row)).index_fill(0, torch.nonzero(row.diff() == 0).squeeze(1) + 1, 0.0)
        total = torch.zeros(len(lengths), self.out_dim).index_add(
            0, row, self.table(values.values) * (1 + is_first).unsqueeze(-1)
        )
        return (total / lengths.clamp(min=1).unsqueeze(-1)).view(*values.shape, self.out_dim)


def build(config, shape):
    if shape.kind != "ids":
        raise FieldError("name", "encodes ids columns")
    return Mine(shape.num_ids, config.dim)


@hookimpl
def dicm_feature_encoders():
    return [Component(name="mine", config=Config, build=build)]
