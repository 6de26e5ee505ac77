"""The rows that the recipe keeps: `where`, `since`, `until`; and which of them took the last row."""

from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from dicm_kit.data.sources.log_files import LogFile
from dicm_kit.data.sources.log_tables import Table
from dicm_kit.data.sources.log_types import shape_of
from dicm_kit.errors import DataError, FieldError, some

if TYPE_CHECKING:
    import pyarrow as pa

_DAY = 86_400
_FITS: dict[str, tuple[type, ...]] = {"whole": (int,), "fraction": (int, float), "yes/no": (bool,), "text": (str,)}
_WORDS = {"whole": "whole numbers", "fraction": "numbers", "yes/no": "true and false", "text": "text"}


class Filters:
    """Keeps rows and counts them; `columns` are those that it looks at."""

    def __init__(self, where: Mapping[str, list[Any]], since: str | None, until: str | None):
        self._where = dict(where)
        self.first = _second(since, "since")
        end = _second(until, "until")
        self.end = None if end is None else end + _DAY
        """Seconds: rows from `first` on and before `end` are kept; None: no bound."""
        if self.first is not None and self.end is not None and self.first >= self.end:
            raise FieldError("impressions.until", f"is {until}, before `since: {since}`")
        days = {"since": since, "until": until}
        self._names = ["", *(f"where.{column}: {values}" for column, values in where.items())]
        self._names += [f"{name}: {day}" for name, day in days.items() if day is not None]
        self._counts: dict[str, list[int]] = {}  # file -> rows that came in, and that each filter left
        self.columns = tuple(where)

    @property
    def by_time(self) -> bool:
        """Whether it looks at times."""
        return self.first is not None or self.end is not None

    def problems(self, table: Table) -> list[FieldError]:
        """Returns the values of `where` that their column cannot hold."""
        problems = []
        for column, values in self._where.items():
            key, shape = f"impressions.where.{column}", table.shapes[f"where_{column}"]
            wrong = [each for each in values if type(each) not in _FITS.get(shape, (bool, int, float, str))]
            if not values:
                problems.append(FieldError(key, "is an empty list: no row would be left", todo="Leave it out."))
            elif wrong:
                todo = (
                    "Write text in quotes." if shape == "text" else f"Such columns are compared with {_WORDS[shape]}."
                )
                what = f"`{column}` holds {_WORDS[shape]}, {some(repr(each) for each in wrong)} is none"
                problems.append(FieldError(key, what, todo=todo))
        return problems

    def begin(self, file: LogFile) -> None:
        """Says that the rows of a file come now."""
        self._counts[file.name] = [0] * len(self._names)

    def kept_by_where(self, batch: "pa.RecordBatch", file: LogFile | None) -> np.ndarray | None:
        """Returns which rows `where` keeps, None for all; counts them for the file."""
        import pyarrow as pa
        import pyarrow.compute as pc

        counts = [len(batch)]
        kept: np.ndarray | None = None
        for column, values in self._where.items():
            held = batch[column].cast(pa.int64()) if shape_of(batch[column].type) == "whole" else batch[column]
            here = pc.is_in(held, value_set=pa.array(values).cast(held.type)).to_numpy(zero_copy_only=False)
            kept = here if kept is None else kept & here
            counts.append(int(kept.sum()))
        if file is not None:
            for index, count in enumerate(counts):
                self._counts[file.name][index] += count
        return kept

    def kept_by_time(self, seconds: np.ndarray, file: LogFile) -> np.ndarray | None:
        """Returns which rows `since` and `until` keep, None for all; counts them for the file."""
        index = 1 + len(self._where)
        kept: np.ndarray | None = None
        for bound, here in ((self.first, lambda: seconds >= self.first), (self.end, lambda: seconds < self.end)):
            if bound is not None:
                kept = here() if kept is None else kept & here()
                self._counts[file.name][index] += int(kept.sum())
                index += 1
        return kept

    def raise_if_empty(self, files: list[LogFile]) -> None:
        """Raises DataError when all files have been read and no row of them was left."""
        if any(file.name not in self._counts for file in files):
            return
        total = np.sum([self._counts[file.name] for file in files], axis=0)
        if total[-1]:
            return
        places = some(file.where for file in files)
        if not total[0]:
            raise DataError("the log has no rows", where=places, todo="Look at `impressions.file`.")
        took = int(np.flatnonzero(total == 0)[0])
        what = f"no row is left after `impressions.{self._names[took]}`"
        came = f"{total[0]:,} rows came in" + (f", {total[took - 1]:,} as far as this filter" if took > 1 else "")
        raise DataError(f"{what}; {came}", where=places, todo="Change the filter, or leave it out.")


def _second(day: str | None, name: str) -> int | None:
    if day is None:
        return None
    try:
        parsed = date.fromisoformat(day)
    except ValueError:
        raise FieldError(f"impressions.{name}", f"is {day!r}, no day", todo="Write it like 2026-11-24.") from None
    return int(datetime(parsed.year, parsed.month, parsed.day, tzinfo=UTC).timestamp())
