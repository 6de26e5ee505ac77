"""Checks of image backbones: pictures to pixels, pixels to vectors."""

import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch

from dicm_kit.testing.check import DoesNotApply, Failed, check
from dicm_kit.testing.settings import BackboneSetting
from dicm_kit.testing.tensors import close, copied, finite, same

KIND = "image_backbone"


@check(KIND, calls=False)
def transform_gives_pixels(setting: BackboneSetting) -> None:
    """`transform` makes finite float32 [3, H, W] of every picture, with one H and W for all sizes."""
    module = setting.build()
    made = [module.transform(each) for each in [*setting.pictures(4), *_odd_pictures()]]
    for pixels in made:
        if not isinstance(pixels, torch.Tensor) or pixels.dtype != torch.float32 or pixels.ndim != 3:
            raise Failed(f"`transform` gave {_described(pixels)}; return float32 [3, H, W]")
        if not finite(pixels):
            raise Failed("`transform` gave NaN or infinity (a picture of one colour has no deviation to divide by)")
    shapes = {tuple(pixels.shape) for pixels in made}
    if len(shapes) > 1 or next(iter(shapes))[0] != 3:
        raise Failed(f"pictures of several sizes became {sorted(shapes)}; resize or crop them to one H and W")


@check(KIND, calls=False)
def transform_is_deterministic(setting: BackboneSetting) -> None:
    """`transform` makes the same of a picture each time, and leaves the picture alone."""
    module, picture = setting.build(), setting.pictures(1)[0]
    before = picture.tobytes()
    if not same(copied(module.transform(picture)), module.transform(picture)):
        raise Failed("the same picture became other pixels the second time; no random crop or flip: vectors are stored")
    if picture.tobytes() != before:
        raise Failed("`transform` changed the picture it was given; work on a copy")


@check(KIND, calls=False)
def transform_works_in_threads(setting: BackboneSetting) -> None:
    """`transform` may be called by several threads at once: pictures are decoded by a pool of them."""
    module, pictures = setting.build(), setting.pictures(6)
    expected = copied([module.transform(each) for each in pictures])
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(module.transform, pictures * 2))
    if not same(expected * 2, found):
        raise Failed("called by several threads, `transform` gave other pixels; keep nothing of a picture in `self`")


@check(KIND)
def vectors_have_out_dim(setting: BackboneSetting) -> None:
    """Pixels [U, 3, H, W] give vectors [U, out_dim], for one picture too."""
    module = setting.build()
    for rows in (1, 3):
        got, wanted = tuple(module(setting.inputs(rows)).shape), (rows, module.out_dim)
        if got != wanted:
            raise Failed(f"{rows} pictures gave {list(got)}, not {list(wanted)}; `out_dim` is the vectors' width")


@check(KIND)
def same_picture_same_vector(setting: BackboneSetting) -> None:
    """A picture gives the same vector alone, in a batch, and twice in it."""
    module, pixels = setting.build(), setting.inputs(3)
    vectors = module(torch.cat([pixels, pixels[:1]]))
    if not close(vectors[0], vectors[3]) or not close(vectors[:1], module(pixels[:1])):
        raise Failed("a picture's vector changed with its place in the batch; each is computed once and used by all")


@check(KIND)
def pictures_matter(setting: BackboneSetting) -> None:
    """Other pictures give other vectors."""
    vectors = setting.build()(setting.inputs(3))
    if close(vectors[0], vectors[1], 1e-6) and close(vectors[1], vectors[2], 1e-6):
        raise Failed("different pictures gave the same vector; it does not look at its pixels")


@check(KIND)
def frozen_has_no_gradient(setting: BackboneSetting) -> None:
    """`frozen` is True exactly where no parameter is trained."""
    module = setting.build()
    trained = [name for name, each in module.named_parameters() if each.requires_grad]
    if module.frozen and trained:
        raise Failed(
            f"`frozen` is True, but {len(trained)} parameters ask for gradients ({trained[0]}, ...); call"
            " `requires_grad_(False)` on them"
        )
    if not module.frozen and not trained:
        raise Failed("`frozen` is False, but no parameter is trained; `frozen = True` computes each vector once")


@check(KIND)
def frozen_stays_in_evaluation(setting: BackboneSetting) -> None:
    """A frozen backbone gives the same after `train()`: its dropout and BatchNorm stay as in evaluation."""
    module, pixels = setting.build(), setting.inputs(3)
    if not module.frozen:
        raise DoesNotApply("it is trained")
    expected, state = copied(module(pixels)), copied(dict(module.state_dict()))
    module.train()
    if not close(expected, module(pixels)) or not same(state, dict(module.state_dict())):
        raise Failed(
            "frozen, it gives something else after `train()`; override `train` and call `super().train(False)`"
        )


@check(KIND, calls=False)
def fingerprint_is_16_hex_digits(setting: BackboneSetting) -> None:
    """`fingerprint` is 16 hex digits."""
    found = setting.build().fingerprint
    if not isinstance(found, str) or not re.fullmatch("[0-9a-f]{16}", found):
        raise Failed(f"`fingerprint` is {found!r}; make it 16 hex digits, such as `sha256(...).hexdigest()[:16]`")


@check(KIND, calls=False)
def fingerprint_is_stable(setting: BackboneSetting) -> None:
    """`fingerprint` is the same for the same config, in another process too."""
    from dicm_kit.testing.elsewhere import packed
    from dicm_kit.testing.on_ranks import on_two_ranks

    ours = setting.build().fingerprint
    if setting.build().fingerprint != ours or any(each != ours for each in on_two_ranks(_fingerprint, packed(setting))):
        raise Failed(
            "two builds of the same config have different fingerprints (`hash()`? the time? an id?): vectors would be"
            " computed anew in each run"
        )


@check(KIND, once=True)
def fingerprint_changes_with_the_vectors(setting: BackboneSetting) -> None:
    """Configs that give other vectors have other fingerprints: stored vectors are found by it."""
    found: dict[str, tuple[Any, torch.Tensor]] = {}
    for subject in (setting.subject, *setting.subject.siblings()):
        module = setting.build(config=subject.config)
        vectors = copied(module(setting.inputs_for(module)))
        given, known = found.setdefault(module.fingerprint, (subject.given, vectors))
        if not close(known, vectors):
            raise Failed(
                f"the configs {dict(given)} and {dict(subject.given)} give other vectors with one fingerprint; hash all"
                " that the vectors depend on: model, weights, layer, transform"
            )


def _fingerprint(rank: int, num_ranks: int, parcel: Any) -> str:
    from dicm_kit.testing.elsewhere import unpacked

    fingerprint: str = unpacked(parcel).build().fingerprint
    return fingerprint


def _odd_pictures() -> list[Any]:
    """Returns a picture of one pixel, a very wide one, and one of a single colour."""
    from PIL import Image

    return [
        Image.new("RGB", size, colour) for size, colour in (((1, 1), "red"), ((300, 5), "white"), ((40, 40), "black"))
    ]


def _described(value: object) -> str:
    if isinstance(value, torch.Tensor):
        return f"{value.dtype} {list(value.shape)}"
    return f"a {type(value).__name__}"
