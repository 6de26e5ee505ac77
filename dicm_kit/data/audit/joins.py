"""The samples as tables of duckdb, for questions that need whole users.

Users are taken in slices, so that memory stays flat; in a large dataset, only some users are looked at.
"""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from dicm_kit.data.dataset import SPLITS, Dataset
from dicm_kit.data.vocabulary import quoted

if TYPE_CHECKING:
    import duckdb

MOST_IMPRESSIONS, MOST_ENTRIES = 20_000_000, 60_000_000
"""Of a larger dataset, as many users are looked at as have about so many impressions and history entries."""
_MEMORY = "250MB"
# Numbers of users may be consecutive or hashes: some middle bits of a product are as good as random for both.
_BUCKET = "CREATE MACRO bucket(u) AS (((xor(u, u >> 31) & 2147483647) * 2654435761) >> 20)"


class Joins(AbstractContextManager["Joins"]):
    """Opens the sample files of a dataset as tables; a context manager that holds connection and scratch files."""

    def __init__(self, dataset: Dataset):
        import duckdb

        self._dataset = dataset
        self._scratch = TemporaryDirectory(prefix="dicm-audit-")
        settings: dict[str, Any] = {
            "memory_limit": _MEMORY,
            "threads": min(4, os.cpu_count() or 1),
            "temp_directory": self._scratch.name,
            "preserve_insertion_order": False,
        }
        self.database = duckdb.connect(":memory:", config=settings)
        self.run("SET enable_progress_bar = false")
        self.run(_BUCKET)
        self.one_user_in = 1

    def __exit__(self, *error: object) -> None:
        self.database.close()
        self._scratch.cleanup()

    def open(self, impressions: int, positives: int, entries: int) -> None:
        """Makes the tables `sample_groups` and `flat` of the users that are looked at; takes what the samples hold."""
        self.one_user_in = max(1, -(-impressions // MOST_IMPRESSIONS), -(-entries // MOST_ENTRIES))
        self.impressions, self.positives = impressions // self.one_user_in, positives // self.one_user_in
        tables, number = [], 0
        self.parts: list[str] = []
        for rank, split in enumerate(SPLITS):
            for part in self._dataset.splits[split].parts:
                self.parts.append(part)
                files = ", ".join(
                    quoted(self._dataset.folder / "samples" / part / f"lane-{lane:03d}.parquet")
                    for lane in range(self._dataset.lanes)
                )
                # `number` and `name`: a group's place, the same in every query
                tables.append(
                    f"""SELECT {rank} AS rank, {number} AS part, hash(filename, file_row_number) AS name,
                    "user", item, label, "time", history_item, history_age
                    FROM read_parquet([{files}], filename = true, file_row_number = true, hive_partitioning = false)"""
                )
                number += 1
        query = " UNION ALL ".join(tables)
        if self.one_user_in > 1:
            kept = Path(self._scratch.name, "groups.parquet")
            self.run(
                f"""COPY (SELECT * FROM ({query}) WHERE bucket("user") % {self.one_user_in} = 0)
                TO {quoted(kept)} (FORMAT parquet, COMPRESSION lz4_raw)"""
            )
            query = f"SELECT * FROM read_parquet({quoted(kept)})"
        self.run(f"CREATE VIEW sample_groups AS {query}")
        self.run(
            """CREATE VIEW flat AS SELECT rank, part, name, "user", unnest(item) AS item, unnest(label) AS label,
            unnest("time") AS time FROM sample_groups"""
        )

    def sliced(self, rows: int, at_once: int) -> Iterator[str]:
        """Yields conditions that take the users slice by slice, each of about `at_once` of the rows."""
        slices = max(1, -(-rows // at_once))
        for number in range(slices):
            yield f'WHERE bucket("user") // {self.one_user_in} % {slices} = {number}'

    def item(self, row: int) -> object:
        """Returns the raw id of an item."""
        return self._dataset.items["item"][row]

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Returns the rows of a query."""
        return self.run(query).fetchall()

    def run(self, query: str) -> "duckdb.DuckDBPyConnection":
        """Runs a query."""
        return self.database.execute(query)
