"""duckdb over the ingested tables: checks, vocabularies, the item table, and the log joined and sorted."""

import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dicm_kit.data.dataset import SPLITS
from dicm_kit.data.steps import publish
from dicm_kit.data.vocabulary import HASH64, Encoding, check_types, quoted, vocab_query, vocabularies
from dicm_kit.errors import DataError, some
from dicm_kit.interfaces import DataSource, SourceColumn

if TYPE_CHECKING:
    import duckdb

_THREADS = 4
_OPTIONAL = {"click_probability": "t.click_probability"}


class Tables(AbstractContextManager["Tables"]):
    """The tables of a preparation; a context manager that holds the connection."""

    def __init__(self, source: DataSource, work: Path, out: Path, memory: str):
        self.work, self.out, self._memory = work, out, memory
        self._has_users = bool(source.columns.user)
        ours = {"user": {"user_id"}, "item": {"item_id", "picture", "picture_key", "train_count"}}
        for side, reserved in ours.items():
            if clash := sorted(reserved & set(getattr(source.columns, side))):
                raise DataError(
                    f"a feature column may not be called {some(clash)}: prepare makes it",
                    where=f"{side}s",
                    todo="Rename it.",
                )
        self.encodings = {
            "user": [
                Encoding("user_id", "id", "user_id", "user_counts", "user"),
                *_encodings(source.columns.user, "counted_users"),
            ],
            "item": [
                Encoding("item_id", "id", "item_id", "counted_items", "item"),
                Encoding("picture", "id", "picture", "counted_items", "picture_key"),
                *_encodings(source.columns.item, "counted_items"),
            ],
            "context": _encodings(source.columns.context, "counted_log"),
        }
        self._database: duckdb.DuckDBPyConnection | None = None

    def __enter__(self) -> "Tables":
        import duckdb

        settings: dict[str, Any] = {
            "memory_limit": self._memory,
            "threads": min(_THREADS, os.cpu_count() or 1),
            "temp_directory": str(self.work / "duckdb"),
        }
        self._database = duckdb.connect(":memory:", config=settings)
        self._run("SET enable_progress_bar = false")
        self._run(HASH64)
        return self

    def __exit__(self, *error: object) -> None:
        assert self._database is not None
        self._database.close()
        self._database = None

    def open(self, split: str) -> None:
        """Makes the views; `split` is the SQL of an impression's index in SPLITS."""
        self._view("impressions", f"SELECT * FROM {self._ingested('impressions')}")
        self._view("log", f"SELECT *, {split} AS split_index FROM impressions")
        self._view("counted_log", "SELECT *, (split_index = 0)::BIGINT AS times FROM log")
        for key in ("user", "item"):
            query = f'SELECT "{key}", sum(times)::BIGINT AS times FROM counted_log GROUP BY "{key}"'
            self._run(f"CREATE TABLE {key}_counts AS {query}")
        self._view("items", f"SELECT * FROM {self._ingested('items')}")
        self._view(
            "counted_items",
            f"""SELECT i.*, nullif(n.key, 0) AS picture_key, coalesce(c.times, 0) AS times
            FROM items i LEFT JOIN {self._ingested("names")} n ON i.picture::VARCHAR = n.name
            LEFT JOIN item_counts c ON i.item = c.item""",
        )
        if self._has_users:
            self._view("users", f"SELECT * FROM {self._ingested('users')}")
            self._view(
                "counted_users",
                'SELECT u.*, coalesce(c.times, 0) AS times FROM users u LEFT JOIN user_counts c ON u."user" = c."user"',
            )

    def check(self, wanted_splits: dict[int, str], hint: str) -> None:
        """Raises DataError for tables that do not fit together, and for splits without rows or positives."""
        self._once("item", "items")
        self._known("item", "items")
        if self._has_users:
            self._once("user", "users")
            self._known("user", "users")
        self._once("name", f"{self._ingested('names')}", "pictures")
        self._check_splits(wanted_splits, hint)
        for vocab, columns in vocabularies(self._all()).items():
            check_types(vocab, {each.name: self._type(each) for each in columns})

    def write_vocabularies(self, min_count: int) -> None:
        """Writes vocab/."""
        aside = self.work / "vocab"
        aside.mkdir(exist_ok=True)
        for vocab, columns in vocabularies(self._all()).items():
            self._copy(vocab_query(columns, min_count), aside / f"{vocab}.parquet")
        publish(aside, self.out / "vocab")

    def write_items(self) -> None:
        """Writes items.parquet, in the order of the source."""
        encodings = self.encodings["item"]
        query = f"""SELECT t.item, coalesce(t.picture_key, 0) AS picture_key, t.times AS train_count,
            {", ".join(f'{each.expression} AS "{each.name}"' for each in encodings)}
            FROM counted_items t {self._joins(encodings)} ORDER BY t.row_number"""
        self._publish(query, self.out / "items.parquet")

    def write_rejected(self, out: Path) -> None:
        """Writes the pictures that count as missing: refused ones, and those that items name but nobody yielded."""
        names = self._ingested("names")
        wanted = f"SELECT DISTINCT picture::VARCHAR AS name FROM {self._ingested('items')} WHERE picture IS NOT NULL"
        query = f"""SELECT name, reason FROM {names} WHERE key = 0 UNION ALL
            SELECT name, 'the data source yields no such picture' FROM ({wanted}) ANTI JOIN {names} USING (name)
            ORDER BY name"""
        self._publish(query, out)

    def write_sorted(self) -> None:
        """Writes the log by user and time, joined and encoded; users come in the order of a hash."""
        user, context = self.encodings["user"], self.encodings["context"]
        given = {name for name, *_ in self._run("DESCRIBE impressions").fetchall()}
        # user columns are joined through their own table, context columns to the log itself
        encoded_users = f"""SELECT t."user", {", ".join(f'{each.expression} AS "{each.name}"' for each in user[1:])}
            FROM counted_users t {self._joins(user[1:])}"""
        columns = [
            f"{'t.user' if self._column_type('impressions', 'user') == 'BIGINT' else 'hash64(t.user)'} AS user",
            't."time"',
            "r.item_row AS item",
            "t.label",
            f"{'t.weight' if 'weight' in given else '1.0'}::FLOAT AS weight",
            "t.split_index::TINYINT AS split",
            *[expression for name, expression in _OPTIONAL.items() if name in given],
            *[f'{each.expression} AS "context_{each.name}"' for each in context],
            f'{user[0].expression} AS "user_{user[0].name}"',
            *[f'u."{each.name}" AS "user_{each.name}"' for each in user[1:]],
        ]
        small = self._scalar("SELECT count(*) FROM items") < 2**31 - 1
        item_row = "row_number::INTEGER" if small else "row_number"
        query = f"""SELECT {", ".join(columns)} FROM counted_log t
            JOIN (SELECT item, {item_row} AS item_row FROM items) r ON r.item = t.item
            {self._joins([user[0], *context])}
            {f'JOIN ({encoded_users}) u ON u."user" = t."user"' if self._has_users else ""}
            ORDER BY md5_number_lower(t."user"::VARCHAR), t."user", t."time",
                {'t."order", ' if "order" in given else ""} t.row_number"""
        self._publish(query, self.work / "sorted.parquet")

    # --- checks ---

    def _once(self, key: str, table: str, name: str | None = None) -> None:
        twice = f'SELECT "{key}", count(*) AS n FROM {table} GROUP BY "{key}" HAVING n > 1'
        if count := self._scalar(f"SELECT count(*) FROM ({twice})"):
            examples = [f"{value} ({n} times)" for value, n in self._run(f"{twice} ORDER BY 1 LIMIT 5").fetchall()]
            raise DataError(
                f"{count:,} come more than once: {some([*examples, *[''] * (count - len(examples))])}",
                where=name or table,
                todo=f"Each `{key}` must come once.",
            )

    def _known(self, key: str, table: str) -> None:
        here, there = self._column_type("impressions", key), self._column_type(table, key)
        if here != there:
            raise DataError(
                f"`{key}` is {here} in impressions and {there} in {table}",
                where="impressions",
                todo="Make both whole numbers or both strings.",
            )
        strange = f'SELECT "{key}", count(*) AS n FROM impressions ANTI JOIN {table} USING ("{key}") GROUP BY "{key}"'
        count, rows = self._run(f"SELECT count(*), coalesce(sum(n), 0) FROM ({strange})").fetchone() or (0, 0)
        if count:
            examples = [value for value, _ in self._run(f"{strange} ORDER BY 1 LIMIT 5").fetchall()]
            raise DataError(
                f"{count:,} {table} in {rows:,} impressions are not among the {table}: "
                f"{some([*examples, *[''] * (count - len(examples))])}",
                where="impressions",
                todo=f"Add them to the {table}, or leave these impressions out.",
            )

    def _check_splits(self, wanted: dict[int, str], hint: str) -> None:
        counts = {
            split: (rows, positives)
            for split, rows, positives in self._run(
                "SELECT split_index, count(*), sum(label)::BIGINT FROM log GROUP BY split_index"
            ).fetchall()
        }
        if None in counts:
            query = "SELECT DISTINCT split FROM log WHERE split_index IS NULL ORDER BY split LIMIT 5"
            strange = some(value for (value,) in self._run(query).fetchall())
            raise DataError(
                f"`split` of {counts[None][0]:,} rows is none of {', '.join(SPLITS)}: {strange}",
                where="impressions",
                todo="Mend the data source.",
            )
        for index, name in wanted.items():
            rows, positives = counts.get(index, (0, 0))
            if not rows:
                raise DataError(f"the {name} split has no rows", where="impressions", todo=hint)
            if not positives or positives == rows:
                what = "no positives" if not positives else "no negatives"
                raise DataError(f"the {name} split has {what} in {rows:,} rows", where="impressions", todo=hint)

    # --- duckdb ---

    def _all(self) -> list[Encoding]:
        return [each for encodings in self.encodings.values() for each in encodings]

    def _joins(self, encodings: list[Encoding]) -> str:
        vocab = self.out / "vocab"
        return "\n".join(each.join(vocab / f"{each.vocab}.parquet") for each in encodings)

    def _type(self, encoding: Encoding) -> str:
        return self._column_type(encoding.table, encoding.raw).removesuffix("[]")

    def _column_type(self, table: str, column: str) -> str:
        return str(self._scalar(f'SELECT typeof("{column}") FROM {table} LIMIT 1'))

    def _ingested(self, name: str) -> str:
        return f"read_parquet({quoted(self.work / f'{name}.parquet')})"

    def _view(self, name: str, query: str) -> None:
        self._run(f"CREATE VIEW {name} AS {query}")

    def _publish(self, query: str, out: Path) -> None:
        aside = self.work / f"{out.name}.tmp"
        self._copy(query, aside)
        publish(aside, out)

    def _copy(self, query: str, file: Path) -> None:
        self._run(f"COPY ({query}) TO {quoted(file)} (FORMAT parquet, COMPRESSION lz4_raw)")

    def _scalar(self, query: str) -> Any:
        row = self._run(query).fetchone()
        assert row is not None
        return row[0]

    def _run(self, query: str) -> "duckdb.DuckDBPyConnection":
        assert self._database is not None
        return self._database.execute(query)


def _encodings(columns: dict[str, SourceColumn], table: str) -> list[Encoding]:
    return [
        Encoding(
            name,
            column.kind,
            (column.vocab or name) if column.kind in ("id", "ids") else None,
            table,
            f"feature_{name}",
        )
        for name, column in columns.items()
    ]
