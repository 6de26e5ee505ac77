"""Draws the made-up shop's pictures: one shape, one colour, one texture each, never twice the same."""

import colorsys
from io import BytesIO

import numpy as np

COLOURS = ("red", "orange", "lime", "green", "cyan", "blue", "violet", "pink")
SHAPES = ("disc", "square", "triangle", "flower", "ring", "cross")
TEXTURES = ("plain", "stripes", "dots", "checks", "diagonals")


def draw(rng: np.random.Generator, colour: int, shape: int, texture: int, size: int) -> np.ndarray:
    """Returns RGB pixels [size, size, 3] uint8 of one product; place, angle, scale, hue and backdrop vary."""
    # Drawn at twice the size and averaged, so that edges are smooth.
    fine = 2 * size
    axis = (np.arange(fine, dtype=np.float32) + 0.5) / size - 1
    place, scale, angle = rng.uniform(-0.03, 0.03, 2), rng.uniform(0.76, 0.82), rng.uniform(-0.06, 0.06)
    x, y = axis[None, :] - place[0], axis[:, None] - place[1]
    x, y = (x * np.cos(angle) - y * np.sin(angle)) / scale, (x * np.sin(angle) + y * np.cos(angle)) / scale

    inside = _shape(shape, x, y) & (np.maximum(abs(x), abs(y)) < 1)
    bright = _texture(texture, x * (zoom := rng.uniform(0.96, 1.04)), y * zoom)
    hue = (colour + rng.uniform(-0.1, 0.1)) / len(COLOURS) % 1
    light = np.array(colorsys.hsv_to_rgb(hue, rng.uniform(0.85, 1), rng.uniform(0.9, 1)), dtype=np.float32)
    product = np.where(bright[..., None], light, 0.1 * light)
    pixels = np.where(inside[..., None], product, np.float32(rng.uniform(0.96, 1)))
    pixels = pixels + rng.normal(0, 0.02, (fine, fine, 1)).astype(np.float32)
    pixels = pixels.clip(0, 1).reshape(size, 2, size, 2, 3).mean((1, 3))
    return (255 * pixels).astype(np.uint8)


def jpeg(pixels: np.ndarray) -> bytes:
    """Returns the JPEG file of RGB pixels [H, W, 3]."""
    from PIL import Image

    file = BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=90)
    return file.getvalue()


def _shape(shape: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    radius = np.hypot(x, y)
    match SHAPES[shape]:
        case "disc":
            return radius < 1
        case "square":
            return np.maximum(abs(x), abs(y)) < 0.85
        case "triangle":
            return (y < 0.75) & (y > 1.7 * abs(x) - 0.95)
        case "flower":
            return radius < 0.55 + 0.45 * np.cos(5 * np.arctan2(y, x))
        case "ring":
            return (radius < 1) & (radius > 0.6)
        case "cross":
            return np.minimum(abs(x), abs(y)) < 0.28
        case other:
            raise AssertionError(other)


def _texture(texture: int, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    match TEXTURES[texture]:
        case "plain":
            return np.ones_like(x, dtype=bool)
        case "stripes":
            return 5 * y % 1 < 0.5
        case "dots":
            return np.hypot(4 * x % 1 - 0.5, 4 * y % 1 - 0.5) < 0.3
        case "checks":
            return (3.5 * x % 1 < 0.5) ^ (3.5 * y % 1 < 0.5)
        case "diagonals":
            return 6 * (x + y) % 1 < 0.5
        case other:
            raise AssertionError(other)
