"""The mistake: `uses_batch` is True, and it does not."""

from dataclasses import dataclass

import torch
from torch import nn

from dicm_kit import BaseNet, Component, hookimpl

dicm_api = 1
CAUGHT_BY = "uses_batch_as_declared"


@dataclass
class Config:
    """All vectors side by side, through one hidden layer."""

    hidden: int = 8
    """Width of the hidden layer."""


class Mine(BaseNet):
    requires_untargeted = False
    uses_batch = True

    def __init__(self, shapes, hidden):
        super().__init__()
        widths = [*shapes.user.values(), *shapes.target.values(), *shapes.context.values(), *shapes.interest.values()]
        self.has_image = shapes.image is not None
        self.hidden = nn.Linear(sum(widths) + (shapes.image or 0), hidden)
        self.logit = nn.Linear(hidden, 1)

    def forward(self, encoded, pictures, interest):
        vectors = [*encoded.user.values(), *encoded.target.values(), *encoded.context.values()]
        vectors += [each.vector for each in interest.values()]
        if self.has_image:
            vectors.append(pictures.target_NI)
        return self.logit(self.hidden(torch.cat(vectors, dim=-1)).tanh()).squeeze(-1)


def build(config, shapes):
    return Mine(shapes, config.hidden)


@hookimpl
def dicm_base_nets():
    return [Component(name="mine", config=Config, build=build)]
