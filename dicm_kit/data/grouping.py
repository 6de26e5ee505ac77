"""A sorted run of the log -> sample groups, each with what its user clicked before: vectorised over the run."""

from dataclasses import dataclass, field

import numpy as np

from dicm_kit.data.options import GroupOptions, HistoryOptions
from dicm_kit.data.ragged import Ragged, offsets_of
from dicm_kit.data.windows import Array

DAY = 86_400


@dataclass(frozen=True)
class LogRun:
    """Whole users' impressions, sorted by user, then (time, order). All arrays have one entry per impression."""

    user: np.ndarray
    time: np.ndarray
    item: np.ndarray
    label: np.ndarray
    split: np.ndarray
    """Index in `SPLITS`."""
    values: dict[str, Array] = field(default_factory=dict)
    """More columns of impressions: weight, click_probability, context."""
    user_values: dict[str, Array] = field(default_factory=dict)
    """User columns, repeated for each impression of the user."""

    def __len__(self) -> int:
        return len(self.user)


@dataclass(frozen=True)
class Groups:
    """Sample groups of a run; all impressions of a group are in one split."""

    impressions: Ragged
    """Rows of the run that each group holds, in (time, order)."""
    split: np.ndarray
    clicks: Ragged
    """Rows of the run that each group's user clicked before, newest first."""
    ages: np.ndarray
    """Days before the group, for each entry of `clicks`."""

    def __len__(self) -> int:
        return len(self.split)


def group(run: LogRun, grouping: GroupOptions, history: HistoryOptions) -> Groups:
    """Returns the groups of a run, in order.

    A history ends before the first impression of its group. Where a split cuts a group in parts, all parts have the
    history of the whole: nobody sees clicks of the page that he is asked about.
    """
    starts = _starts(run, grouping)
    whole = np.cumsum(starts) - 1  # which group an impression belongs to, before splits cut it
    part = whole * 4 + run.split
    rows = np.argsort(part, kind="stable")
    part = part[rows]
    firsts = np.flatnonzero(np.diff(part, prepend=-1))
    impressions = Ragged(rows, np.append(firsts, len(rows)))
    begin = np.flatnonzero(starts)[part[firsts] >> 2]  # first impression of the whole group
    clicks, ages = _clicked_before(run, begin, history)
    return Groups(impressions, part[firsts] & 3, clicks, ages)


def _starts(run: LogRun, grouping: GroupOptions) -> np.ndarray:
    """Returns, for each impression, whether a group begins there."""
    starts = np.ones(len(run), bool)
    before, after = run.time[:-1], run.time[1:]
    if grouping.by == "event":
        apart = after != before
    elif grouping.by == "session":
        apart = after - before > grouping.session_minutes * 60
    else:
        apart = after // DAY != before // DAY
    starts[1:] = apart | (run.user[1:] != run.user[:-1])
    return starts


def _clicked_before(run: LogRun, begin: np.ndarray, history: HistoryOptions) -> tuple[Ragged, np.ndarray]:
    """Returns the rows of the clicks before each row of `begin` by the same user, newest first, and their ages."""
    clicked = np.flatnonzero(run.label == 1)
    user_begin = np.flatnonzero(np.append(True, run.user[1:] != run.user[:-1]))
    user_begin = user_begin[np.searchsorted(user_begin, begin, side="right") - 1]
    stop = np.searchsorted(clicked, begin)
    lengths = np.minimum(stop - np.searchsorted(clicked, user_begin), history.max_length)
    offsets = offsets_of(lengths)
    newest_first = np.repeat(stop - 1 + offsets[:-1], lengths) - np.arange(offsets[-1])
    rows = clicked[newest_first]
    seconds = np.repeat(run.time[begin], lengths) - run.time[rows]
    if history.max_age_days is not None:
        young = seconds <= history.max_age_days * DAY
        lengths = np.bincount(np.repeat(np.arange(len(begin)), lengths)[young], minlength=len(begin))
        rows, seconds, offsets = rows[young], seconds[young], offsets_of(lengths)
    return Ragged(rows, offsets), (seconds / DAY).astype(np.float32)
