"""Lane files that somebody else wrote wrong are refused before they reach a model."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dicm_kit.data import windows
from dicm_kit.data.windows import LaneFile, WindowColumns
from dicm_kit.errors import DataError

COLUMNS = WindowColumns(user=("age",), context=("hour",), width=3, num_items=10)


def lane(folder, row_group_size=2, drop=None, **changes) -> LaneFile:
    columns = {
        "user": [5, 6, 7],
        "user_age": [1, 2, 3],
        "history_item": [[1, 2, 3, 4], [], [9]],
        "history_age": [[0.1, 0.2, 0.3, 0.4], [], [2.0]],
        "item": [[0], [1, 2], [9]],
        "label": [[1.0], [0.0, 1.0], [0.0]],
        "weight": [[1.0], [1.0, 1.0], [1.0]],
        "context_hour": [[4], [5, 6], [7]],
    } | changes
    columns.pop(drop, None)
    pq.write_table(pa.table(columns), folder / "lane-000.parquet", row_group_size=row_group_size)
    return LaneFile([folder / "lane-000.parquet"])


def test_windows_in_the_order_of_the_file(tmp_path):
    file = lane(tmp_path)
    assert file.num_impressions == 4
    first, second = file.plan(None)
    assert [(plan.first, plan.stop) for plan in (first, second)] == [(0, 3), (3, 4)]
    window = file.read(first, COLUMNS)
    assert window.group_of.tolist() == [0, 1, 1]
    assert window.history_item.tolist() == [[1, 2, 3], [10, 10, 10]]
    assert window.history_length.tolist() == [3, 0]
    assert window.history_age[1].tolist() == [0, 0, 0]
    assert window.of_impression["hour"].tolist() == [4, 5, 6]
    assert file.read(second, COLUMNS).of_group["age"].tolist() == [3]


def test_shuffled_windows_hold_every_group_once(tmp_path, monkeypatch):
    monkeypatch.setattr(windows, "WINDOW_GROUPS", 2)
    file = lane(tmp_path, row_group_size=1)
    orders = set()
    for epoch in range(10):
        plans = file.plan((0, epoch, 0))
        assert [len(plan.row_groups) for plan in plans] == [2, 1]
        read = [file.read(plan, COLUMNS) for plan in plans]
        users = [user for window in read for user in window.user.tolist()]
        assert sorted(users) == [5, 6, 7]
        for window in read:
            groups = window.user[window.group_of]
            assert sorted(zip(groups.tolist(), window.item.tolist(), strict=True)) == sorted(
                (user, item) for user in window.user.tolist() for item in {5: [0], 6: [1, 2], 7: [9]}[user]
            )
        orders.add(tuple(users))
    assert len(orders) > 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"label": [[0.5], [0.0, 2.0], [0.0]]}, "2 labels that are neither 0 nor 1"),
        ({"weight": [[1.0], [1.0], [1.0, 1.0]]}, "lists of `weight` and `item` of different lengths"),
        ({"history_age": [[], [], [2.0]]}, "lists of `history_age` and `history_item` of different lengths"),
        ({"item": [[0], [1, 10], [9]]}, r"`item` holds a row that is not in items\.parquet"),
        ({"history_item": [[1, 2, 3, -4], [], [9]]}, "`history_item` holds a row that is not"),
        ({"user": [5, None, 7]}, "1 nulls in `user`"),
        ({"label": [[None], [1.0, 1.0], [1.0]]}, "nulls in the lists of `label`"),
        ({"user_age": [1.0, 2.0, None]}, "1 nulls in `user_age`"),
        ({"drop": "weight"}, "has no column weight"),
    ],
)
def test_a_wrong_lane_file_is_refused(tmp_path, changes, message):
    file = lane(tmp_path, row_group_size=10, **changes)
    with pytest.raises(DataError, match=message) as error:
        file.read(file.plan(None)[0], COLUMNS)
    assert "lane-000.parquet" in str(error.value)


def test_a_group_without_impressions_is_refused(tmp_path):
    empty = {"item": [[0], [], [9]], "label": [[1.0], [], [0.0]], "weight": [[1.0], [], [1.0]]}
    file = lane(tmp_path, row_group_size=10, context_hour=[[1], [], [2]], **empty)
    with pytest.raises(DataError, match="a sample group without impressions"):
        file.read(file.plan(None)[0], COLUMNS)


def test_a_file_that_is_cut_or_something_else(tmp_path):
    lane(tmp_path)
    path = tmp_path / "lane-000.parquet"
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(DataError, match=r"lane-000\.parquet: cannot be read"):
        LaneFile([path])
    with pytest.raises(DataError, match="has no column `item`"):
        lane(tmp_path, drop="item")


def test_an_int8_column_still_marks_empty_slots(tmp_path):
    """The mark of an empty slot is the number of items, which may not fit where all items do."""
    items = pa.array([[1], [], [127]], pa.list_(pa.int8()))
    file = lane(tmp_path, row_group_size=10, history_item=items, history_age=[[1.0], [], [1.0]])
    columns = WindowColumns(user=(), context=(), width=2, num_items=128)
    window = file.read(file.plan(None)[0], columns)
    assert np.array_equal(window.history_item, [[1, 128], [128, 128], [127, 128]])
