"""A sorted run of the log -> sample groups, each with what its user clicked before: vectorised over the run."""

from dataclasses import dataclass, field

import numpy as np

from dicm_kit.data.options import GroupOptions, HistoryOptions
from dicm_kit.data.ragged import Ragged, offsets_of
from dicm_kit.data.windows import Array

DAY = 86_400
LATEST = 2**33
"""Seconds since 1970, in the year 2242: numbers of this size and above are milliseconds or finer."""
EARLIER = -1


@dataclass(frozen=True)
class LogRun:
    """Whole users' impressions, sorted by user, then (time, order). All arrays have one entry per impression."""

    user: np.ndarray
    time: np.ndarray
    item: np.ndarray
    label: np.ndarray
    part: np.ndarray
    """Number of the part; EARLIER for clicks of parts that are written already, there for the histories only."""
    order: np.ndarray | None = None
    """Breaks ties of time, where the source says."""
    history: Ragged | None = None
    """Items clicked before, newest first, where the source says: then nothing is looked for in the log itself."""
    history_time: np.ndarray | None = None
    """When, for each of `history.values`."""
    values: dict[str, Array] = field(default_factory=dict)
    """More columns of impressions: weight, click_probability, context."""
    user_values: dict[str, Array] = field(default_factory=dict)
    """User columns, repeated for each impression of the user."""

    def __len__(self) -> int:
        return len(self.user)


@dataclass(frozen=True)
class Groups:
    """Sample groups of a run; all impressions of a group are in one part."""

    impressions: Ragged
    """Rows of the run that each group holds, in (time, order)."""
    part: np.ndarray
    history: Ragged
    """Items that each group's user clicked before, newest first."""
    ages: np.ndarray
    """Days before the group, for each entry of `history`."""

    def __len__(self) -> int:
        return len(self.part)


def group(run: LogRun, grouping: GroupOptions, history: HistoryOptions) -> Groups:
    """Returns the groups of a run, in order.

    A history ends before the first impression of its group. Where a split cuts a group in parts, all parts have the
    history of the whole: nobody sees clicks of the page that he is asked about.
    """
    starts = _starts(run, grouping)
    whole = np.cumsum(starts) - 1  # which group an impression belongs to, before splits cut it
    num_parts = int(run.part.max(initial=0)) + 1
    rows = np.flatnonzero(run.part != EARLIER)
    cut = whole[rows] * num_parts + run.part[rows]
    by_cut = np.argsort(cut, kind="stable")
    rows, cut = rows[by_cut], cut[by_cut]
    firsts = np.flatnonzero(np.diff(cut, prepend=-1))
    impressions = Ragged(rows, np.append(firsts, len(rows)))
    begin = np.flatnonzero(starts)[cut[firsts] // num_parts]  # first impression of the whole group
    if run.history is None:
        items, seconds = _clicked_before(run, begin, history)
    else:
        items, seconds = _given_history(run, begin, history)
    return Groups(impressions, cut[firsts] % num_parts, items, (seconds / DAY).astype(np.float32))


def _starts(run: LogRun, grouping: GroupOptions) -> np.ndarray:
    """Returns, for each impression, whether a group begins there."""
    starts = np.ones(len(run), bool)
    before, after = run.time[:-1], run.time[1:]
    if grouping.by == "event":
        apart = after != before
        if run.order is not None:
            apart |= run.order[1:] != run.order[:-1]
    else:
        apart = after // DAY != before // DAY
        if grouping.by == "session":
            apart |= after - before > grouping.session_minutes * 60
    starts[1:] = apart | (run.user[1:] != run.user[:-1])
    return starts


def _clicked_before(run: LogRun, begin: np.ndarray, history: HistoryOptions) -> tuple[Ragged, np.ndarray]:
    """Returns the items that the same user clicked before each row of `begin`, newest first, and their ages in
    seconds."""
    clicked = np.flatnonzero(run.label == 1)
    user_begin = np.flatnonzero(np.append(True, run.user[1:] != run.user[:-1]))
    user_begin = user_begin[np.searchsorted(user_begin, begin, side="right") - 1]
    stop = np.searchsorted(clicked, begin)
    lengths = np.minimum(stop - np.searchsorted(clicked, user_begin), history.max_length)
    offsets = offsets_of(lengths)
    newest_first = np.repeat(stop - 1 + offsets[:-1], lengths) - np.arange(offsets[-1])
    rows = clicked[newest_first]
    seconds = np.repeat(run.time[begin], lengths) - run.time[rows]
    return _young(Ragged(run.item[rows], offsets), seconds, history)


def _given_history(run: LogRun, begin: np.ndarray, history: HistoryOptions) -> tuple[Ragged, np.ndarray]:
    """Returns what the source says that was clicked before each row of `begin`, and the ages in seconds."""
    assert run.history is not None
    items = _first(run.history.take(begin), history.max_length)
    if run.history_time is None:
        return items, np.zeros(len(items.values))
    times = _first(Ragged(run.history_time, run.history.offsets).take(begin), history.max_length)
    return _young(items, np.repeat(run.time[begin], times.lengths) - times.values, history)


def _first(lists: Ragged, most: int) -> Ragged:
    within = np.arange(len(lists.values)) - np.repeat(lists.offsets[:-1], lists.lengths)
    return Ragged(lists.values[within < most], offsets_of(np.minimum(lists.lengths, most)))


def _young(items: Ragged, seconds: np.ndarray, history: HistoryOptions) -> tuple[Ragged, np.ndarray]:
    if history.max_age_days is None:
        return items, seconds
    young = seconds <= history.max_age_days * DAY
    row = np.repeat(np.arange(len(items)), items.lengths)
    return Ragged(items.values[young], offsets_of(np.bincount(row[young], minlength=len(items)))), seconds[young]
