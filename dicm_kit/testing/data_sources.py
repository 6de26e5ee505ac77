"""Checks of data sources: what it says of itself, and which columns its streams have."""

from typing import Any

from dicm_kit.interfaces import SourceColumn
from dicm_kit.testing.check import Failed, check
from dicm_kit.testing.settings import SourceSetting, rows

KIND = "data_source"

_FIXED = {
    "impressions": {"user": "id", "item": "id", "time": "int64", "label": "label"},
    "items": {"item": "id", "picture": "name"},
    "users": {"user": "id"},
}
_OPTIONAL = {
    "order": "int64",
    "weight": "number",
    "split": "text",
    "history": "ids",
    "history_time": "times",
    "click_probability": "number",
}


@check(KIND)
def describes_itself(setting: SourceSetting) -> None:
    """`columns` is a SourceColumns, `fingerprint` and `snapshot` are texts, `pieces` maps names to texts."""
    source = setting.source()
    for name in ("fingerprint", "snapshot"):
        value = getattr(source, name)
        if not isinstance(value, str) or not value:
            raise Failed(f"`{name}` is {value!r}; make it a text that changes with what it stands for")
    pieces = source.pieces
    if not isinstance(pieces, dict) or not all(isinstance(each, str) for pair in pieces.items() for each in pair):
        raise Failed(
            f"`pieces` is {pieces!r:.100}; make it a dict: name of a piece -> text that changes with its content"
        )
    if not pieces:
        raise Failed("`pieces` is empty: there is no log; name at least one")
    for side in ("user", "item", "context"):
        columns = getattr(source.columns, side, None)
        if not isinstance(columns, dict) or not all(isinstance(each, SourceColumn) for each in columns.values()):
            raise Failed(f"`columns.{side}` is no dict of `SourceColumn`; see `dicm_kit.SourceColumns`")
        wrong = [name for name, each in columns.items() if each.kind not in ("id", "ids", "hash", "number")]
        if wrong:
            raise Failed(f"`columns.{side}` gives {', '.join(wrong)} an unknown kind; it is id, ids, hash or number")


@check(KIND)
def fingerprints_are_stable(setting: SourceSetting) -> None:
    """`fingerprint`, `pieces`, `snapshot` and `columns` are the same for the same config and files."""
    one, other = setting.source(), setting.source()
    for each in (*one.pieces,):
        rows(one.impressions(each))
    rows(one.items())
    for name in ("fingerprint", "pieces", "snapshot", "columns"):
        if getattr(one, name) != getattr(other, name):
            raise Failed(
                f"`{name}` of two sources with the same config differ; a prepared folder would be refused, or made anew"
            )


@check(KIND)
def columns_are_declared(setting: SourceSetting) -> None:
    """Each stream has the columns that the interface names and those of `columns`, in every batch, and no others."""
    source = setting.source()
    for table, batches in _tables(source):
        declared = _declared(source, table)
        known = {**_FIXED[table], **declared, **(_OPTIONAL if table == "impressions" else {})}
        for batch in batches:
            names = batch.schema.names
            missing = [name for name in (*_FIXED[table], *declared) if name not in names]
            if missing:
                raise Failed(f"`{table}` lacks the column {', '.join(missing)}; it has {', '.join(names)}")
            extra = [name for name in names if name not in known]
            if extra:
                raise Failed(
                    f"`{table}` has {', '.join(extra)}, which nobody declares; add it to `columns`, or drop it"
                )


@check(KIND)
def types_match(setting: SourceSetting) -> None:
    """Each column's Arrow type fits its kind, and is the same in every batch and piece."""
    source = setting.source()
    for table, batches in _tables(source):
        kinds = {**_FIXED[table], **_OPTIONAL, **{name: each.kind for name, each in _declared(source, table).items()}}
        seen: dict[str, Any] = {}
        for batch in batches:
            for field in batch.schema:
                kind = kinds.get(field.name)
                if kind is not None and not _fits(field.type, kind):
                    raise Failed(f"`{field.name}` of `{table}` is {field.type}; {_WANTED[kind]}")
                if seen.setdefault(field.name, field.type) != field.type:
                    raise Failed(
                        f"`{field.name}` of `{table}` is {field.type}, before it was {seen[field.name]}; give the"
                        " schema by hand: an empty column has no type of its own"
                    )


_WANTED = {
    "id": "ids are whole numbers or strings",
    "hash": "what is hashed are whole numbers or strings",
    "ids": "a column of kind `ids` holds lists of whole numbers or strings",
    "number": "numbers are floats or whole numbers",
    "int64": "it is whole seconds (or a whole number, for `order`), int64",
    "label": "labels are 0 or 1, numbers or booleans",
    "name": "picture names are strings, or null",
    "text": "it is train, val or test, strings",
    "times": "it holds lists of whole seconds",
}


def _fits(kind: Any, wanted: str) -> bool:
    import pyarrow.types as pt

    if pt.is_dictionary(kind):
        kind = kind.value_type
    is_text = pt.is_string(kind) or pt.is_large_string(kind) or pt.is_null(kind)
    is_number = pt.is_integer(kind) or pt.is_floating(kind) or pt.is_null(kind) or pt.is_boolean(kind)
    if wanted in ("ids", "times"):
        is_list = pt.is_list(kind) or pt.is_large_list(kind)
        return is_list and (_fits(kind.value_type, "id") if wanted == "ids" else pt.is_integer(kind.value_type))
    if wanted in ("id", "hash"):
        return is_text or pt.is_integer(kind) or pt.is_boolean(kind)
    if wanted == "name":
        return is_text or pt.is_integer(kind)
    return bool({"int64": pt.is_integer(kind), "text": is_text}.get(wanted, is_number))


def _declared(source: Any, table: str) -> dict[str, SourceColumn]:
    side = {"impressions": "context", "items": "item", "users": "user"}[table]
    declared: dict[str, SourceColumn] = getattr(source.columns, side)
    return declared


def _tables(source: Any) -> list[tuple[str, list[Any]]]:
    """Returns the batches of each table."""
    import pyarrow as pa

    found = [("impressions", [batch for piece in source.pieces for batch in source.impressions(piece)])]
    found += [("items", list(source.items())), ("users", list(source.users()))]
    for table, batches in found:
        wrong = next((each for each in batches if not isinstance(each, pa.RecordBatch)), None)
        if wrong is not None:
            raise Failed(f"`{table}` yielded a {type(wrong).__name__}; yield `pyarrow.RecordBatch`es")
    return found
