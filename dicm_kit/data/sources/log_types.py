"""What a column of the log may hold for what the recipe wants of it, and how it becomes ids, lists and numbers."""

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import pyarrow as pa

Role = Literal["id", "ids", "hash", "number", "label", "weight", "order", "split", "picture", "time", "times", "where"]
"""What a column is wanted for."""
Shape = Literal[
    "empty", "whole", "fraction", "yes/no", "calendar", "text", "lists of whole", "lists of text", "lists", "useless"
]
"""What a column holds, as far as it matters: `calendar` is dates and timestamps, `lists` those of other things."""

SERVES: dict[Role, tuple[Shape, ...]] = {
    "id": ("whole", "text", "yes/no", "fraction"),
    "hash": ("whole", "text", "yes/no", "fraction"),
    "ids": ("lists of whole", "lists of text", "text"),
    "number": ("whole", "fraction", "yes/no"),
    "label": ("whole", "fraction", "yes/no"),
    "weight": ("whole", "fraction"),
    "order": ("whole",),
    "split": ("text",),
    "picture": ("text",),
    "time": ("whole", "fraction", "calendar", "text"),
    "times": ("lists of whole", "lists of text", "lists", "text"),
    "where": ("whole", "fraction", "yes/no", "text"),
}
"""The shapes that serve each role; an empty column always does."""
MEANT: dict[Role, str] = {
    "id": "Ids are whole numbers or text.",
    "hash": "Hashed ids are whole numbers or text.",
    "ids": "Kind `ids` takes lists of whole numbers or text, or text joined by `|`.",
    "number": "Kind `number` takes numbers.",
    "label": "Labels are 0 and 1, or true and false.",
    "weight": "Weights are numbers.",
    "order": "An order is whole numbers.",
    "split": "Splits are text: train, val, test.",
    "picture": "Paths are text.",
    "time": "Times are numbers, timestamps, dates, or text in ISO 8601.",
    "times": "Times of clicks are lists, or text joined by `|`.",
    "where": "Rows can be chosen by whole numbers, numbers, text, true and false.",
}


def shape_of(kind: "pa.DataType") -> Shape:
    """Returns what a column of this type holds."""
    import pyarrow as pa

    types = pa.types
    if types.is_dictionary(kind):
        return shape_of(kind.value_type)
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        inner = shape_of(kind.value_type)
        if inner in ("whole", "text", "empty"):
            return "lists of whole" if inner == "whole" else "lists of text"
        return "lists"
    if types.is_null(kind):
        return "empty"
    if types.is_integer(kind):
        return "whole"
    if types.is_floating(kind) or types.is_decimal(kind):
        return "fraction"
    if types.is_boolean(kind):
        return "yes/no"
    if types.is_timestamp(kind) or types.is_date(kind):
        return "calendar"
    return "text" if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind) else "useless"


def merged(shape: Shape, role: Role) -> Shape:
    """Returns the shape that files of this one and of others can be brought to."""
    if role in ("id", "hash") and shape in ("yes/no", "fraction"):
        return "whole"
    if role in ("number", "label", "weight") and shape in ("whole", "yes/no"):
        return "fraction"
    return "lists of text" if role in ("ids", "times") and shape == "text" else shape


def brought(column: "pa.Array", role: Role, shape: Shape) -> "pa.Array":
    """Returns a column in the type that goes with its role and shape; pa.ArrowInvalid where a value has none."""
    import pyarrow as pa

    if role in ("number", "label", "weight"):
        return _without_nan(column).cast(pa.float32())
    if role == "order":
        return column.cast(pa.int64())
    if role == "ids":
        return as_lists(column).cast(pa.list_(pa.int64() if shape == "lists of whole" else pa.string()))
    return _whole(column) if shape == "whole" else column.cast(pa.string())


def as_lists(column: "pa.Array") -> "pa.Array":
    """Returns text split at `|`; lists stay lists. No text is no list: null."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if shape_of(column.type) == "empty":
        return column.cast(pa.list_(pa.string()))
    if shape_of(column.type) != "text":
        return column
    column = column.cast(pa.string())
    return pc.split_pattern(pc.if_else(pc.equal(column, ""), pa.scalar(None, pa.string()), column), "|")


def _whole(column: "pa.Array") -> "pa.Array":
    """Returns int64. Ids beside nulls are often written as 12.0; a float of 2^53 or more may stand for several."""
    import pyarrow as pa
    import pyarrow.compute as pc

    column = _without_nan(column)
    if pa.types.is_floating(column.type) and pc.any(pc.greater_equal(pc.abs(column), 2.0**53)).as_py():
        raise pa.ArrowInvalid("numbers that a float cannot tell apart")
    return column.cast(pa.int64())


def _without_nan(column: "pa.Array") -> "pa.Array":
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_floating(column.type):
        return column
    return pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
