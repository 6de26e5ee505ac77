"""A column of lists of what the user has clicked -> lists of items, newest first, and of whole seconds."""

from typing import TYPE_CHECKING

import numpy as np

from dicm_kit.data.sources.log_config import HistoryColumnConfig
from dicm_kit.data.sources.log_files import LogFile
from dicm_kit.data.sources.log_problems import RowProblems, typed
from dicm_kit.data.sources.log_tables import Table
from dicm_kit.data.sources.log_time import Clock
from dicm_kit.data.sources.log_types import as_lists
from dicm_kit.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa


class HistoryLists:
    """Reads the column `history` and, where the recipe names them, the times of its clicks."""

    def __init__(self, config: HistoryColumnConfig, table: Table, clock: Clock):
        self._config, self._table, self._clock = config, table, clock

    def columns(
        self, batch: "pa.RecordBatch", rows: np.ndarray, file: LogFile, problems: RowProblems
    ) -> "dict[str, pa.Array]":
        """Returns `history` and `history_time`; lists that cannot be used come empty."""
        import pyarrow as pa

        items = _filled(typed(self._table, "history", batch, rows, file))
        lengths = items.value_lengths().to_numpy()
        values = items.flatten()
        null = values.is_null().to_numpy(zero_copy_only=False)
        wrong = _any_of(null, lengths)
        todo = "Mend these rows: a list holds items only, and a time for each."
        problems.add(f"`{self._config.column}` holds a null", rows[wrong], todo)
        times = self._times(batch, lengths, rows, file, problems) if self._config.times else None
        if times is not None:
            wrong |= times[1]
        offsets = np.concatenate([[0], np.cumsum(np.where(wrong, 0, lengths))]).astype(np.int32)
        order = self._order(lengths, wrong)
        columns = {"history": pa.ListArray.from_arrays(offsets, values.take(pa.array(order)))}
        if times is not None:
            columns["history_time"] = pa.ListArray.from_arrays(offsets, pa.array(times[0][order]))
        return columns

    def _times(
        self, batch: "pa.RecordBatch", lengths: np.ndarray, rows: np.ndarray, file: LogFile, problems: RowProblems
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns the seconds of all clicks, and which rows have none that could be used."""
        name = self._table["history_time"].column
        lists = _filled(as_lists(batch[name]))
        values = lists.flatten()
        null = values.is_null().to_numpy(zero_copy_only=False)
        ticks, good = self._clock.ticks(values.drop_null())
        if self._clock.is_mixed(values):
            what = f"times in `{name}` are in another unit than those of the impressions"
            raise DataError(what, where=file.where, todo="Bring all times to one unit.")
        usable = ~null
        usable[usable] = good
        seconds = np.zeros(len(values), np.int64)
        seconds[~null] = ticks // self._clock.per_second
        own = lists.value_lengths().to_numpy()
        todo = "Mend these rows: a list holds items only, and a time for each."
        unfit, unread = own != lengths, _any_of(~usable, own)
        problems.add(f"`{name}` is not as long as `{self._config.column}`", rows[unfit], todo)
        problems.add(f"`{name}` holds what is no time", rows[unread], todo)
        # where lengths differ, seconds of other rows must not slip in: each list is cut or filled to its items
        place = np.repeat(np.cumsum(own) - own, lengths) + _places(lengths)
        return np.append(seconds, 0)[np.minimum(place, len(seconds))], unfit | unread

    def _order(self, lengths: np.ndarray, wrong: np.ndarray) -> np.ndarray:
        """Returns which values make up the lists that come out."""
        starts = np.cumsum(lengths) - lengths
        kept = np.where(wrong, 0, lengths)
        places = _places(kept)
        if self._config.order == "oldest_first":
            places = np.repeat(kept, kept) - 1 - places
        return np.repeat(starts, kept) + places


def _filled(lists: "pa.Array") -> "pa.Array":
    import pyarrow as pa
    import pyarrow.compute as pc

    lists = lists.cast(pa.list_(lists.type.value_type))
    return pc.fill_null(lists, pa.scalar([], lists.type))


def _places(lengths: np.ndarray) -> np.ndarray:
    """Returns 0, 1, 2, ... for each list."""
    return np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)


def _any_of(values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Returns which lists have a value that is True."""
    return np.bincount(np.repeat(np.arange(len(lengths)), lengths)[values], minlength=len(lengths)) > 0
