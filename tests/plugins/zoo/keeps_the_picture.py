"""The mistake: a picture is kept in `self` between two steps of its transform."""

from dataclasses import dataclass
from hashlib import sha256
from time import sleep

import numpy as np
import torch
from torch import nn

from dicm_kit import Component, ImageBackbone, hookimpl

dicm_api = 1
CAUGHT_BY = "transform_works_in_threads"


@dataclass
class Config:
    """A layer of random filters."""

    size: int = 16
    """Height and width of the pixels."""
    seed: int = 0
    """Draws the filters."""


class Mine(ImageBackbone):
    frozen = True
    out_dim = 4

    def __init__(self, size, seed):
        super().__init__()
        self.size = size
        self.filters = nn.Conv2d(3, 4, 3, stride=2)
        g = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            self.filters.weight.normal_(generator=g)
            self.filters.bias.zero_()
        self.requires_grad_(False)
        self.fingerprint = sha256(f"filters {size} {seed}".encode()).hexdigest()[:16]

    def transform(self, image):
        self.image = image.resize((self.size, self.size))
        sleep(0.002)
        pixels = np.asarray(self.image, dtype=np.float32) / 255
        return torch.from_numpy(pixels).permute(2, 0, 1)

    def forward(self, pixels_U3HW):
        return self.filters(pixels_U3HW).relu().mean(dim=(2, 3))


def build(config, shapes):
    return Mine(config.size, config.seed)


@hookimpl
def dicm_image_backbones():
    return [Component(name="mine", config=Config, build=build, examples=({}, {"size": 20}))]
