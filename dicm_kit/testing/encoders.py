"""Checks of feature encoders: column values in, vectors out."""

import torch
from torch import Tensor

from dicm_kit.testing.check import DoesNotApply, Failed, check
from dicm_kit.testing.settings import NUM_IDS, EncoderSetting, bag, rows_of
from dicm_kit.testing.tensors import close, finite
from dicm_kit.types import Bag, Column

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
    try:
        vectors = module(_column(setting, [[0], [NUM_IDS - 1]]))
    except (IndexError, RuntimeError) as error:
        raise Failed(
            f"an id of 0 to {NUM_IDS - 1} has no vector ({error}); a table needs `num_ids` rows, 0 (unknown) is one"
        ) from error
    if not finite(vectors):
        raise Failed("the unknown id or the largest id gave NaN or infinity")


@check(KIND)
def unknown_id_is_trained(setting: EncoderSetting) -> None:
    """Id 0, the unknown one, is trained like the others: new ids get its vector when the model serves."""
    if setting.shapes.kind not in ("id", "ids"):
        raise DoesNotApply(f"a column of kind {setting.shapes.kind} has no unknown id")
    module = setting.build().train()
    vectors = module(_column(setting, [[0], [0]]))
    g = torch.Generator().manual_seed(0)
    if vectors.requires_grad:
        (vectors * torch.randn(vectors.shape, generator=g)).sum().backward()
    grads = [each.grad for each in module.parameters() if each.grad is not None]
    moved = [bool((each.to_dense() != 0).any() if each.is_sparse else (each != 0).any()) for each in grads]
    if not any(moved):
        raise Failed(
            "id 0 gets no gradient (`padding_idx=0`?); 0 is the unknown id, not padding: masks tell padding apart"
        )


@check(KIND)
def equal_values_give_equal_vectors(setting: EncoderSetting) -> None:
    """Equal values of a batch get equal vectors."""
    column = setting.column((6,))
    values = rows_of(column) if isinstance(column, Bag) else list(column.unbind())
    values[1] = values[0]
    doubled = bag(values, (6,)) if isinstance(column, Bag) else torch.stack(values)
    vectors = setting.build()(doubled)
    if not close(vectors[0], vectors[1]):
        raise Failed("two equal values of a batch got different vectors; a vector depends on the value alone")


@check(KIND)
def other_values_give_other_vectors(setting: EncoderSetting) -> None:
    """Other values get other vectors: it reads its column."""
    vectors = setting.build()(setting.column((8,)))
    if close(vectors[3:], vectors[2:3].expand(5, -1)):
        raise Failed("different values got the same vector; it does not read its column")


@check(KIND)
def empty_rows_are_finite(setting: EncoderSetting) -> None:
    """A row of an `ids` column without ids gives a finite vector, the same in any batch."""
    if setting.shapes.kind != "ids":
        raise DoesNotApply(f"a column of kind {setting.shapes.kind} has a value in every row")
    module = setting.build()
    vectors = module(_column(setting, [[], [1, 2], []]))
    if not finite(vectors):
        raise Failed("a row without ids gave NaN or infinity (a mean over none?); give zeros")
    nothing = module(_column(setting, [[], []]))
    if not finite(nothing) or not close(vectors[::2], nothing):
        raise Failed("a row without ids depends on the other rows; give zeros")


@check(KIND)
def order_in_a_row_does_not_matter(setting: EncoderSetting) -> None:
    """The ids of a row are a set: their order changes nothing."""
    if setting.shapes.kind != "ids":
        raise DoesNotApply(f"a column of kind {setting.shapes.kind} has one value per row")
    module = setting.build()
    if not close(module(_column(setting, [[1, 2, 3]])), module(_column(setting, [[3, 1, 2]]))):
        raise Failed("the order of a row's ids changed its vector; sources give them in no order: pool them")


@check(KIND)
def extreme_values_are_finite(setting: EncoderSetting) -> None:
    """Large numbers, and the smallest and the largest 64-bit hash, give finite vectors."""
    kind = setting.shapes.kind
    if kind not in ("number", "hash"):
        raise DoesNotApply(f"the values of a column of kind {kind} are those of its vocabulary")
    values = torch.tensor([0.0, -1e6, 1e6]) if kind == "number" else torch.tensor([0, -(2**63), 2**63 - 1])
    try:
        vectors = setting.build()(values)
    except (IndexError, RuntimeError) as error:
        raise Failed(
            f"the values {values.tolist()} have no vectors ({error}); take the remainder of a hash, also of a"
            " negative one"
        ) from error
    if not finite(vectors):
        raise Failed(f"the values {values.tolist()} gave NaN or infinity; `asinh` or `log1p` brings numbers to a scale")


@check(KIND)
def nan_stays_in_its_row(setting: EncoderSetting) -> None:
    """A number that is NaN spoils no other row's vector."""
    if setting.shapes.kind != "number":
        raise DoesNotApply(f"a column of kind {setting.shapes.kind} has no NaN")
    module, values = setting.build(), setting.column((5,))
    expected = module(values)[1:]
    spoilt = values.clone()
    spoilt[0] = float("nan")
    if not close(expected, module(spoilt)[1:]):
        raise Failed("one number that is NaN changed the vectors of others; compute each row by itself")


def _column(setting: EncoderSetting, rows: list[list[int]]) -> Column:
    """Returns these ids; of an `id` column the first of each row."""
    if setting.shapes.kind == "ids":
        return bag([torch.tensor(each, dtype=torch.int64) for each in rows], (len(rows),))
    ids: Tensor = torch.tensor([each[0] for each in rows])
    return ids
