"""Checks of feature encoders: column values in, vectors out."""

import torch

from dicm_kit.testing.check import DoesNotApply, Failed, check
from dicm_kit.testing.settings import NUM_IDS, EncoderSetting, bag
from dicm_kit.testing.tensors import close, finite

KIND = "feature_encoder"


@check(KIND)
def encodes_any_shape(setting: EncoderSetting) -> None:
    """Values [B] give [B, out_dim], values [B, H] give [B, H, out_dim], value by value the same."""
    module = setting.build()
    for shape in ((6,), (2, 3)):
        got, wanted = tuple(module(setting.column(shape)).shape), (*shape, module.out_dim)
        if got != wanted:
            raise Failed(f"values {list(shape)} gave {list(got)}, not {list(wanted)}; keep the leading dimensions")
    if not close(module(setting.column((6,))), module(setting.column((2, 3))).flatten(0, 1)):
        raise Failed("the same values gave other vectors in another shape; each value is encoded by itself")


@check(KIND)
def knows_every_id(setting: EncoderSetting) -> None:
    """The unknown id, 0, and the largest one, num_ids - 1, have vectors."""
    module, kind = setting.build(), setting.shapes.kind
    if kind not in ("id", "ids"):
        raise DoesNotApply(f"a column of kind {kind} has no vocabulary")
    ids = torch.tensor([0, NUM_IDS - 1])
    try:
        vectors = module(ids if kind == "id" else bag(list(ids.split(1)), (2,)))
    except (IndexError, RuntimeError) as error:
        raise Failed(
            f"an id of 0 to {NUM_IDS - 1} has no vector ({error}); a table needs `num_ids` rows, 0 (unknown) is one"
        ) from error
    if not finite(vectors):
        raise Failed("the unknown id or the largest id gave NaN or infinity")


@check(KIND)
def equal_values_give_equal_vectors(setting: EncoderSetting) -> None:
    """Equal values get equal vectors, others get others."""
    module, values = setting.build(), setting.column((6,))
    for _ in range(2):
        vectors = module(values)
    if isinstance(values, torch.Tensor):
        values = values.clone()
        values[1] = values[0]
        vectors = module(values)
        if not close(vectors[0], vectors[1]):
            raise Failed("two equal values of a batch got different vectors; a vector depends on the value alone")
    if close(vectors[2], vectors[3]) and close(vectors[3], vectors[4]):
        raise Failed("different values got the same vector; it does not read its column")
