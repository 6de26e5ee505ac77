"""Splits by each user's order, histories that the log brings along, repeats, items that are not listed."""

from collections import Counter, defaultdict

import numpy as np
import pyarrow.parquet as pq
import pytest
from little_shop import DAY, LittleShop, random_shop

from dicm_kit.data.database import Database
from dicm_kit.data.dataset import SPLITS, Dataset
from dicm_kit.data.options import GroupOptions, HistoryOptions, PrepareOptions, SplitOptions
from dicm_kit.data.prepare import prepare
from dicm_kit.errors import DataError, FieldError


def made(folder, shop: LittleShop, **options) -> Dataset:
    return prepare(shop, PrepareOptions(**({"lanes": 2, "partitions": 2} | options)), folder, progress=False)


def groups(dataset: Dataset, split: str) -> list[dict]:
    files = [file for lane in range(dataset.lanes) for file in dataset.lane_files(split, lane)]
    return [row for file in files for row in pq.read_table(file, partitioning=None).to_pylist()]


# --- split by user_order ---


@pytest.mark.parametrize("by", ["event", "session", "day"])
@pytest.mark.parametrize(("test", "validation"), [(1, 1), (2, 0), (0.25, 0.1), (1, 0.2)])
def test_the_last_groups_of_each_user(tmp_path, by, test, validation):
    shop = random_shop(impressions=2000, users=20, days=14)
    split = SplitOptions(by="user_order", test=test, validation=validation)
    dataset = made(tmp_path / "out", shop, split=split, group=GroupOptions(by, session_minutes=120))
    log = shop.tables["impressions"].to_pylist()
    expected = {name: Counter() for name in SPLITS}
    for user in {row["user"] for row in log}:
        mine = sorted((row for row in log if row["user"] == user), key=lambda row: (row["time"], row["order"]))
        numbered, last, number = [], None, 0
        for row in mine:
            apart = (
                last is None
                or {
                    "event": (row["time"], row["order"]) != (last["time"], last["order"]),
                    "session": row["time"] - last["time"] > 7200 or row["time"] // DAY != last["time"] // DAY,
                    "day": row["time"] // DAY != last["time"] // DAY,
                }[by]
            )
            number += apart
            numbered.append((number, row))
            last = row
        tests = int(number * test + 1e-9) if test < 1 else test * (number > test)
        left = number - tests
        vals = int(number * validation + 1e-9) if validation < 1 else validation * (left > validation)
        for place, row in numbered:
            name = "test" if place > number - tests else "val" if place > left - vals else "train"
            expected[name][user, row["item"], row["time"], row["label"]] += 1
    for name in SPLITS:
        found = Counter()
        for group in groups(dataset, name):
            entries = zip(group["item"], group["time"], group["label"], strict=True)
            found.update((group["user"], item, time, label) for item, time, label in entries)
        assert found == expected[name], name
    assert all(info.first_day is None for info in dataset.parts.values())


def test_a_user_with_one_group_is_for_training(tmp_path):
    shop = LittleShop(
        impressions={
            "user": [1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3],
            "item": [10, 11] * 6,
            "time": [5, 5, 1, 1, 2, 2, 1, 1, 2, 2, 3, 3],
            "label": [1, 0] * 6,
        },
        items={"item": [10, 11], "picture": [None, None]},
    )
    dataset = made(tmp_path / "out", shop, split=SplitOptions(by="user_order"))
    users = {name: sorted({group["user"] for group in groups(dataset, name)}) for name in SPLITS}
    assert users == {"train": [1, 2, 3], "val": [3], "test": [2, 3]}


def test_shares_and_whole_numbers_of_groups(tmp_path):
    with pytest.raises(FieldError, match="whole number of groups, or a share below 1"):
        made(tmp_path / "out", random_shop(), split=SplitOptions(by="user_order", test=2.5))


# --- histories that the log brings along ---


def told(history, history_time=None, **changes) -> LittleShop:
    impressions = {
        "user": [1, 1, 2, 1, 2, 1],
        "item": [10, 11, 10, 11, 10, 12],
        "time": [100, 100, DAY + 1, DAY + 2, 2 * DAY, 2 * DAY + 1],
        "label": [1, 0, 1, 0, 1, 0],
        "history": history,
    }
    if history_time is not None:
        impressions["history_time"] = history_time
    return LittleShop(impressions | changes, {"item": [10, 11, 12], "picture": [None] * 3})


HISTORY = [[12, 11], [10], None, [77, 12, 10, 11], [], [12]]


