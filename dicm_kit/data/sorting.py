"""SQL: the new rows of the log joined with items and users, encoded, and in the order that grouping needs."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from dicm_kit.data.database import Database
from dicm_kit.data.options import HistoryOptions
from dicm_kit.data.vocabulary import Encoding, joins, quoted

_OF_LOG = ("order", "history", "history_time", "click_probability")


class Sorting:
    """Makes the query over the views `log`, `items` and `counted_users`."""

    def __init__(
        self,
        database: Database,
        encodings: Mapping[str, list[Encoding]],
        vocab: Path,
        has_users: bool,
        history: HistoryOptions,
    ):
        """Takes the columns by side, the folder of the vocabularies, and whether there is a table of users."""
        self._database, self._vocab, self._has_users, self._history = database, vocab, has_users, history
        self._user, self._context = encodings["user"], encodings["context"]
        columns = database.columns("log")
        self._given = [name for name in _OF_LOG if name in columns]
        self._weight = "t.weight" if "weight" in columns else "1.0"
        small = database.scalar("SELECT count(*) FROM items") < 2**31 - 1
        self._item_rows = f"(SELECT item, row_number{'::INTEGER' if small else ''} AS item_row FROM items)"

    def query(self, clicks: Sequence[Path]) -> str:
        """Returns all rows by user, in the order of a hash, and by time; `clicks`: those of earlier parts, which come
        before the new rows of their users."""
        rows = self._new_rows()
        if clicks:
            rows += f" UNION ALL BY NAME {self._earlier(clicks)}"
        number = "raw_user" if self._database.column_type("log", "user") == "BIGINT" else "hash64(raw_user)"
        order = '"order", ' if "order" in self._given else ""
        return f"""SELECT {number} AS user, * EXCLUDE (raw_user, row_number) FROM ({rows})
            ORDER BY md5_number_lower(raw_user::VARCHAR), raw_user, "time", {order}row_number"""

    def _new_rows(self) -> str:
        user_id, *of_users = self._user
        columns = [
            't."user" AS raw_user',
            't."time"',
            "r.item_row AS item",
            "t.label",
            f"{self._weight}::FLOAT AS weight",
            "t.part::SMALLINT AS part",
            "t.row_number",
            *[f't."{name}"' for name in self._given],
            *[f'{each.expression} AS "context_{each.name}"' for each in self._context],
            f'{user_id.expression} AS "user_{user_id.name}"',
            *[f'u."{each.name}" AS "user_{each.name}"' for each in of_users],
        ]
        users = ""
        if self._has_users:  # user columns are joined through their own table, context columns to the log itself
            encoded = ", ".join(f'{each.expression} AS "{each.name}"' for each in of_users)
            users = f"""LEFT JOIN (
                SELECT t."user", {encoded} FROM counted_users t {joins(of_users, self._vocab, "code")}
            ) u ON u."user" = t."user\""""
        return f"""SELECT {", ".join(columns)} FROM log t JOIN {self._item_rows} r ON r.item = t.item
            {joins([user_id, *self._context], self._vocab, "code")} {users}"""

    def _earlier(self, clicks: Sequence[Path]) -> str:
        """SQL: the newest clicks of the users of the new rows, as far as histories reach; in no part."""
        order = ["order"] if "order" in self._given else []
        columns = [
            'c."user" AS raw_user',
            'c."time"',
            "r.item_row AS item",
            "1.0::FLOAT AS label",
            "1.0::FLOAT AS weight",
            "(-1)::SMALLINT AS part",
            "c.row_number",
            *[f'c."{name}"' for name in order],
            *[f'{each.placeholder} AS "context_{each.name}"' for each in self._context],
            *[f'{each.placeholder} AS "user_{each.name}"' for each in self._user],
        ]
        if "click_probability" in self._given:
            columns.append("1.0::DOUBLE AS click_probability")
        young = ""
        if (days := self._history.max_age_days) is not None:
            young = f'WHERE c."time" >= (SELECT min("time") FROM log) - {days * 86400}'
        files = ", ".join(quoted(file) for file in clicks)
        newest = ", ".join(f'c."{name}" DESC' for name in ["time", *order, "row_number"])
        return f"""SELECT {", ".join(columns)}
            FROM read_parquet([{files}]) c SEMI JOIN log ON log."user" = c."user"
            JOIN {self._item_rows} r ON r.item = c.item {young}
            QUALIFY row_number() OVER (PARTITION BY c."user" ORDER BY {newest}) <= {self._history.max_length}"""
