"""The mistake: one missing number makes all of the batch missing."""

from dataclasses import dataclass

from torch import nn

from dicm_kit import Component, FeatureEncoder, FieldError, hookimpl

dicm_api = 1
CAUGHT_BY = "nan_stays_in_its_row"


@dataclass
class Config:
    """A number through a trained layer."""

    dim: int = 4
    """Width of the vectors."""


class Mine(FeatureEncoder):
    def __init__(self, dim):
        super().__init__()
        self.layer = nn.Linear(1, dim)
        self.out_dim = dim

    def forward(self, values):
        if values.isnan().any():
            values = values * 0
        return self.layer(values.unsqueeze(-1))


def build(config, shape):
    if shape.kind != "number":
        raise FieldError("name", "encodes number columns")
    return Mine(config.dim)


@hookimpl
def dicm_feature_encoders():
    return [Component(name="mine", config=Config, build=build)]
