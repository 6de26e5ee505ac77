"""Rows of a file that cannot be used: counted, the first five of each kind named, reported when the file is read."""

from typing import TYPE_CHECKING

import numpy as np

from dicm_kit.data.sources.log_csv import lines_of
from dicm_kit.data.sources.log_files import LogFile
from dicm_kit.data.sources.log_tables import Table
from dicm_kit.data.sources.log_types import MEANT, brought
from dicm_kit.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

_SHOWN = 5


class RowProblems:
    """What is wrong with the rows of one file."""

    def __init__(self, file: LogFile):
        self._file = file
        self._counts: dict[str, int] = {}
        self._rows: dict[str, list[tuple[int, str]]] = {}
        self._todos: dict[str, str] = {}

    def add(self, what: str, rows: np.ndarray, todo: str, values: list[str] | None = None) -> None:
        """Notes rows by their number in the file, from 0, with the first five or more of their values."""
        if len(rows):
            self._counts[what] = self._counts.get(what, 0) + len(rows)
            shown = [(int(row), value) for row, value in zip(rows[:_SHOWN], values or [""] * _SHOWN, strict=False)]
            self._rows.setdefault(what, []).extend(shown)
            self._todos[todo] = todo

    def add_null(self, column: str, rows: np.ndarray) -> None:
        """Notes rows in which a column has no value, though it must."""
        self.add(f"`{column}` is null", rows, "Mend these rows, or leave them out of the file.")

    def raise_any(self) -> None:
        """Raises DataError with everything that was found."""
        if not self._counts:
            return
        lines = []
        for what, count in self._counts.items():
            first = self._rows[what][:_SHOWN]
            places = places_of(self._file, [row for row, _ in first])
            named = [f"{place}: {value}" if value else place for place, (_, value) in zip(places, first, strict=True)]
            lines.append(f"{what} in {rows_text(count)} ({', '.join(named)})")
        raise DataError("; ".join(lines), where=self._file.where, todo=" ".join(self._todos))


def typed(table: Table, name: str, batch: "pa.RecordBatch", rows: np.ndarray, file: LogFile) -> "pa.Array":
    """Returns a column of the table in the type that its role asks for; DataError with the rows that have none."""
    import pyarrow as pa

    wanted, shape = table[name], table.shapes[name]
    column = batch[wanted.column]
    try:
        return brought(column, wanted.role, shape)
    except pa.ArrowInvalid as error:
        wrong = [row for row in range(len(column)) if not _fits(column[row : row + 1], table, name)]
        problems = RowProblems(file)
        values = [str(column[row].as_py()) for row in wrong[:_SHOWN]]
        words = "whole number" if shape == "whole" else "number"
        todo = f"{MEANT[wanted.role]}{table.hint(wanted.column)}"
        problems.add(f"`{wanted.column}` is no {words}", rows[wrong], todo, values)
        problems.raise_any()
        raise DataError(f"`{wanted.column}` cannot be read: {error}", where=file.where) from error


def places_of(file: LogFile, rows: list[int]) -> list[str]:
    """Returns where rows stand, rows ascending: `line 7` of a CSV file, `row 5` of a Parquet file, whose first is 0."""
    if file.separator is None:
        return [f"row {row}" for row in rows]
    lines = lines_of(file, rows)
    return [f"line {line}" for line in lines] + [f"row {row}" for row in rows[len(lines) :]]


def rows_text(count: int) -> str:
    """Returns `1 row`, `12,000 rows`."""
    return f"{count:,} row{'' if count == 1 else 's'}"


def _fits(value: "pa.Array", table: Table, name: str) -> bool:
    import pyarrow as pa

    try:
        brought(value, table[name].role, table.shapes[name])
    except pa.ArrowInvalid:
        return False
    return True
