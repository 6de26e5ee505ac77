"""A source's streams -> checked Parquet files with one type per column: what duckdb then joins and sorts."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from dicm_kit.data.grouping import LATEST
from dicm_kit.data.ragged import offsets_of
from dicm_kit.data.steps import parquet_file, publish
from dicm_kit.errors import DataError, did_you_mean, some
from dicm_kit.interfaces import Kind, SourceColumn

if TYPE_CHECKING:
    import pyarrow as pa

Table = Literal["impressions", "items", "users"]

# Kinds of the columns that every source has, by table; `id`: int64 or string. A `?` marks those it may leave out.
_FIXED: dict[Table, dict[str, str]] = {
    "impressions": {
        "user": "id",
        "item": "id",
        "time": "int64",
        "label": "float32",
        "order": "int64?",
        "weight": "float32?",
        "split": "string?",
        "click_probability": "float64?",
        "history": "items?",
        "history_time": "times?",
    },
    "items": {"item": "id", "picture": "id"},
    "users": {"user": "id"},
}
_NEVER_NULL = ("user", "item", "time", "label", "weight", "split", "click_probability")
_RANGES: dict[str, tuple[Callable[[np.ndarray], np.ndarray], str]] = {
    "label": (lambda label: (label == 0) | (label == 1), "neither 0 nor 1"),
    "weight": (lambda weight: np.isfinite(weight) & (weight >= 0), "not a finite number of at least 0"),
    "click_probability": (lambda share: (share >= 0) & (share <= 1), "not between 0 and 1"),
}
_FINE = "`time` is not in seconds since 1970 (milliseconds or finer?)"
_YEAR = 31_556_952  # seconds
_ROW = "row_number"


def ingest(
    batches: "Iterator[pa.RecordBatch]",
    table: Table,
    columns: dict[str, SourceColumn],
    out: Path,
    advance: Callable[[int], None],
    *,
    first: int = 0,
    like: Path | None = None,
    items: Path | None = None,
    needed: tuple[str, ...] = (),
    piece: str | None = None,
) -> None:
    """Writes one of the source's tables, or a piece of it, to `out`, whole or not at all.

    A column `row_number` counts from `first`; feature columns get the prefix `feature_`. `like`: a piece that was
    written before, whose types this one must have. `items`: the items with their rows, which `history` is given in.
    `needed`: fixed columns that may not be left out this time. DataError, after the last row, when values are wrong:
    how many, which.
    """
    import pyarrow.parquet as pq

    where = f"{table}, {piece}" if piece else table
    aside = out.with_name(out.name + ".tmp")
    problems = _Problems(table, where, first)
    rows_of = _ItemRows(items)
    writer: pq.ParquetWriter | None = None
    row = first
    with ExitStack() as stack:
        for batch in batches:
            schema = writer.schema if writer else pq.read_schema(like) if like else None
            typed = _typed(batch, table, columns, needed, row, schema, where, rows_of)
            if writer is None:
                writer = stack.enter_context(parquet_file(aside, typed.schema, compression="lz4"))
            problems.look(typed)
            writer.write_batch(typed)
            row += len(batch)
            advance(len(batch))
    if writer is None or (row == first and piece is None):  # of several pieces, filters may leave some empty
        raise DataError("the data source yields none", where=where, todo="Look at the files it reads.")
    problems.raise_any()
    publish(aside, out)


class _ItemRows:
    """Raw items -> their rows; read when the first history comes."""

    def __init__(self, file: Path | None):
        self._file = file
        self._items: pa.Array | None = None
        self._rows = np.zeros(0, np.int64)

    def of(self, lists: "pa.Array", times: "pa.Array | None") -> tuple["pa.Array", "pa.Array | None"]:
        """Returns lists of rows, and their times, without the items that are in no table."""
        import pyarrow as pa
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        if self._items is None:
            assert self._file is not None, "only impressions have histories, and their items are known by then"
            table = pq.read_table(self._file, columns=["item", "row_number"])
            self._items = table["item"].combine_chunks()
            self._rows = table["row_number"].to_numpy()
        lists = pc.fill_null(lists, pa.scalar([], lists.type))
        values = lists.flatten()
        if values.type != self._items.type:
            values = values.cast(self._items.type)
        place = pc.index_in(values, value_set=self._items)
        known = place.is_valid().to_numpy(zero_copy_only=False)
        row = np.repeat(np.arange(len(lists)), lists.value_lengths().to_numpy())
        offsets = pa.array(offsets_of(np.bincount(row[known], minlength=len(lists))), pa.int32())
        items = pa.ListArray.from_arrays(offsets, pa.array(self._rows[place.drop_null().to_numpy()]))
        if times is None:
            return items, None
        moments = pc.fill_null(times, pa.scalar([], times.type)).flatten()
        if len(moments) != len(known):
            raise TypeError(f"{len(moments):,} times for {len(known):,} items")
        return items, pa.ListArray.from_arrays(offsets, moments.filter(pa.array(known)))


def _typed(
    batch: "pa.RecordBatch",
    table: Table,
    columns: dict[str, SourceColumn],
    needed: tuple[str, ...],
    row: int,
    schema: "pa.Schema | None",
    where: str,
    rows_of: "_ItemRows",
) -> "pa.RecordBatch":
    """Returns the batch with the columns that are wanted, in the types that are stored."""
    import pyarrow as pa

    fixed = _FIXED[table]
    if clash := [name for name in columns if name in fixed]:
        raise DataError(f"a feature column may not be called {some(clash)}", where=where, todo="Rename it.")
    wanted = [name for name, kind in fixed.items() if name in needed or not kind.endswith("?")] + list(columns)
    if missing := [name for name in wanted if name not in batch.schema.names]:
        raise DataError(
            f"the data source yields no column {some(missing)}",
            where=where,
            todo=did_you_mean(missing[0], batch.schema.names) or f"Its columns: {', '.join(batch.schema.names)}.",
        )
    kept = {name: _cast(batch[name], kind, where, name) for name, kind in fixed.items() if name in batch.schema.names}
    if "history" in kept:
        try:
            kept["history"], times = rows_of.of(kept["history"], kept.get("history_time"))
        except (pa.ArrowInvalid, TypeError) as error:
            raise DataError(f"`history` does not fit near row {row}: {error}", where=where, todo="Mend it.") from error
        if times is not None:
            kept["history_time"] = times
    kept |= {f"feature_{name}": _cast(batch[name], column.kind, where, name, row) for name, column in columns.items()}
    kept[_ROW] = pa.array(np.arange(row, row + len(batch)))
    typed = pa.RecordBatch.from_pydict(kept)
    if schema is not None and typed.schema != schema:
        before = {field.name: field.type for field in schema}
        wrong = [
            f"{field.name} is {field.type}, before it was {before.get(field.name, 'not there')}"
            for field in typed.schema
            if before.get(field.name) != field.type
        ]
        raise DataError(
            f"types change at row {row}: {some(wrong or ['a column is gone'])}",
            where=where,
            todo="A column has one type: mend the data source.",
        )
    return typed


def _cast(column: "pa.Array", kind: "str | Kind", where: str, name: str, row: int = 0) -> "pa.Array":
    """Returns a column in the type it is stored in: int64 or string for ids and hashes."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    try:
        if kind == "number":
            column = column.cast(pa.float32())
            if infinite := pc.sum(pc.is_inf(column)).as_py():
                raise DataError(
                    f"{infinite} infinite numbers in `{name}` near row {row}", where=where, todo="Leave them null."
                )
            return column
        if kind == "ids":
            if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
                raise TypeError(f"{column.type}; a column of kind `ids` holds lists")
            return column.cast(pa.list_(_id_type(column.type.value_type)))
        if kind in ("id", "hash"):
            return column.cast(_id_type(column.type))
        kind = kind.removesuffix("?")
        if kind in ("items", "times"):
            if not (pa.types.is_list(column.type) or pa.types.is_large_list(column.type)):
                raise TypeError(f"{column.type}, not lists")
            inner = _id_type(column.type.value_type) if kind == "items" else pa.int64()
            return column.cast(pa.list_(inner))
        if kind == "int64" and not (pa.types.is_integer(column.type) or pa.types.is_null(column.type)):
            raise TypeError(f"{column.type}, not whole numbers")  # a cast would take microseconds for seconds
        return column.cast(pa.type_for_alias(kind))
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, TypeError) as error:
        raise DataError(f"`{name}` has a wrong type: {error}", where=where, todo="Mend the data source.") from error


