"""The mistake: no row for the largest id."""

from dataclasses import dataclass

from torch import nn

from dicm_kit import Component, FeatureEncoder, FieldError, hookimpl

dicm_api = 1
CAUGHT_BY = "knows_every_id"


@dataclass
class Config:
    """A trained vector for each id."""

    dim: int = 4
    """Width of the vectors."""


class Mine(FeatureEncoder):
    def __init__(self, num_ids, dim):
        super().__init__()
        self.table = nn.Embedding(num_ids - 1, dim)
        self.out_dim = dim

    def forward(self, values):
        return self.table(values)


def build(config, shape):
    if shape.kind != "id":
        raise FieldError("name", "encodes id columns")
    return Mine(shape.num_ids, config.dim)


@hookimpl
def dicm_feature_encoders():
    return [Component(name="mine", config=Config, build=build)]