def test_a_history_that_is_given_is_taken_as_it_is(tmp_path):
    dataset = made(tmp_path / "out", told(HISTORY), history=HistoryOptions(max_length=2))
    found = {(group["user"], group["time"][0]): group for split in SPLITS for group in groups(dataset, split)}
    histories = {key: group["history_item"] for key, group in found.items()}
    assert histories == {
        (1, 100): [2, 1],  # of the group's first impression
        (2, DAY + 1): [],
        (1, DAY + 2): [2, 0],  # item 77 is in no table, and two are kept
        (2, 2 * DAY): [],
        (1, 2 * DAY + 1): [2],
    }
    assert found[1, 100]["history_age"] == [0.0, 0.0], "the log does not say when"


def test_ages_come_from_the_times_and_old_clicks_go(tmp_path):
    times = [[90, 40], [50], None, [1, DAY + 2, DAY, 2], [], [DAY]]
    options = {"history": HistoryOptions(max_length=9, max_age_days=1.0)}
    dataset = made(tmp_path / "out", told(HISTORY, times), **options)
    found = {(group["user"], group["time"][0]): group for split in SPLITS for group in groups(dataset, split)}
    assert found[1, 100]["history_age"] == pytest.approx([10 / DAY, 60 / DAY])
    assert found[1, DAY + 2]["history_item"] == [2, 0, 1]
    assert found[1, DAY + 2]["history_age"] == pytest.approx([0, 2 / DAY, 1.0])
    assert found[1, 2 * DAY + 1]["history_item"] == [], "older than a day"


@pytest.mark.parametrize(
    ("history", "times", "message"),
    [
        (
            HISTORY,
            [[101, 40], [50], None, [1, 2, 3, 2], [], [DAY]],
            r"`history_time` is after the impression in 1 rows \(row 0\)",
        ),
        (
            HISTORY,
            [[90], [50], None, [1, 2, 3, 2], [], [DAY]],
            "`history` does not fit near row 0: 7 times for 8 items",
        ),
        ([1, 2, 3, 4, 5, 6], None, "`history` has a wrong type: int64, not lists"),
        ([["a"]] * 6, None, "`history` does not fit near row 0"),
    ],
)
def test_histories_that_cannot_be(tmp_path, history, times, message):
    with pytest.raises(DataError, match=message):
        made(tmp_path / "out", told(history, times))


# --- rows that are left out ---


def test_repeats_are_dropped(tmp_path):
    shop = random_shop(impressions=2000, users=8, items=12)
    dataset = made(tmp_path / "out", shop, drop_repeats=True)
    log = shop.tables["impressions"].to_pylist()
    best = defaultdict(list)
    for number, row in enumerate(log):
        best[row["user"], row["item"], row["time"] // DAY].append((-row["label"], row["time"], row["order"], number))
    expected = Counter()
    for (user, item, _), rows in best.items():
        label, time, *_ = min(rows)
        expected[user, item, time, -label] += 1
    found = Counter()
    for split in SPLITS:
        for group in groups(dataset, split):
            found.update(
                (group["user"], *row) for row in zip(group["item"], group["time"], group["label"], strict=True)
            )
    assert found == expected
    assert dataset.made["counts"]["rows_left_out"] == 2000 - len(best)


def test_unlisted_items_and_users_are_left_out_when_that_is_asked_for(tmp_path):
    shop = random_shop(impressions=1000)
    shop.tables["items"] = shop.tables["items"].slice(2)
    shop.tables["users"] = shop.tables["users"].slice(3)
    with pytest.raises(
        DataError, match=r"2 items in \d+ impressions are not among the items: 0, 1\n\n.*`data.unlisted: drop`"
    ):
        made(tmp_path / "out", shop)
    dataset = made(tmp_path / "out2", shop, unlisted="drop")
    log = shop.tables["impressions"]
    kept = (log["item"].to_numpy() >= 2) & (log["user"].to_numpy() >= 3)
    assert sum(info.impressions for info in dataset.splits.values()) == kept.sum()
    assert dataset.made["counts"]["rows_left_out"] == 1000 - kept.sum()


def test_no_row_left_says_after_which_filter(tmp_path):
    shop = random_shop(impressions=300)
    shop.tables["items"] = shop.tables["items"].set_column(0, "item", [np.arange(1000, 1040)])
    with pytest.raises(DataError, match="no row of 300 is left after `unlisted: drop`"):
        made(tmp_path / "out", shop, unlisted="drop")


def test_too_little_memory_says_what_to_set(tmp_path):
    import duckdb

    class Full:
        def execute(self, query: str):
            raise duckdb.OutOfMemoryException("Out of Memory Error: could not allocate block")

    database = Database(tmp_path / "out" / ".prepare", 192)
    database._connection = Full()
    with pytest.raises(DataError, match=r"out: the log cannot be .* in 192 MB .*\n\n  Set `data.memory_mb` to 384"):
        database.run("SELECT 1")
