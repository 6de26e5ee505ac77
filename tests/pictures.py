"""Small pictures for tests: files of the three formats, shards of them, and a backbone that is worked out by hand."""

from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dicm_kit.interfaces import ImageBackbone
from dicm_kit.shards import ShardWriter


def image(seed: int, size: tuple[int, int] = (24, 16)) -> Image.Image:
    """Returns a smooth RGB picture, another for each seed."""
    rng = np.random.default_rng(seed)
    return Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize(size)


def encoded(picture: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    """Returns the bytes of a file."""
    file = BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def write_shards(folder: Path, seeds: range, partitions: int = 4, **options: int) -> dict[int, bytes]:
    """Writes JPEGs (every third a PNG) and returns them by key."""
    pictures = {}
    with ShardWriter(folder, partitions, **options) as writer:
        for seed in seeds:
            data = encoded(image(seed), "PNG" if seed % 3 == 0 else "JPEG")
            pictures[writer.add(f"{seed}", data)] = data
    return pictures


class MeanColour(ImageBackbone):
    """Says a picture's mean colour, times a weight that is 1 at first."""

    def __init__(self, frozen: bool = True, size: int = 8):
        super().__init__()
        self.out_dim, self.frozen, self.fingerprint, self.size = 3, frozen, "mean-colour", size
        self.scale = torch.nn.Parameter(torch.ones(3), requires_grad=not frozen)
        self.rows: list[int] = []  # how many pictures each forward was given

    def transform(self, image: Image.Image) -> Tensor:
        pixels_HW3 = np.asarray(image.resize((self.size, self.size)), dtype=np.float32) / 255
        return torch.from_numpy(pixels_HW3).permute(2, 0, 1)

    def forward(self, pixels_U3HW: Tensor) -> Tensor:
        self.rows.append(pixels_U3HW.shape[0])
        return pixels_U3HW.mean((2, 3)) * self.scale
