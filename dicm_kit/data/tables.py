"""duckdb over the ingested tables: checks, counts, vocabularies, the item table, and the log joined and sorted."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from dicm_kit.data.database import Database
from dicm_kit.data.options import PrepareOptions
from dicm_kit.data.parts import log_query
from dicm_kit.data.pictures import NOT_YIELDED
from dicm_kit.data.sorting import Sorting
from dicm_kit.data.state import STATE, Part, known_since
from dicm_kit.data.steps import publish
from dicm_kit.data.vocabulary import (
    Encoding,
    check_types,
    counted_query,
    indexed_query,
    joins,
    quoted,
    values_of,
    vocab_query,
    vocabularies,
)
from dicm_kit.errors import DataError, some
from dicm_kit.interfaces import DataSource, SourceColumn


class Tables(AbstractContextManager["Tables"]):
    """The tables of a preparation; a context manager that holds the connection.

    `work` has the new rows, as ingested; `out` the dataset that is added to, if there is one; `new` gets the files of
    the dataset that it becomes.
    """

    def __init__(self, source: DataSource, options: PrepareOptions, work: Path, out: Path, memory_mb: int):
        self.work, self.out, self.new, self.options = work, out, work / "new", options
        self._forgets = options.forget_after_days is not None
        self._database = Database(work, memory_mb)
        self._has_users = bool(source.columns.user)
        ours = {"user": {"user_id"}, "item": {"item_id", "picture", "picture_key", "train_count"}}
        for side, reserved in ours.items():
            if clash := sorted(reserved & set(getattr(source.columns, side))):
                raise DataError(
                    f"a feature column may not be called {some(clash)}: prepare makes it",
                    where=f"{side}s",
                    todo="Rename it.",
                )
        columns = source.columns
        user_id = 'SELECT "user" AS value, times, last_day FROM user_counts'
        self.encodings = {
            "user": [
                Encoding("user_id", "id", "user_id", user_id, "impressions", "user"),
                *_encodings(columns.user, "counted_users"),
            ],
            "item": [
                _encoding("item_id", SourceColumn("id"), "counted_items", "item"),
                _encoding("picture", SourceColumn("id"), "counted_items", "picture_key"),
                *_encodings(columns.item, "counted_items"),
            ],
            "context": [
                Encoding(
                    name,
                    column.kind,
                    _vocab(name, column),
                    f'SELECT * FROM "counts of {name}"',
                    "log",
                    f"feature_{name}",
                )
                for name, column in columns.context.items()
            ],
        }

    def __enter__(self) -> "Tables":
        self._database.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._database.__exit__(*error)

    # --- items and pictures ---

    def merge_items(self) -> None:
        """Writes state/items.parquet: what the source has now, and items that it had once; rows never change."""
        fresh, before = f"read_parquet({quoted(self.work / 'items.parquet')})", self.out / STATE / "items.parquet"
        self._once("item", fresh, "items")
        if not before.exists():
            query = f"SELECT * FROM {fresh} ORDER BY row_number"
        else:
            known = f"read_parquet({quoted(before)})"
            query = f"""SELECT n.* EXCLUDE (row_number), coalesce(o.row_number,
                    (SELECT max(row_number) FROM {known})
                    + row_number() OVER (PARTITION BY o.row_number IS NULL ORDER BY n.row_number)) AS row_number
                FROM {fresh} n LEFT JOIN (SELECT item, row_number FROM {known}) o USING (item)
                UNION ALL BY NAME SELECT o.* FROM {known} o ANTI JOIN {fresh} n ON o.item = n.item
                ORDER BY row_number"""
        self._database.publish(query, self.new / STATE / "items.parquet")

    def merge_names(self) -> None:
        """Writes state/pictures.parquet, and images/rejected.parquet: the pictures that count as missing, which are
        refused ones and those that items name but nobody yielded."""
        fresh, before = self.work / "names.parquet", self.out / STATE / "pictures.parquet"
        self._once("name", f"read_parquet({quoted(fresh)})", "pictures")
        query = f"SELECT * FROM read_parquet({quoted(fresh)})"
        if before.exists():
            known = f"read_parquet({quoted(before)})"
            query = f"SELECT o.* FROM {known} o ANTI JOIN ({query}) n ON o.name = n.name UNION ALL {query}"
        self._database.publish(query, self.new / STATE / "pictures.parquet")
        names = f"read_parquet({quoted(self.new / STATE / 'pictures.parquet')})"
        items = f"read_parquet({quoted(self.new / STATE / 'items.parquet')})"
        wanted = f"SELECT DISTINCT picture::VARCHAR AS name FROM {items} WHERE picture IS NOT NULL"
        query = f"""SELECT name, reason FROM {names} WHERE key = 0 UNION ALL
            SELECT name, '{NOT_YIELDED}' FROM ({wanted}) ANTI JOIN {names} USING (name)
            ORDER BY name"""
        self._database.publish(query, self.new / "images" / "rejected.parquet")

    # --- the new rows of the log ---

    def open(self, pieces: Sequence[Path]) -> None:
        """Makes the views of the tables that are ingested."""
        if pieces:
            listed = ", ".join(quoted(path) for path in pieces)
            self._database.view("impressions", f"SELECT * FROM read_parquet([{listed}])")
        self._database.view("items", f"SELECT * FROM read_parquet({quoted(self.new / STATE / 'items.parquet')})")
        if self._has_users:
            self._database.view("users", f"SELECT * FROM read_parquet({quoted(self.work / 'users.parquet')})")

    def check(self) -> None:
        """Raises DataError for rows that do not fit the items and users."""
        self._same_type("item", "items")
        tables = [("item", "items")]
        if self._has_users:
            self._once("user", "users")
            self._same_type("user", "users")
            tables.append(("user", "users"))
        if self.options.unlisted == "error":
            for key, table in tables:
                self._known(key, table)

    def write_log(self) -> int:
        """Writes the new rows that stay, with the split that the options give them; returns how many were left out."""
        query, filters = log_query(self.options, self._database.columns("impressions"), self._has_users)
        self._database.publish(query, self.work / "log.parquet")
        kept = self._database.scalar(f"SELECT count(*) FROM read_parquet({quoted(self.work / 'log.parquet')})")
        rows = self._database.scalar("SELECT count(*) FROM impressions")
        if rows and not kept:
            raise DataError(
                f"no row of {rows:,} is left after {' and '.join(filters)}",
                where="impressions",
                todo="Look at the item and user ids of the log and of the tables: are they of the same kind?",
            )
        return rows - kept

    def days(self) -> list[int]:
        """Returns the UTC days of the new rows, ascending."""
        query = "SELECT DISTINCT floor(time / 86400.0)::BIGINT FROM impressions ORDER BY 1"
        return [day for (day,) in self._database.rows(query)]

    def first_rows_before(self, day: int) -> tuple[int, int]:
        """Returns how many of the new rows are of `day` or earlier, and the earliest day."""
        query = f"""SELECT count(*), coalesce(min(floor(time / 86400.0)), 0)::BIGINT FROM impressions
            WHERE floor(time / 86400.0) <= {day}"""
        count, first = self._database.run(query).fetchone() or (0, 0)
        return count, first

    def open_log(self, parts: Sequence[Part], filtered: bool) -> None:
        """Makes the view of the rows that stay, with the number of their part; `filtered`: they were written apart."""
        rows = f"read_parquet({quoted(self.work / 'log.parquet')})" if filtered else "impressions"
        part = "split_index"
        if self.options.split.by == "time":
            when = [
                f"WHEN floor(time / 86400.0) BETWEEN {each.days[0]} AND {each.days[1]} THEN {number}"
                for number, each in self._new(parts)
                if each.days is not None
            ]
            part = f"CASE {' '.join(when)} END"
        self._database.view("log", f"SELECT *, {part} AS part FROM {rows}")

    def rows_and_positives(self) -> dict[int, tuple[int, int]]:
        """Returns rows and positives of each new part."""
        query = "SELECT part, count(*), sum(label)::BIGINT FROM log GROUP BY part"
        return {part: (rows, positives) for part, rows, positives in self._database.rows(query)}

    def strange_splits(self) -> tuple[int, list[str]]:
        """Returns how many rows have a split that is none, and five of them."""
        count = self._database.scalar("SELECT count(*) FROM log WHERE part IS NULL")
        query = "SELECT DISTINCT split FROM log WHERE part IS NULL ORDER BY split LIMIT 5"
        return count, [split for (split,) in self._database.rows(query)] if count else []

    def write_counts(self, parts: Sequence[Part], clicks: bool) -> None:
        """Writes what the state keeps of each new part; `clicks`: its positives too."""
        counted = {"users": '"user" AS value', "items": "item AS value"}
        for each in self.encodings["context"]:
            if each.vocab is not None:
                counted[f"context-{each.name}"] = f"{values_of(each.kind, each.raw)} AS value"
        day, last_day = "1 AS one", ""
        if self._forgets:
            day, last_day = "floor(time / 86400.0)::INTEGER AS day", ", max(day) AS last_day"
        for name, value in counted.items():
            query = f"SELECT part, {value}, {day} FROM log"
            self._database.run(
                f"CREATE TABLE counting AS SELECT part, value, count(*) AS times{last_day} FROM ({query}) GROUP BY ALL"
            )
            for number, part in self._new(parts):
                query = f"SELECT * EXCLUDE (part) FROM counting WHERE part = {number} ORDER BY value"
                self._database.publish(query, self._of_part(part, name))
            self._database.run("DROP TABLE counting")
        order = ["order"] if "order" in self._database.columns("impressions") else []
        kept = ", ".join(f'"{name}"' for name in ["user", "item", "time", *order, "row_number"])
        for number, part in self._new(parts) if clicks else []:
            query = f"SELECT {kept} FROM log WHERE part = {number} AND label = 1"
            self._database.publish(query, self._of_part(part, "clicks"))

    def write_alive(self, out: Path) -> None:
        """Writes how many positives each item has on each day, or (`alive: always`) in all: what negatives are drawn
        from."""
        assert self.options.negatives is not None
        day = "floor(time / 86400.0)::BIGINT" if self.options.negatives.alive == "same_day" else "0::BIGINT"
        query = f"""SELECT {day} AS day, r.row_number AS item, count(*) AS positives
            FROM log JOIN items r USING (item) WHERE label = 1 GROUP BY ALL ORDER BY day, r.row_number"""
        self._database.publish(query, out)

    # --- all parts ---

    def open_counts(self, parts: Sequence[Part]) -> None:
        """Makes the views of what is counted, in all parts; only training counts."""
        for key in ("user", "item"):
            self._database.run(
                f'CREATE TABLE {key}_counts AS SELECT value AS "{key}", sum(times)::BIGINT AS times, '
                f"max(last_day) AS last_day FROM ({self._counts(parts, f'{key}s')}) GROUP BY value"
            )
        for each in self.encodings["context"]:
            if each.vocab is not None:
                self._database.view(f"counts of {each.name}", self._counts(parts, f"context-{each.name}"))
        names = quoted(self.new / STATE / "pictures.parquet")
        self._database.view(
            "counted_items",
            f"""SELECT i.*, nullif(n.key, 0) AS picture_key, coalesce(c.times, 0) AS times, c.last_day
            FROM items i LEFT JOIN read_parquet({names}) n ON i.picture::VARCHAR = n.name
            LEFT JOIN item_counts c ON i.item = c.item""",
        )
        if self._has_users:
            self._database.view(
                "counted_users",
                """SELECT u.*, coalesce(c.times, 0) AS times, c.last_day
                FROM users u LEFT JOIN user_counts c ON u."user" = c."user\"""",
            )

    def write_vocabularies(self, parts: Sequence[Part]) -> None:
        """Writes vocab/."""
        days = self.options.forget_after_days
        since = None if days is None else known_since(parts, days)
        aside = self.work / "vocab"
        aside.mkdir(exist_ok=True)
        for vocab, columns in vocabularies(self._all()).items():
            before = self.out / "vocab" / f"{vocab}.parquet"
            types = {each.name: self._type(each) for each in columns}
            if before.exists():
                types["in the dataset"] = str(
                    self._database.scalar(f"SELECT typeof(value) FROM read_parquet({quoted(before)})")
                )
            check_types(vocab, types)
            # in three queries: what one holds in memory is gone before the next
            counted, indexed = self.work / "counted.parquet", self.work / "indexed.parquet"
            self._database.copy(counted_query(columns, before if before.exists() else None), counted)
            self._database.copy(indexed_query(counted, self.options.min_count, since), indexed)
            self._database.copy(vocab_query(indexed, last_day=self._forgets), aside / f"{vocab}.parquet")
        publish(aside, self.new / "vocab")

    def write_items(self) -> None:
        """Writes items.parquet, in the order of the rows."""
        encodings = self.encodings["item"]
        query = f"""SELECT t.item, coalesce(t.picture_key, 0) AS picture_key, t.times AS train_count,
            {", ".join(f'{each.expression} AS "{each.name}"' for each in encodings)}
            FROM counted_items t {joins(encodings, self.new / "vocab", "index")} ORDER BY t.row_number"""
        self._database.publish(query, self.new / "items.parquet")

    def write_sorted(self, parts: Sequence[Part]) -> None:
        """Writes the new rows by user and time, joined and encoded, after the clicks that their users have in earlier
        parts; users come in the order of a hash."""
        clicks = [self._of_part(part, "clicks") for part in parts if not part.new]
        sorting = Sorting(self._database, self.encodings, self.new / "vocab", self._has_users, self.options.history)
        self._database.publish(sorting.query(clicks), self.work / "sorted.parquet")

    def num_ids(self, vocab: str) -> int:
        """Returns how many indices a vocabulary has, 0 included."""
        file = quoted(self.new / "vocab" / f"{vocab}.parquet")
        return int(self._database.scalar(f"SELECT max(index) FROM read_parquet({file})")) + 1

    def users_of(self, parts: Sequence[Part]) -> int:
        """Returns how many users the parts have together."""
        if not parts:
            return 0
        files = ", ".join(quoted(self._of_part(part, "users")) for part in parts)
        return int(self._database.scalar(f"SELECT count(DISTINCT value) FROM read_parquet([{files}])"))

    # --- checks ---

    def _once(self, key: str, table: str, name: str | None = None) -> None:
        twice = f'SELECT "{key}", count(*) AS n FROM {table} GROUP BY "{key}" HAVING n > 1'
        if count := self._database.scalar(f"SELECT count(*) FROM ({twice})"):
            examples = [f"{value} ({n} times)" for value, n in self._database.rows(f"{twice} ORDER BY 1 LIMIT 5")]
            raise DataError(
                f"{count:,} come more than once: {some([*examples, *[''] * (count - len(examples))])}",
                where=name or table,
                todo=f"Keep one row of each in the table of {name or table}.",
            )

    def _same_type(self, key: str, table: str) -> None:
        here, there = self._database.column_type("impressions", key), self._database.column_type(table, key)
        if here != there:
            raise DataError(
                f"`{key}` is {here} in impressions and {there} in {table}",
                where="impressions",
                todo="Make both whole numbers or both strings.",
            )

    def _known(self, key: str, table: str) -> None:
        strange = f'SELECT "{key}", count(*) AS n FROM impressions ANTI JOIN {table} USING ("{key}") GROUP BY "{key}"'
        count, rows = self._database.run(f"SELECT count(*), coalesce(sum(n), 0) FROM ({strange})").fetchone() or (0, 0)
        if count:
            examples = [value for value, _ in self._database.rows(f"{strange} ORDER BY 1 LIMIT 5")]
            raise DataError(
                f"{count:,} {table} in {rows:,} impressions are not among the {table}: "
                f"{some([*examples, *[''] * (count - len(examples))])}",
                where="impressions",
                todo=f"Add them to the {table}, or leave these impressions out: `data.unlisted: drop`.",
            )

    # --- names of queries and files ---

    def _all(self) -> list[Encoding]:
        return [each for encodings in self.encodings.values() for each in encodings]

    def _new(self, parts: Sequence[Part]) -> list[tuple[int, Part]]:
        return [(number, part) for number, part in enumerate(parts) if part.new]

    def _of_part(self, part: Part, name: str) -> Path:
        return (self.new if part.new else self.out) / STATE / "parts" / part.name / f"{name}.parquet"

    def _counts(self, parts: Sequence[Part], name: str) -> str:
        last_day = "last_day" if self._forgets else "NULL::INTEGER AS last_day"
        train, others = f"times, {last_day}", "0::BIGINT AS times, NULL::INTEGER AS last_day"
        return " UNION ALL ".join(
            f"SELECT value, {train if part.split == 'train' else others} "
            f"FROM read_parquet({quoted(self._of_part(part, name))})"
            for part in parts
        )

    def _type(self, encoding: Encoding) -> str:
        query = f"SELECT typeof(value) FROM ({encoding.counts}) LIMIT 1"
        row = self._database.run(query).fetchone()
        return str(row[0]) if row else "VARCHAR"


def _vocab(name: str, column: SourceColumn) -> str | None:
    return (column.vocab or name) if column.kind in ("id", "ids") else None


def _encoding(name: str, column: SourceColumn, table: str, raw: str) -> Encoding:
    counts = f"SELECT {values_of(column.kind, raw)} AS value, times, last_day FROM {table}"
    return Encoding(name, column.kind, _vocab(name, column), counts, table, raw)


def _encodings(columns: dict[str, SourceColumn], table: str) -> list[Encoding]:
    return [_encoding(name, column, table, f"feature_{name}") for name, column in columns.items()]