def _id_type(kind: "pa.DataType") -> "pa.DataType":
    import pyarrow as pa

    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return pa.int64()
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind):
        return pa.string()
    raise TypeError(f"{kind}; ids are whole numbers or strings")


class _Problems:
    """Counts values that cannot be used, with five examples of each kind."""

    def __init__(self, table: Table, where: str, first: int):
        self._table, self._where, self._first = table, where, first
        self._counts, self._examples = dict[str, int](), dict[str, list[str]]()

    def look(self, batch: "pa.RecordBatch") -> None:
        """Looks at a batch."""
        rows = batch[_ROW].to_numpy() - self._first
        for name in _FIXED[self._table]:
            if name not in batch.schema.names:
                continue
            column = batch[name]
            if name in _NEVER_NULL and column.null_count:
                null = column.is_null().to_numpy(zero_copy_only=False)
                self._add(f"`{name}` is null", [f"row {row}" for row in rows[null][:5]], column.null_count)
                column = column.fill_null(0) if name in _RANGES else column
            if name == "time":
                values = column.fill_null(0).to_numpy()
                wrong = np.flatnonzero((values >= LATEST) | (values <= -LATEST))
                examples = [
                    f"row {rows[row]}: {values[row]}, the year {1970 + values[row] // _YEAR}" for row in wrong[:5]
                ]
                self._add(_FINE, examples, len(wrong))
            if name == "history_time":
                late = _later(column, batch["time"])
                examples = [f"row {row}" for row in rows[late][:5]]
                self._add("`history_time` is after the impression", examples, int(late.sum()))
            if name in _RANGES:
                allowed, what = _RANGES[name]
                values = column.to_numpy(zero_copy_only=False)
                wrong = np.flatnonzero(~allowed(values))
                examples = [f"row {rows[index]}: {values[index]:g}" for index in wrong[:5]]
                self._add(f"`{name}` is {what}", examples, len(wrong))

    def _add(self, what: str, examples: list[str], count: int) -> None:
        if count:
            self._counts[what] = self._counts.get(what, 0) + count
            self._examples.setdefault(what, []).extend(examples)

    def raise_any(self) -> None:
        """Raises DataError with everything that was found."""
        if not self._counts:
            return
        lines = []
        for what, count in self._counts.items():
            lines.append(f"{what} in {count:,} rows ({', '.join(self._examples[what][:5])})")
        seconds = "Convert them to whole seconds; what lies below is `order`. " if _FINE in self._counts else ""
        todo = f"{seconds}Mend these rows, or leave them out, and prepare again."
        raise DataError("; ".join(lines), where=self._where, todo=todo)


def _later(lists: "pa.Array", time: "pa.Array") -> np.ndarray:
    """Returns which rows have a time in their list that is after their own."""
    lengths = lists.value_lengths().to_numpy()
    row = np.repeat(np.arange(len(lengths)), lengths)
    late = lists.flatten().to_numpy() > time.to_numpy()[row]
    return np.bincount(row[late], minlength=len(lengths)) > 0
