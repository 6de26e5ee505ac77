"""duckdb with a limit to its memory: queries, and files of them that appear whole or not at all."""

import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from dicm_kit.data.steps import publish
from dicm_kit.data.vocabulary import HASH64, quoted
from dicm_kit.errors import DataError

if TYPE_CHECKING:
    import duckdb

_THREADS = 4


class Database(AbstractContextManager["Database"]):
    """A connection; what does not fit in memory goes to `work`."""

    def __init__(self, work: Path, memory_mb: int):
        self._work, self._memory_mb = work, memory_mb
        self._connection: duckdb.DuckDBPyConnection | None = None

    def __enter__(self) -> Self:
        import duckdb

        settings: dict[str, Any] = {
            "memory_limit": f"{self._memory_mb}MB",
            "threads": min(_THREADS, os.cpu_count() or 1),
            "temp_directory": str(self._work / "duckdb"),
        }
        self._connection = duckdb.connect(":memory:", config=settings)
        self.run("SET enable_progress_bar = false")
        self.run(HASH64)
        return self

    def __exit__(self, *error: object) -> None:
        assert self._connection is not None
        self._connection.close()
        self._connection = None

    def run(self, query: str) -> "duckdb.DuckDBPyConnection":
        """Runs a query; DataError when it does not fit in memory."""
        import duckdb

        assert self._connection is not None
        try:
            return self._connection.execute(query)
        except duckdb.OutOfMemoryException as error:
            if "max_temp_directory_size" in str(error):
                raise  # the disk is full, not the memory
            raise DataError(
                f"the log cannot be joined and sorted in {self._memory_mb} MB of memory",
                where=str(self._work.parent),
                todo=f"Set `data.memory_mb` to {2 * self._memory_mb} or more. A new run goes on from the last finished "
                "step.",
            ) from error

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Returns all rows: a few."""
        return self.run(query).fetchall()

    def scalar(self, query: str) -> Any:
        """Returns the one value."""
        row = self.run(query).fetchone()
        assert row is not None
        return row[0]

    def view(self, name: str, query: str) -> None:
        """Gives a query a name."""
        self.run(f'CREATE OR REPLACE VIEW "{name}" AS {query}')

    def columns(self, table: str) -> list[str]:
        """Returns the names of a table's columns."""
        return [name for name, *_ in self.rows(f"DESCRIBE {table}")]

    def column_type(self, table: str, column: str) -> str:
        """Returns duckdb's name of a column's type."""
        return str(self.scalar(f'SELECT typeof("{column}") FROM {table} LIMIT 1'))

    def copy(self, query: str, file: Path) -> None:
        """Writes a query's rows to a Parquet file."""
        self.run(f"COPY ({query}) TO {quoted(file)} (FORMAT parquet, COMPRESSION lz4_raw)")

    def publish(self, query: str, out: Path) -> None:
        """Writes a query's rows to a Parquet file, whole or not at all."""
        aside = self._work / f"{out.name}.tmp"
        self.copy(query, aside)
        publish(aside, out)
