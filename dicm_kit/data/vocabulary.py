"""Raw values -> codes, which never change, and indices: 1, 2, ... by how often training has them, 0 for the others.

In SQL, for duckdb. Samples hold codes, so that they stay as they are when days are added; a code is the row of its
value in the vocabulary's file, and the row says the index. A value that is forgotten loses its index, never its code.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from dicm_kit.errors import DataError, some
from dicm_kit.interfaces import Kind


@dataclass(frozen=True)
class Encoding:
    """A column of one of duckdb's tables and what becomes of it."""

    name: str
    """Its name in the dataset."""
    kind: Kind
    vocab: str | None
    counts: str
    """SQL: a query of its raw values as `value`, how often training has each as `times`, and on which UTC day last as
    `last_day` (null: never, or it is not asked for); not yet summed."""
    table: str
    """Where its raw values are: a view with `row_number`."""
    raw: str
    """The column there."""

    @property
    def expression(self) -> str:
        """SQL: the encoded value, in a query that has the table as `t` and the `join`."""
        raw = f't."{self.raw}"'
        if self.kind == "number":
            return f"CASE WHEN {raw} IS NULL OR isnan({raw}) THEN 0 ELSE {raw} END::FLOAT"
        if self.kind == "hash":
            return f"coalesce(hash64({raw}), 0)"
        if self.kind == "ids":
            return f'coalesce("encoded {self.name}".list, []::BIGINT[])'
        return f'coalesce("encoded {self.name}".number, 0)::BIGINT'

    @property
    def placeholder(self) -> str:
        """SQL: a value of the right type for rows that are only there for histories."""
        return {"number": "0::FLOAT", "ids": "[]::BIGINT[]"}.get(self.kind, "0::BIGINT")

    def join(self, vocab_file: Path, number: Literal["code", "index"]) -> str:
        """SQL: the join that `expression` needs."""
        if self.vocab is None:
            return ""
        column = "index" if number == "index" else "file_row_number"
        vocab = f"""(SELECT value, {column}::BIGINT AS number
            FROM read_parquet({quoted(vocab_file)}, file_row_number = true) WHERE value IS NOT NULL)"""
        if self.kind == "id":
            return f'LEFT JOIN {vocab} "encoded {self.name}" ON "encoded {self.name}".value = t."{self.raw}"'
        return f"""LEFT JOIN (
            SELECT row_number, list(coalesce(v.number, 0) ORDER BY place) AS list
            FROM (
                SELECT row_number, unnest("{self.raw}") AS value, generate_subscripts("{self.raw}", 1) AS place
                FROM {self.table}
            ) LEFT JOIN {vocab} v USING (value) GROUP BY row_number
        ) "encoded {self.name}" ON "encoded {self.name}".row_number = t.row_number"""


HASH64 = """CREATE MACRO hash64(value) AS (
    md5_number_lower(value::VARCHAR)::HUGEINT
    - CASE WHEN md5_number_lower(value::VARCHAR) >= 9223372036854775808 THEN 18446744073709551616::HUGEINT ELSE 0 END
)::BIGINT"""
"""The last 8 bytes of the MD5 of the value as text, little-endian, as a signed number. Part of the format."""


def values_of(kind: Kind, raw: str) -> str:
    """SQL: the raw values of a column, one per row."""
    return f'unnest("{raw}")' if kind == "ids" else f'"{raw}"'


def joins(encodings: list[Encoding], vocab: Path, number: Literal["code", "index"]) -> str:
    """SQL: the joins that the encodings need; `vocab`: the folder of the vocabularies."""
    return "\n".join(each.join(vocab / f"{each.vocab}.parquet", number) for each in encodings)


def vocabularies(encodings: list[Encoding]) -> dict[str, list[Encoding]]:
    """Returns the columns of each vocabulary."""
    found: dict[str, list[Encoding]] = {}
    for each in encodings:
        if each.vocab is not None:
            found.setdefault(each.vocab, []).append(each)
    return found


def counted_query(columns: list[Encoding], before: Path | None) -> str:
    """SQL: every value of some columns, with its count and last day in training, and its code where the file `before`
    has one."""
    values = " UNION ALL ".join(f"({each.counts})" for each in columns)
    counted = f"""SELECT value, sum(times)::BIGINT AS count, max(last_day) AS last_day FROM ({values})
        WHERE value IS NOT NULL GROUP BY value"""
    if before is None:
        return f"SELECT value, NULL::BIGINT AS code, count, last_day FROM ({counted})"
    return f"""SELECT coalesce(c.value, o.value) AS value, o.code, coalesce(c.count, 0) AS count, c.last_day
        FROM ({counted}) c FULL JOIN (
            SELECT value, file_row_number AS code
            FROM read_parquet({quoted(before)}, file_row_number = true) WHERE value IS NOT NULL
        ) o ON c.value = o.value"""


def indexed_query(counted: Path, min_count: int, since: int | None) -> str:
    """SQL: the values of the file `counted` with their indices, 0 for those that training has too rarely, or had last
    before the UTC day `since`."""
    # row_number() over a sorted query streams; a window with an order of its own would hold all values in memory
    file = f"read_parquet({quoted(counted)})"
    known = f"count >= {min_count}"
    if since is not None:
        known += f" AND coalesce(last_day >= {since}, false)"
    return f"""SELECT value, code, count, last_day, row_number() OVER () AS index
        FROM (SELECT * FROM {file} WHERE {known} ORDER BY count DESC, value)
        UNION ALL SELECT value, code, count, last_day, 0 AS index FROM {file} WHERE NOT ({known})"""


def vocab_query(indexed: Path, last_day: bool) -> str:
    """SQL: a vocabulary of the file `indexed`: `value`, `index`, `count` and, if asked for, `last_day`, in the order of
    codes.

    Row 0 is that of null. The values that had codes keep their rows; new ones follow, the most frequent first.
    """
    date = ", DATE '1970-01-01' + last_day AS last_day" if last_day else ""
    return f"""SELECT value, index, count{date} FROM (
            SELECT NULL AS value, 0::BIGINT AS index, 0::BIGINT AS count, NULL::INTEGER AS last_day, 0::BIGINT AS code
            UNION ALL SELECT value, index, count, last_day, code FROM read_parquet({quoted(indexed)})
        ) ORDER BY code NULLS LAST, count DESC, value"""


def check_types(vocab: str, types: dict[str, str]) -> None:
    """Raises DataError unless all columns of a vocabulary (`types`: duckdb's, by column) have one type of values."""
    if len(set(types.values())) > 1:
        listed = [f"`{name}` {kind}" for name, kind in types.items()]
        raise DataError(
            f"columns of different types share it: {some(listed)}",
            where=f"vocabulary `{vocab}`",
            todo="Give them vocabularies of their own, or make both whole numbers or both strings.",
        )


def quoted(path: Path) -> str:
    """Returns a path as an SQL string."""
    return "'" + str(path).replace("'", "''") + "'"
