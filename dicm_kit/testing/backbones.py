"""Checks of image backbones: pictures to pixels, pixels to vectors."""

import re

import torch

from dicm_kit.testing.check import Failed, check
from dicm_kit.testing.settings import BackboneSetting

KIND = "image_backbone"


@check(KIND)
def transform_gives_pixels(setting: BackboneSetting) -> None:
    """`transform` makes float32 [3, H, W] of every picture, with one H and W."""
    module = setting.build()
    made = [module.transform(each) for each in setting.pictures(4)]
    for pixels in made:
        if not isinstance(pixels, torch.Tensor) or pixels.dtype != torch.float32 or pixels.ndim != 3:
            raise Failed(f"`transform` gave {_described(pixels)}; return float32 [3, H, W]")
    shapes = {tuple(pixels.shape) for pixels in made}
    if len(shapes) > 1 or next(iter(shapes))[0] != 3:
        raise Failed(f"pictures of several sizes became {sorted(shapes)}; resize or crop them to one H and W")


@check(KIND)
def vectors_have_out_dim(setting: BackboneSetting) -> None:
    """Pixels [U, 3, H, W] give vectors [U, out_dim], for one picture too."""
    module = setting.build()
    for rows in (1, 3):
        got, wanted = tuple(module(setting.inputs(rows)).shape), (rows, module.out_dim)
        if got != wanted:
            raise Failed(f"{rows} pictures gave {list(got)}, not {list(wanted)}; `out_dim` is the vectors' width")


@check(KIND)
def fingerprint_is_16_hex_digits(setting: BackboneSetting) -> None:
    """`fingerprint` is 16 hex digits, the same for the same config."""
    found = [setting.build().fingerprint for _ in range(2)]
    if not all(isinstance(each, str) and re.fullmatch("[0-9a-f]{16}", each) for each in found):
        raise Failed(f"`fingerprint` is {found[0]!r}; make it 16 hex digits, such as `sha256(...).hexdigest()[:16]`")
    if found[0] != found[1]:
        raise Failed(
            "two builds of the same config have different fingerprints: vectors would be computed anew each run"
        )


def _described(value: object) -> str:
    if isinstance(value, torch.Tensor):
        return f"{value.dtype} {list(value.shape)}"
    return f"a {type(value).__name__}"
