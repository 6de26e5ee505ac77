"""Negatives for a log of positives only: for each positive, other items that were alive, drawn without a loop.

A draw depends on the seed and on its positive (user, time, order, place among those of the same moment) alone, so that
it is the same however the log is cut into files, runs and days.
"""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from dicm_kit.data.grouping import DAY, EARLIER, LogRun
from dicm_kit.data.options import NegativeOptions
from dicm_kit.data.order import GOLDEN, NEGATIVES, mixed_bits, repeated
from dicm_kit.data.ragged import Ragged, taken
from dicm_kit.exchange.owner import mix64

_ATTEMPTS = 32


@dataclass(frozen=True)
class Alive:
    """What can be drawn on each day: items `offsets[d]:offsets[d + 1]` on `days[d]`."""

    days: np.ndarray
    """Ascending; a single 0 where the day does not matter."""
    offsets: np.ndarray
    items: np.ndarray
    until: np.ndarray
    """Running sum of the items' chances over all days; one entry more than items, the first 0."""

    @classmethod
    def read(cls, file: Path, options: NegativeOptions) -> "Alive":
        """Takes a Parquet file of (day, item, positives), sorted."""
        import pyarrow.parquet as pq

        table = pq.read_table(file, partitioning=None)
        day, item, positives = (table[name].to_numpy() for name in ("day", "item", "positives"))
        days, firsts = np.unique(day, return_index=True)
        chance = positives.astype(np.float64) ** (options.power if options.by == "popularity" else 0.0)
        return cls(days, np.append(firsts, len(item)), item, np.concatenate([[0.0], np.cumsum(chance)]))


class Negatives:
    """Draws; `missing` counts those that could not be drawn since too few other items were alive."""

    def __init__(self, options: NegativeOptions, alive: Alive, seeds: dict[int, int]):
        """Takes the seed of each part."""
        self._options, self._alive, self._seeds = options, alive, seeds
        self.missing = 0

    def added_to(self, run: LogRun) -> LogRun:
        """Returns the run with each positive's negatives behind it."""
        positive = np.flatnonzero(run.part != EARLIER)
        assert (run.label[positive] == 1).all(), "checked before"
        drawn = self._draw(run, positive)
        good = drawn >= 0
        self.missing += int(np.count_nonzero(~good))
        added = np.zeros(len(run), np.int64)
        added[positive] = good.sum(1)
        row = np.repeat(np.arange(len(run)), 1 + added)
        is_first = np.ones(len(row), bool)
        is_first[1:] = row[1:] != row[:-1]
        item = run.item[row]
        item[~is_first] = drawn[good]
        values = {name: taken(value, row) for name, value in run.values.items()}
        weight = values["weight"]
        assert isinstance(weight, np.ndarray)
        values["weight"] = np.where(is_first, weight, 1.0).astype(np.float32)
        if run.history is not None and run.history_time is not None:
            times = Ragged(run.history_time, run.history.offsets).take(row).values
        else:
            times = None
        return replace(
            run,
            user=run.user[row],
            time=run.time[row],
            item=item,
            label=is_first.astype(run.label.dtype),
            part=run.part[row],
            order=None if run.order is None else run.order[row],
            history=None if run.history is None else run.history.take(row),
            history_time=times,
            values=values,
            user_values={name: taken(value, row) for name, value in run.user_values.items()},
        )

    def _draw(self, run: LogRun, positive: np.ndarray) -> np.ndarray:
        """Returns items [positives, per_positive]; -1 where nothing was found, behind those that were."""
        user, time, item = run.user[positive], run.time[positive], run.item[positive]
        order = np.zeros_like(time) if run.order is None else run.order[positive]
        by_day = self._options.alive == "same_day"
        day = time // DAY if by_day else np.zeros_like(time)
        at = np.searchsorted(self._alive.days, day)
        low = self._alive.until[self._alive.offsets[at]][:, None]
        high = self._alive.until[self._alive.offsets[at + 1]][:, None]
        last = self._alive.offsets[at + 1][:, None] - 1
        first = self._alive.offsets[at][:, None]
        clicked = _Clicked(user, day, item)
        seeds = np.array([self._seeds.get(part, 0) for part in range(int(run.part.max(initial=0)) + 1)], np.int64)
        state = mixed_bits(NEGATIVES, seeds[run.part[positive]], user, time, order, _place(user, time, order))
        drawn = np.full((len(positive), self._options.per_positive), -1, np.int64)
        wanted = np.ones(drawn.shape, bool)
        for attempt in range(_ATTEMPTS):
            rows = np.flatnonzero(wanted.any(1))
            if not len(rows):
                break
            numbers = np.arange(attempt * drawn.shape[1], (attempt + 1) * drawn.shape[1], dtype=np.int64)
            with np.errstate(over="ignore"):
                bits = mix64((state[rows][:, None] + (numbers + 1) * np.int64(GOLDEN)).ravel()).reshape(
                    -1, len(numbers)
                )
            share = (bits.view(np.uint64) >> np.uint64(11)).astype(np.float64) * 2.0**-53
            place = np.searchsorted(self._alive.until, low[rows] + share * (high[rows] - low[rows]), "right") - 1
            found = self._alive.items[np.clip(place, first[rows], last[rows])]  # rounding may step over the end
            drawn[rows] = np.where(wanted[rows], found, drawn[rows])
            wanted[rows] = clicked.has(rows, drawn[rows]) | repeated(drawn[rows])
        drawn[wanted] = -1
        return np.take_along_axis(drawn, np.argsort(drawn < 0, axis=1, kind="stable"), 1)


class _Clicked:
    """Which items each user clicked on each day."""

    def __init__(self, user: np.ndarray, day: np.ndarray, item: np.ndarray):
        new = np.ones(len(user), bool)
        new[1:] = (user[1:] != user[:-1]) | (day[1:] != day[:-1])
        self._group = np.cumsum(new) - 1
        self._width = int(item.max(initial=0)) + 1
        self._pairs = np.unique(self._group * self._width + item)

    def has(self, rows: np.ndarray, items: np.ndarray) -> np.ndarray:
        """Returns for items [rows, k] whether the rows' users clicked them that day."""
        pairs = self._group[rows][:, None] * self._width + items
        place = np.minimum(np.searchsorted(self._pairs, pairs), len(self._pairs) - 1)
        return (self._pairs[place] == pairs) & (items < self._width)


def _place(user: np.ndarray, time: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Returns how many rows before have the same user, time and order."""
    new = np.ones(len(user), bool)
    new[1:] = (user[1:] != user[:-1]) | (time[1:] != time[:-1]) | (order[1:] != order[:-1])
    begin = np.flatnonzero(new)
    return np.arange(len(user)) - begin[np.cumsum(new) - 1]
