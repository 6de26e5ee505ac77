"""Times as a log has them -> whole seconds, and what is left of a second: numbers of any unit, timestamps, ISO text."""

from collections.abc import Callable
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from dicm_kit.data.sources.log_config import TimeUnit
from dicm_kit.data.sources.log_types import shape_of
from dicm_kit.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

UNITS: tuple[TimeUnit, ...] = ("order", "s", "ms", "us", "ns")
PER_SECOND: dict[str, int] = {"order": 1, "s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_BOUNDS = np.array([10**8, 10**11, 10**14, 10**17])
"""Between 1973 and 5138 the four units of a clock do not meet; smaller numbers are none."""
_WORDS = {"order": "numbers below 100,000,000, which are no clock", "s": "seconds", "ms": "milliseconds"}
_WORDS |= {"us": "microseconds", "ns": "nanoseconds"}


def units_of(values: np.ndarray) -> np.ndarray:
    """Returns the index in UNITS of the unit that each number is in, by its size."""
    return np.searchsorted(_BOUNDS, values, "right")


def unit_words(index: int) -> str:
    """Returns a unit of UNITS in words."""
    return _WORDS[UNITS[index]]


class Clock:
    """Reads one log's times; all of them have one unit.

    `per_second`: ticks of the finest part that is kept; 1: there is nothing below a second. `is_clock`: False when the
    numbers are only an order.
    """

    def __init__(
        self,
        types: "list[pa.DataType]",
        declared: TimeUnit,
        first: Callable[[], float | None],
        holds: Callable[[int], bool],
    ):
        """`types`: of the column in each file; `first` gives the first number, when `auto` needs it.

        `holds` says whether any number of the log is by its size in a unit of UNITS; asked where a named unit and a
        number's size are at odds.
        """
        self._shapes = {shape_of(kind) for kind in types} - {"empty"}
        self._types, self._declared, self._first, self._holds = types, declared, first, cache(holds)
        self._unit: TimeUnit | None = None if declared == "auto" else declared

    @property
    def of_numbers(self) -> bool:
        """Whether the column holds numbers, whose unit has to be found."""
        return self._shapes <= {"whole", "fraction"}

    @property
    def unit(self) -> TimeUnit:
        """The unit of a column of numbers."""
        if self._unit is None:
            first = self._first()
            self._unit = "s" if first is None else UNITS[units_of(np.array([first]))[0]]
        return self._unit

    @property
    def is_clock(self) -> bool:
        """Whether the times say when."""
        return not self.of_numbers or self.unit != "order"

    @property
    def per_second(self) -> int:
        """How many ticks a second has."""
        if self.of_numbers:
            fine = 10**6 if "fraction" in self._shapes and self.unit != "order" else 1
            return max(fine, PER_SECOND[self.unit])
        if "text" in self._shapes:
            return 10**9
        return max([PER_SECOND[kind.unit] for kind in self._types if hasattr(kind, "unit")], default=1)

    def is_mixed(self, column: "pa.Array") -> bool:
        """Returns whether numbers are in another unit than the log's.

        Where the recipe names the unit, numbers of another size may be meant: a clock that begins at 0. They are not
        where the log has numbers of the unit's own size too.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        if shape_of(column.type) == "text" and self.of_numbers:  # times of clicks, joined by `|`
            ticks, good = self.ticks(column.drop_null())
            column = pa.array(ticks[good] // (self.per_second // PER_SECOND[self.unit]))
        if not self.of_numbers or self._declared == "order" or column.null_count == len(column):
            return False
        ends, own = pc.min_max(column), UNITS.index(self.unit)
        others = units_of(np.array([ends["min"].as_py(), ends["max"].as_py()])) != own
        if self._declared == "auto" or not others.any():
            return bool(others.any())
        values = column.drop_null().to_numpy(zero_copy_only=False)
        units = units_of(values[np.isfinite(values)])
        return bool(((units != 0) & (units != own)).any()) and self._holds(own)

    def ticks(self, column: "pa.Array") -> "tuple[np.ndarray, np.ndarray]":
        """Returns (ticks, good) of a column without nulls; a tick where `good` is False means nothing."""
        import pyarrow as pa

        if shape_of(column.type) == "text":
            return self._ticks_of_text(column)
        if self.of_numbers:
            return self._ticks_of_numbers(column.to_numpy(zero_copy_only=False))
        if pa.types.is_date(column.type):
            column = column.cast(pa.timestamp("s"))
        return self._scaled(column.cast(pa.int64()).to_numpy(), PER_SECOND[column.type.unit])

    def _ticks_of_numbers(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if values.dtype.kind != "f":
            return self._scaled(values, PER_SECOND[self.unit])
        scaled = values * (self.per_second / PER_SECOND[self.unit])
        good = np.isfinite(values) & (abs(scaled) < 2**62)
        if self.unit == "order":
            good &= scaled == np.floor(scaled)
        return np.rint(np.where(good, scaled, 0)).astype(np.int64), good

    def _scaled(self, values: np.ndarray, unit: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns (ticks, good) of whole numbers that count `unit` to the second."""
        if unit > self.per_second:
            return values.astype(np.int64) // (unit // self.per_second), np.ones(len(values), dtype=bool)
        scale = self.per_second // unit
        good = (values >= -(2**62) // scale) & (values <= 2**62 // scale)
        return np.where(good, values, 0).astype(np.int64) * scale, good

    def _ticks_of_text(self, column: "pa.Array") -> tuple[np.ndarray, np.ndarray]:
        import pyarrow as pa

        targets = [pa.int64()] if self.of_numbers else [pa.timestamp("ns"), pa.timestamp("ns", "UTC")]
        for target in targets:
            try:
                return self.ticks(column.cast(target))[0], np.ones(len(column), dtype=bool)
            except pa.ArrowInvalid:
                continue
        if len(column) == 1:
            return np.zeros(1, dtype=np.int64), np.zeros(1, dtype=bool)
        parts = [self._ticks_of_text(column[row : row + 1]) for row in range(len(column))]
        return np.concatenate([ticks for ticks, _ in parts]), np.concatenate([good for _, good in parts])


def shown(seconds: int) -> str:
    """Returns a time as people write it."""
    try:
        return datetime.fromtimestamp(int(seconds), UTC).strftime("%Y-%m-%d %H:%M:%S")
    except (ValueError, OverflowError, OSError):  # beyond the year 9999
        return f"{seconds} s"


def packed(order: np.ndarray, below: np.ndarray, per_second: int, where: str) -> np.ndarray:
    """Returns one number that sorts by what is below the second, then by the log's own order."""
    room = 2**62 // per_second
    if len(order) and abs(order).max() >= room // 2:
        raise DataError(
            f"numbers of {room // 2:,} or more do not fit beside a time of {per_second:,} ticks a second",
            where=where,
            todo="Let the second column of `impressions.time` begin at 0, or give the time in seconds.",
        )
    return below * room + order
