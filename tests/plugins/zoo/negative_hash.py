"""The mistake: the smallest hash has no absolute value."""

from dataclasses import dataclass

from torch import nn

from dicm_kit import Component, FeatureEncoder, FieldError, hookimpl

dicm_api = 1
CAUGHT_BY = "extreme_values_are_finite"


@dataclass
class Config:
    """A trained vector for each remainder of a hash."""

    dim: int = 4
    """Width of the vectors."""


class Mine(FeatureEncoder):
    def __init__(self, dim):
        super().__init__()
        self.table = nn.Embedding(64, dim)
        self.out_dim = dim

    def forward(self, values):
        return self.table(values.abs().fmod(63))


def build(config, shape):
    if shape.kind != "hash":
        raise FieldError("name", "encodes hash columns")
    return Mine(config.dim)


@hookimpl
def dicm_feature_encoders():
    return [Component(name="mine", config=Config, build=build)]
