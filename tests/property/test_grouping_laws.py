"""Groups and histories, vectorised, are those of a loop over one user's impressions after the other."""

from typing import Literal

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dicm_kit.data.grouping import DAY, LogRun, group
from dicm_kit.data.options import GroupOptions, HistoryOptions

impression = st.tuples(
    st.integers(0, 3),  # user
    st.integers(0, 40).map(lambda step: step * 3 * 3600),  # time: many ties
    st.booleans(),  # clicked
    st.integers(0, 2),  # split
)


def naive(log: list[tuple], by: str, pause: int, history: HistoryOptions) -> set[tuple]:
    """(split, impressions, clicks, ages) of each group."""
    found = set()
    for user in {row[0] for row in log}:
        mine = [(index, *row[1:]) for index, row in enumerate(log) if row[0] == user]
        groups: list[list[tuple]] = []
        for row in mine:
            last = groups[-1][-1] if groups else None
            together = (
                last is not None
                and {
                    "event": row[1] == last[1],
                    "session": row[1] - last[1] <= pause and row[1] // DAY == last[1] // DAY,
                    "day": row[1] // DAY == last[1] // DAY,
                }[by]
            )
            groups[-1].append(row) if together else groups.append([row])
        for rows in groups:
            start, time = rows[0][0], rows[0][1]
            clicks = [(index, time - at) for index, at, clicked, _ in mine if index < start and clicked][::-1]
            clicks = clicks[: history.max_length]
            if history.max_age_days is not None:
                clicks = [click for click in clicks if click[1] <= history.max_age_days * DAY]
            for split in {row[3] for row in rows}:
                impressions = tuple(row[0] for row in rows if row[3] == split)
                ages = tuple(float(np.float32(seconds / DAY)) for _, seconds in clicks)
                found.add((split, impressions, tuple(index for index, _ in clicks), ages))
    return found


@settings(max_examples=150, deadline=None)
@given(
    st.lists(impression, min_size=1, max_size=40),
    st.sampled_from(["event", "session", "day"]),
    st.integers(1, 600),
    st.integers(1, 5),
    st.none() | st.sampled_from([0.125, 1.0, 3.5]),
)
def test_groups_are_those_of_a_loop(log, by: Literal["event", "session", "day"], minutes, longest, oldest):
    log.sort(key=lambda row: row[:2])
    user, time, label, split = (np.array(column) for column in zip(*log, strict=True))
    run = LogRun(user=user, time=time, item=np.arange(len(log)), label=label.astype(np.float32), part=split)
    history = HistoryOptions(longest, oldest)
    groups = group(run, GroupOptions(by, minutes), history)
    clicks = np.split(groups.history.values, groups.history.offsets[1:-1])
    ages = np.split(groups.ages, groups.history.offsets[1:-1])
    impressions = np.split(groups.impressions.values, groups.impressions.offsets[1:-1])
    found = {
        (int(split), tuple(rows.tolist()), tuple(before.tolist()), tuple(age.tolist()))
        for split, rows, before, age in zip(groups.part, impressions, clicks, ages, strict=True)
    }
    assert found == naive(log, by, minutes * 60, history)
    assert len(found) == len(groups)
