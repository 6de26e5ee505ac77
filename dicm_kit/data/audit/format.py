"""dataset.yaml, the vocabularies and items.parquet against docs/reference/dataset_folder.md."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from dicm_kit.data.audit.result import Findings
from dicm_kit.data.dataset import DATASET_FILE, SPLITS, ColumnInfo, Dataset
from dicm_kit.data.vocabulary import quoted
from dicm_kit.errors import some
from dicm_kit.interfaces import Kind

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa

ITEMS = "items.parquet"
PAGE = "See docs/reference/dataset_folder.md"
TYPES = {"id": ("int64",), "hash": ("int64",), "number": ("float",), "ids": ("list<int64>",)}
"""Of values, by kind, as Arrow calls them."""


def check_description(dataset: Dataset, findings: Findings) -> None:
    """Looks at the columns and parts that dataset.yaml names."""

    def wrong(what: str, todo: str) -> None:
        findings.add(DATASET_FILE, what, todo)

    for side, needed in (("user", ["user_id"]), ("item", ["item_id", "picture"])):
        if missing := [name for name in needed if name not in getattr(dataset, side)]:
            wrong(f"the {side} columns lack {some(missing)}", f"{PAGE}: every dataset has them.")
    for side in ("user", "item", "context"):
        for name, info in getattr(dataset, side).items():
            if info.kind not in get_args(Kind):
                wrong(f"the {side} column `{name}` is of kind `{info.kind}`", f"Kinds: {', '.join(get_args(Kind))}.")
            elif (info.vocab is None) == (info.kind in ("id", "ids")):
                has = "no vocabulary" if info.vocab is None else "a vocabulary"
                wrong(f"the {side} column `{name}` of kind `{info.kind}` has {has}", f"{PAGE}, on kinds.")
    used = [part for split in SPLITS for part in dataset.splits[split].parts]
    if lost := [part for part in dataset.parts if part not in used]:
        wrong(f"no split has the parts {some(lost)}", "List each part in one split.")
    if twice := sorted({part for part in used if used.count(part) > 1}):
        wrong(f"more than one split has the parts {some(twice)}", "List each part in one split.")


def columns_of(dataset: Dataset, vocab: str) -> dict[str, ColumnInfo]:
    """Returns the columns that use a vocabulary."""
    sides = (dataset.user, dataset.item, dataset.context)
    return {name: info for side in sides for name, info in side.items() if info.vocab == vocab}


def check_vocabularies(dataset: Dataset, database: "duckdb.DuckDBPyConnection", findings: Findings) -> set[str]:
    """Looks at each vocabulary; returns the names of those that can be used."""
    sides = (dataset.user, dataset.item, dataset.context)
    names = sorted({info.vocab for side in sides for info in side.values() if info.vocab})
    return {name for name in names if _check_vocabulary(dataset, name, database, findings)}


def _check_vocabulary(dataset: Dataset, name: str, database: "duckdb.DuckDBPyConnection", findings: Findings) -> bool:
    import pyarrow.parquet as pq

    file = dataset.vocab_file(name)
    where, todo = f"vocab/{file.name}", f"{PAGE}, on vocab/."
    wanted = {"value": ("int64", "string", "large_string"), "index": ("int64",), "count": ("int64",)}
    if not has_columns(file, where, wanted, findings, {"last_day": ("date32[day]",)}):
        return False
    table = pq.read_table(file, columns=["index", "count"], partitioning=None)
    index, count = table["index"].to_numpy(), table["count"].to_numpy()
    value = f"FROM read_parquet({quoted(file)}, file_row_number = true)"
    nulls = _numbers(database, f"SELECT count(*), min(file_row_number) {value} WHERE value IS NULL")
    if nulls != [1, 0] or index[0] or count[0]:
        findings.add(where, "its first row is not that of null (null, 0, 0), or it has another null", todo)
        return False
    kept = np.sort(index[index > 0])
    if not np.array_equal(kept, np.arange(1, len(kept) + 1)) or index.min() < 0:
        findings.add(where, "its indices are not 1, 2, ... without a gap, each once, and 0 for the others", todo)
        return False
    twice, examples = _twice(database, "value", f"{value} WHERE value IS NOT NULL")
    findings.add(where, "values come more than once", todo, count=twice, example=examples)
    findings.add(where, "counts are below 0", todo, count=int((count < 0).sum()))
    for column, info in columns_of(dataset, name).items():
        if info.num_ids != len(kept) + 1:
            findings.add(
                DATASET_FILE,
                f"`{column}` says num_ids {info.num_ids}; {where} has {len(kept)} indices",
                f"Write num_ids: {len(kept) + 1}, one more than the largest index.",
            )
    return not twice


def check_items(dataset: Dataset, vocabs: set[str], database: "duckdb.DuckDBPyConnection", findings: Findings) -> bool:
    """Looks at items.parquet; returns whether its rows can be used."""
    wanted: dict[str, tuple[str, ...]] = {"item": ("int64", "string", "large_string")}
    wanted |= {"picture_key": ("int64",), "train_count": ("int64",)}
    wanted |= {name: TYPES[info.kind] for name, info in dataset.item.items() if info.kind in TYPES}
    file = dataset.folder / ITEMS
    if not has_columns(file, ITEMS, wanted, findings):
        return False
    items, todo = dataset.items, f"{PAGE}, on {ITEMS}."
    if len(items) != dataset.num_items:
        findings.add(ITEMS, f"has {len(items):,} rows, {DATASET_FILE} says {dataset.num_items:,} items", todo)
        return False
    nulls = [name for name in wanted if _null_count(items[name])]
    if nulls:
        findings.add(ITEMS, f"has nulls in {some(nulls)}", todo)
        return False
    twice, examples = _twice(database, "item", f"FROM read_parquet({quoted(file)})")
    findings.add(ITEMS, "items come more than once", todo, count=twice, example=examples)
    for name in ("picture_key", "train_count"):
        findings.add(ITEMS, f"values of `{name}` are below 0", todo, count=int((items[name].to_numpy() < 0).sum()))
    for name, info in dataset.item.items():
        values = flat(items[name])
        if info.kind == "number":
            count = int((~np.isfinite(values)).sum())
            findings.add(ITEMS, f"values of `{name}` are not finite", todo, count=count)
        elif info.vocab is not None and info.num_ids is not None:
            strange = int(((values < 0) | (values >= info.num_ids)).sum())
            findings.add(ITEMS, f"indices of `{name}` are not in its vocabulary", todo, count=strange)
            if not strange and info.vocab in vocabs:
                _check_names(dataset, name, values, findings)
    return not twice


def _check_names(dataset: Dataset, column: str, index: np.ndarray, findings: Findings) -> None:
    """Checks that `item_id` and `picture` are the indices of the item's own id and picture key."""
    import pyarrow.parquet as pq

    raw = {"item_id": "item", "picture": "picture_key"}.get(column)
    vocab = dataset.item[column].vocab
    if raw is None or vocab is None:
        return
    table = pq.read_table(dataset.vocab_file(vocab), columns=["value", "index"], partitioning=None)
    values, wanted = table["value"].combine_chunks(), dataset.items[raw].combine_chunks()
    at = np.zeros(int(table["index"].to_numpy().max()) + 1, np.int64)
    at[table["index"].to_numpy()] = np.arange(len(table))
    known = np.flatnonzero(index)
    named, own = values.take(at[index[known]]), wanted.take(known)
    wrong = len(known) if named.type != own.type else int(np.count_nonzero(_unequal(named, own)))
    todo = f"{PAGE}: `{column}` is the index of `{raw}` in its vocabulary."
    findings.add(ITEMS, f"items have the index of another `{raw}` in `{column}`", todo, count=wrong)


