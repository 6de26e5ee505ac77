import numpy as np
import pytest

from dicm_kit.data.grouping import LogRun, group
from dicm_kit.data.options import GroupOptions, HistoryOptions

MINUTE, DAY = 60, 86_400


def run(user, time, label, item=None, split=None) -> LogRun:
    count = len(user)
    return LogRun(
        user=np.array(user),
        time=np.array(time),
        item=np.arange(count) if item is None else np.array(item),
        label=np.array(label, np.float32),
        part=np.zeros(count, np.int8) if split is None else np.array(split, np.int8),
    )


def shown(groups) -> list[tuple[list[int], list[int]]]:
    """Impressions and clicks of each group."""
    impressions = np.split(groups.impressions.values, groups.impressions.offsets[1:-1])
    clicks = np.split(groups.history.values, groups.history.offsets[1:-1])
    return [(a.tolist(), b.tolist()) for a, b in zip(impressions, clicks, strict=True)]


def test_a_history_is_what_the_user_clicked_before_newest_first():
    log = run([7, 7, 7, 7, 9], [10, 10, 20, 30, 40], [1, 1, 0, 1, 1])
    assert shown(group(log, GroupOptions("event"), HistoryOptions())) == [
        ([0, 1], []),
        ([2], [1, 0]),
        ([3], [1, 0]),
        ([4], []),
    ]


def test_a_session_ends_with_a_pause():
    log = run([7] * 4, [0, 30 * MINUTE, 61 * MINUTE, 61 * MINUTE], [1, 1, 1, 1])
    assert shown(group(log, GroupOptions("session"), HistoryOptions())) == [([0, 1], []), ([2, 3], [1, 0])]


def test_a_day_is_a_utc_day():
    log = run([7] * 3, [DAY - 1, DAY, 2 * DAY - 1], [1, 1, 1])
    assert shown(group(log, GroupOptions("day"), HistoryOptions())) == [([0], []), ([1, 2], [0])]


def test_only_the_newest_and_the_young_are_kept_with_their_ages():
    log = run([7] * 5, [0, DAY, 2 * DAY, 3 * DAY, 4 * DAY], [1] * 5)
    groups = group(log, GroupOptions(), HistoryOptions(max_length=2))
    assert shown(groups)[-1] == ([4], [3, 2])
    assert groups.ages[-2:].tolist() == [1.0, 2.0]
    groups = group(log, GroupOptions(), HistoryOptions(max_age_days=3))
    assert [clicks for _, clicks in shown(groups)] == [[], [0], [1, 0], [2, 1, 0], [3, 2, 1]]


def test_splits_cut_a_group_and_no_part_sees_clicks_of_the_same_page():
    log = run([7] * 4, [0, 10, 10, 10], [1, 1, 0, 1], split=[0, 0, 2, 0])
    groups = group(log, GroupOptions(), HistoryOptions())
    assert shown(groups) == [([0], []), ([1, 3], [0]), ([2], [0])]
    assert groups.part.tolist() == [0, 0, 2]


@pytest.mark.parametrize("by", ["event", "session", "day"])
def test_two_users_never_share_a_group(by):
    log = run([1, 2], [100, 100], [1, 0])
    assert shown(group(log, GroupOptions(by), HistoryOptions())) == [([0], []), ([1], [])]
