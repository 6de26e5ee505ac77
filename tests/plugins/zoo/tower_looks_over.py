"""The mistake: the item's tower looks at the user."""

from dataclasses import dataclass

import torch
from torch import nn

from dicm_kit import BaseNet, Component, hookimpl

dicm_api = 1
CAUGHT_BY = "towers_do_not_see_each_other"


@dataclass
class Config:
    """Two towers of one layer each; their inner product is the logit."""

    dim: int = 8
    """Width of the two vectors."""


class Mine(BaseNet):
    requires_untargeted = True

    def __init__(self, shapes, dim):
        super().__init__()
        self.has_image = shapes.image is not None
        self.of_user = nn.Linear(sum(shapes.user.values()) + sum(shapes.interest.values()), dim)
        self.of_item = nn.Linear(sum(shapes.target.values()) + sum(shapes.user.values()) + (shapes.image or 0), dim)

    def towers(self, encoded, pictures, interest):
        user = [*encoded.user.values(), *(each.vector for each in interest.values())]
        item = [*encoded.target.values(), *encoded.user.values(), *([pictures.target_NI] if self.has_image else [])]
        return self.of_user(torch.cat(user, dim=-1)), self.of_item(torch.cat(item, dim=-1))

    def forward(self, encoded, pictures, interest):
        user, item = self.towers(encoded, pictures, interest)
        return (user * item).sum(-1)


def build(config, shapes):
    return Mine(shapes, config.dim)


@hookimpl
def dicm_base_nets():
    return [Component(name="mine", config=Config, build=build)]
