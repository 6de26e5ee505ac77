"""The items' and the users' tables of a log -> rows as prepare takes them."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from dicm_kit.data.sources.log_files import LogFile
from dicm_kit.data.sources.log_problems import RowProblems, typed
from dicm_kit.data.sources.log_tables import Table

if TYPE_CHECKING:
    import pyarrow as pa


class SideRows:
    """Reads a table that has one row for each key, `item` or `user`."""

    def __init__(self, table: Table, key: str, columns: dict[str, str]):
        """`columns`: names that come out, and the `name` of Wanted that each is made of, or `none` for nulls."""
        self._table, self._key, self._columns = table, key, {key: key} | columns

    def batches(self) -> "Iterator[pa.RecordBatch]":
        """Yields all rows of all files; DataError at the end of a file in which a key is null."""
        for file in self._table.files:
            problems, first = RowProblems(file), 0
            for batch in self._table.batches(file):
                numbers = np.arange(first, first + len(batch))
                first += len(batch)
                yield self._rows(batch, numbers, file, problems)
            problems.raise_any()
        if not first:
            yield self._rows(self._table.no_rows(file), np.zeros(0, np.int64), file, problems)

    def keys(self) -> Iterator[str]:
        """Yields the keys as text."""
        import pyarrow as pa

        for batch in self.batches():
            yield from batch[self._key].cast(pa.string()).to_pylist()

    def column(self, name: str) -> Iterator[str | None]:
        """Yields the values of one column."""
        for batch in self.batches():
            yield from batch[name].to_pylist()

    def _rows(
        self, batch: "pa.RecordBatch", numbers: np.ndarray, file: LogFile, problems: RowProblems
    ) -> "pa.RecordBatch":
        import pyarrow as pa

        column = self._table[self._key].column
        null = batch[column].is_null(nan_is_null=True)
        if null.true_count:
            there = ~null.to_numpy(zero_copy_only=False)
            problems.add_null(column, numbers[~there])
            batch, numbers = batch.filter(pa.array(there)), numbers[there]
        made = {
            name: pa.nulls(len(batch)) if wanted == "none" else typed(self._table, wanted, batch, numbers, file)
            for name, wanted in self._columns.items()
        }
        if "picture" in made:  # a name is text, also where it is the item's number
            made["picture"] = made["picture"].cast(pa.string())
        return pa.RecordBatch.from_pydict(made)
