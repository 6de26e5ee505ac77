"""Raw values -> indices: 1, 2, ... by how often the training split has them, 0 for all others. In SQL, for duckdb."""

from dataclasses import dataclass
from pathlib import Path

from dicm_kit.errors import DataError, some
from dicm_kit.interfaces import Kind


@dataclass(frozen=True)
class Encoding:
    """A column of one of duckdb's tables and what becomes of it."""

    name: str
    """Its name in the dataset."""
    kind: Kind
    vocab: str | None
    table: str
    """Where its raw values are: a view with `row_number`, and `times`, how often training has each row."""
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
        return f'coalesce("encoded {self.name}".index, 0)::BIGINT'

    def join(self, vocab_file: Path) -> str:
        """SQL: the join that `expression` needs."""
        if self.vocab is None:
            return ""
        vocab = f"read_parquet({quoted(vocab_file)})"
        if self.kind == "id":
            return f'LEFT JOIN {vocab} "encoded {self.name}" ON "encoded {self.name}".value = t."{self.raw}"'
        return f"""LEFT JOIN (
            SELECT row_number, list(coalesce(v.index, 0)::BIGINT ORDER BY place) AS list
            FROM (
                SELECT row_number, unnest("{self.raw}") AS value, generate_subscripts("{self.raw}", 1) AS place
                FROM {self.table}
            ) LEFT JOIN {vocab} v USING (value) GROUP BY row_number
        ) "encoded {self.name}" ON "encoded {self.name}".row_number = t.row_number"""

    @property
    def counted(self) -> str:
        """SQL: raw values, and how often training has them, not yet summed."""
        value = f'unnest("{self.raw}")' if self.kind == "ids" else f'"{self.raw}"'
        return f"SELECT {value} AS value, times FROM {self.table} WHERE times > 0"


HASH64 = """CREATE MACRO hash64(value) AS (
    md5_number_lower(value::VARCHAR)::HUGEINT
    - CASE WHEN md5_number_lower(value::VARCHAR) >= 9223372036854775808 THEN 18446744073709551616::HUGEINT ELSE 0 END
)::BIGINT"""
"""The last 8 bytes of the MD5 of the value as text, little-endian, as a signed number. Part of the format."""


def vocabularies(encodings: list[Encoding]) -> dict[str, list[Encoding]]:
    """Returns the columns of each vocabulary."""
    found: dict[str, list[Encoding]] = {}
    for each in encodings:
        if each.vocab is not None:
            found.setdefault(each.vocab, []).append(each)
    return found


def vocab_query(columns: list[Encoding], min_count: int) -> str:
    """SQL: the vocabulary of some columns, `value`, `index`, `count`; the most frequent first, then by value."""
    values = " UNION ALL ".join(f"({each.counted})" for each in columns)
    return f"""
        SELECT value, row_number() OVER (ORDER BY count DESC, value) AS index, count
        FROM (
            SELECT value, sum(times)::BIGINT AS count FROM ({values})
            WHERE value IS NOT NULL GROUP BY value HAVING sum(times) >= {min_count}
        ) ORDER BY index"""


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