def _unequal(one: "pa.Array", other: "pa.Array") -> np.ndarray:
    import pyarrow.compute as pc

    return np.asarray(pc.not_equal(one, other))


def has_columns(
    file: Path,
    where: str,
    wanted: dict[str, tuple[str, ...]],
    findings: Findings,
    optional: dict[str, tuple[str, ...]] | None = None,
) -> bool:
    """Returns whether a Parquet file can be read and has the columns, in the types, that are wanted of it; those that
    are optional may be missing."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        schema = pq.read_schema(file)
    except (OSError, pa.ArrowInvalid) as error:
        findings.add(where, f"cannot be read: {str(error).splitlines()[0]}", "Write or copy it again.")
        return False
    good = True
    present = {name: types for name, types in (optional or {}).items() if name in schema.names}
    for name, types in (wanted | present).items():
        if name not in schema.names:
            findings.add(where, f"has no column `{name}`", f"Write it, as {types[0]}. {PAGE}.")
            good = False
        elif (found := _type_name(schema.field(name).type)) not in types:
            findings.add(where, f"`{name}` is {found}", f"Write it as {' or '.join(types)}.")
            good = False
    return good


def _type_name(kind: "pa.DataType") -> str:
    import pyarrow as pa

    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return f"list<{_type_name(kind.value_type)}>"
    return str(kind)


def flat(column: "pa.ChunkedArray") -> np.ndarray:
    """Returns the values of a column of items.parquet, of all its lists one after the other."""
    import pyarrow as pa

    joined = column.combine_chunks()
    is_list = pa.types.is_list(column.type) or pa.types.is_large_list(column.type)
    return (joined.flatten() if is_list else joined).to_numpy()


def _null_count(column: "pa.ChunkedArray") -> int:
    import pyarrow as pa

    inner = 0
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        inner = column.combine_chunks().flatten().null_count
    return column.null_count + inner


def _twice(database: "duckdb.DuckDBPyConnection", column: str, source: str) -> tuple[int, str]:
    """Returns how many values come more than once, and some."""
    query = f"SELECT {column} AS value, count(*) AS n {source} GROUP BY 1 HAVING n > 1"
    (count,) = _numbers(database, f"SELECT count(*) FROM ({query})")
    found = database.execute(f"{query} ORDER BY 1 LIMIT 5").fetchall() if count else []
    return count, ", ".join(str(value) for value, _ in found)


def _numbers(database: "duckdb.DuckDBPyConnection", query: str) -> Sequence[Any]:
    row = database.execute(query).fetchone()
    assert row is not None
    return list(row)
