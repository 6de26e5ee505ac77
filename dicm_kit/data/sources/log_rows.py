"""A file of the log -> impressions as prepare takes them: filtered, typed, in whole seconds; or where it cannot be."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from dicm_kit.data.sources.log_config import ImpressionsConfig
from dicm_kit.data.sources.log_files import LogFile
from dicm_kit.data.sources.log_filters import Filters
from dicm_kit.data.sources.log_history import HistoryLists
from dicm_kit.data.sources.log_problems import RowProblems, places_of, rows_text, typed
from dicm_kit.data.sources.log_tables import Table
from dicm_kit.data.sources.log_time import UNITS, Clock, packed, shown, unit_words, units_of
from dicm_kit.errors import DataError, some

if TYPE_CHECKING:
    import pyarrow as pa

_DAY = 86_400


@dataclass
class _Rows:
    """Rows on their way: as they are in the file, with their numbers and times."""

    batch: "pa.RecordBatch"
    number: np.ndarray
    second: np.ndarray
    below: np.ndarray
    """Ticks after the second."""

    def keep(self, kept: np.ndarray | None) -> "_Rows":
        """Returns some of them; None: all."""
        import pyarrow as pa

        if kept is None or kept.all():
            return self
        return _Rows(self.batch.filter(pa.array(kept)), self.number[kept], self.second[kept], self.below[kept])


class ImpressionRows:
    """Reads the files of the log, one at a time."""

    def __init__(self, config: ImpressionsConfig, table: Table, filters: Filters):
        self._config, self._table, self._filters = config, table, filters
        self._time = table["time"].column
        self._clock = Clock(table.types(self._time), config.time_unit, self._first_time, self._holds)
        self._history = HistoryLists(config.history, table, self._clock) if config.history else None

    def batches(self, file: LogFile) -> "Iterator[pa.RecordBatch]":
        """Yields a file's impressions, at least one batch, if need be without rows, so that the types are known.

        DataError when rows cannot be used: at the end, with all of them; at once where units are mixed or times cannot
        be read.
        """
        if self._filters.by_time and not self._clock.is_clock:
            raise DataError(
                f"`{self._time}` holds {unit_words(0)}: `since` and `until` have no days to go by",
                where=file.where,
                todo="Leave them out, or name the unit: `impressions.time_unit`.",
            )
        problems, nothing = RowProblems(file), True
        self._filters.begin(file)
        for batch, numbers in self._chosen(file, None):
            rows = self._with_times(batch, numbers, file, problems)
            rows = rows.keep(self._filters.kept_by_time(rows.second, file))
            self._look_ahead(rows, problems)
            for name in ("user", "item"):
                rows = rows.keep(self._there(name, rows.batch, rows.number, problems))
            yield self._impressions(rows, file, problems)
            nothing = False
        problems.raise_any()
        self._filters.raise_if_empty(self._table.files)
        if nothing:
            none = np.zeros(0, np.int64)
            yield self._impressions(_Rows(self._table.no_rows(file), none, none, none), file, problems)

    def _chosen(self, file: LogFile, columns: tuple[str, ...] | None) -> "Iterator[tuple[pa.RecordBatch, np.ndarray]]":
        """Yields the rows that `where` keeps, and their numbers; `columns`: only these, and they are not counted."""
        import pyarrow as pa

        first = 0
        names = None if columns is None else (*columns, *self._filters.columns)
        for batch in self._table.batches(file, names):
            numbers = np.arange(first, first + len(batch))
            first += len(batch)
            kept = self._filters.kept_by_where(batch, None if columns else file)
            yield (batch, numbers) if kept is None else (batch.filter(pa.array(kept)), numbers[kept])

    def _there(
        self, name: str, batch: "pa.RecordBatch", numbers: np.ndarray, problems: RowProblems
    ) -> np.ndarray | None:
        """Returns which rows have a value that none may lack, None for all; notes the others."""
        column = self._table[name].column
        null = batch[column].is_null(nan_is_null=True)
        if not null.true_count:
            return None
        there = ~null.to_numpy(zero_copy_only=False)
        problems.add_null(column, numbers[~there])
        return there

    def _impressions(self, rows: _Rows, file: LogFile, problems: RowProblems) -> "pa.RecordBatch":
        import pyarrow as pa

        named = {"user": "user", "item": "item"} | ({"split": "split"} if "split" in self._table else {})
        named |= {name: f"feature_{name}" for name in self._config.columns}
        columns = {name: self._typed(wanted, rows, file) for name, wanted in named.items()}
        columns |= {"time": pa.array(rows.second)} | self._order(rows, file) | self._labels(rows, file)
        if self._history:
            columns |= self._history.columns(rows.batch, rows.number, file, problems)
        return pa.RecordBatch.from_pydict(columns)

    def _typed(self, name: str, rows: _Rows, file: LogFile) -> "pa.Array":
        return typed(self._table, name, rows.batch, rows.number, file)

    # --- times ---

    def _with_times(self, batch: "pa.RecordBatch", numbers: np.ndarray, file: LogFile, problems: RowProblems) -> _Rows:
        """Returns the rows that have a time, with it."""
        import pyarrow as pa

        if (there := self._there("time", batch, numbers, problems)) is not None:
            batch, numbers = batch.filter(pa.array(there)), numbers[there]
        column = batch[self._time]
        if self._clock.is_mixed(column):
            raise self._mixed()
        ticks, good = self._clock.ticks(column)
        if not good.all():
            wrong = np.flatnonzero(~good)
            values = [repr(column[int(row)].as_py()) for row in wrong[:5]]
            unread = RowProblems(file)
            todo = "Write times as numbers, or as text like 2026-11-24T18:30:00."
            unread.add(f"`{self._time}` cannot be read as a time", numbers[wrong], todo, values)
            unread.raise_any()
        per_second = self._clock.per_second
        second = ticks if per_second == 1 else ticks // per_second
        return _Rows(batch, numbers, second, ticks - second * per_second)

    def _look_ahead(self, rows: _Rows, problems: RowProblems) -> None:
        """Notes times that have not come yet."""
        if self._clock.is_clock:
            late = np.flatnonzero(rows.second > time.time() + _DAY)
            values = [shown(int(second)) for second in rows.second[late[:5]]]
            todo = "Mend these rows. Where all times are wrong, name their unit: `impressions.time_unit`."
            problems.add(f"`{self._time}` lies in the future", rows.number[late], todo, values)

    def _first_time(self) -> float | None:
        """Returns the first time of the log that is a number."""
        for file in self._table.files:
            for values, _ in self._times(file):
                if len(values):
                    return values[0].item()
        return None

    def _holds(self, unit: int) -> bool:
        """Returns whether the log has a time that is by its size in this unit of UNITS."""
        return any((units_of(values) == unit).any() for file in self._table.files for values, _ in self._times(file))

    def _times(self, file: LogFile) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields the times of a file that are numbers, and the numbers of their rows."""
        import pyarrow as pa

        for batch, numbers in self._chosen(file, (self._time,)):
            there = ~batch[self._time].is_null(nan_is_null=True).to_numpy(zero_copy_only=False)
            yield batch[self._time].filter(pa.array(there)).to_numpy(zero_copy_only=False), numbers[there]

    def _mixed(self) -> DataError:
        """Returns the error for times of several units, after one more look at all times of the log."""
        counts, firsts = np.zeros(len(UNITS), np.int64), dict[int, str]()
        for file in self._table.files:
            for values, numbers in self._times(file):
                units = units_of(values)
                counts += np.bincount(units, minlength=len(UNITS))
                for unit in set(np.unique(units).tolist()) - firsts.keys():
                    at = int(np.argmax(units == unit))
                    (place,) = places_of(file, [int(numbers[at])])
                    firsts[unit] = f"first {values[at]} in {file.where}, {place}"
        parts = [f"{rows_text(counts[unit])} in {unit_words(unit)} ({first})" for unit, first in sorted(firsts.items())]
        hint = " Where only their size misleads, name it: `impressions.time_unit`."
        hint = hint if self._config.time_unit == "auto" else ""
        return DataError(
            f"`{self._time}` mixes units: {'; '.join(parts)}",
            where=some(file.where for file in self._table.files),
            todo="Bring all times to one unit." + hint,
        )

    # --- order, labels, weights ---

    def _order(self, rows: _Rows, file: LogFile) -> "dict[str, pa.Array]":
        """Returns what breaks ties: the part of the time below a second, then the log's own order."""
        import pyarrow as pa

        per_second = self._clock.per_second
        if "order" not in self._table:
            return {} if per_second == 1 else {"order": pa.array(rows.below)}
        order = self._typed("order", rows, file)
        if per_second == 1:
            return {"order": order}
        return {"order": pa.array(packed(order.fill_null(0).to_numpy(), rows.below, per_second, file.where))}

    def _labels(self, rows: _Rows, file: LogFile) -> "dict[str, pa.Array]":
        import pyarrow as pa
        import pyarrow.compute as pc

        ones = pa.array(np.ones(len(rows.number), np.float32))
        label = self._typed("label", rows, file) if "label" in self._table else ones
        weight = self._typed("weight", rows, file) if "weight" in self._table else None
        if self._config.kept_negatives != 1:
            weight = ones if weight is None else weight
            share = pa.scalar(self._config.kept_negatives, pa.float32())
            weight = pc.if_else(pc.equal(label, 0), pc.divide(weight, share), weight)
        return {"label": label} | ({} if weight is None else {"weight": weight})
