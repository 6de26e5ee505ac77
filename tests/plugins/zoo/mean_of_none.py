"""The mistake: a row without ids is divided by zero."""

from dataclasses import dataclass

import torch
from torch import nn

from dicm_kit import Component, FeatureEncoder, FieldError, hookimpl

dicm_api = 1
CAUGHT_BY = "empty_rows_are_finite"


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
        total = torch.zeros(len(lengths), self.out_dim).index_add(0, row, self.table(values.values))
        return (total / lengths.unsqueeze(-1)).view(*values.shape, self.out_dim)


def build(config, shape):
    if shape.kind != "ids":
        raise FieldError("name", "encodes ids columns")
    return Mine(shape.num_ids, config.dim)


@hookimpl
def dicm_feature_encoders():
    return [Component(name="mine", config=Config, build=build)]
