"""prepare, end to end on small shops, against numbers worked out by hand or in plain Python."""

import hashlib
from collections import Counter
from datetime import datetime

import numpy as np
import pyarrow.parquet as pq
import pytest
from little_shop import DAY, LittleShop, picture, random_shop

from dicm_kit.data.dataset import SPLITS, Dataset
from dicm_kit.data.prepare import GroupOptions, HistoryOptions, PrepareOptions, SplitOptions, prepare
from dicm_kit.errors import DataError, FieldError
from dicm_kit.interfaces import SourceColumn, SourceColumns
from dicm_kit.shards import list_shards, picture_key, read_shard

OPTIONS = PrepareOptions(lanes=2, partitions=2)


def tiny(**changes) -> LittleShop:
    """Three days, two users, three items; item 12 is new in the test, item 11 has no picture."""
    impressions = {
        "user": [1, 1, 2, 1, 2, 1, 2, 1],
        "item": [10, 11, 10, 10, 11, 10, 12, 12],
        "time": [100, 100, 200, 300, DAY, DAY + 50, 2 * DAY, 2 * DAY + 10],
        "label": [1, 0, 1, 1, 0, 1, 1, 0],
        "place": ["top", "low", "top", "top", "low", "top", "new", "top"],
    }
    items = {"item": [10, 11, 12], "picture": ["a", None, "b"], "colour": ["red", "blue", "red"]}
    columns = SourceColumns(item={"colour": SourceColumn("id")}, context={"place": SourceColumn("id")})
    given = {
        "impressions": impressions | changes.pop("impressions", {}),
        "items": items | changes.pop("items", {}),
        "pictures": [("a", picture(10)), ("b", picture(20))],
        "columns": columns,
    }
    return LittleShop(**(given | changes))


def made(folder, source=None, options=OPTIONS) -> Dataset:
    return prepare(source or tiny(), options, folder, progress=False)


def rows(dataset: Dataset, split: str) -> list[dict]:
    """The groups of a split, with indices instead of codes."""
    files = [file for lane in range(dataset.lanes) for file in dataset.lane_files(split, lane)]
    found = [row for file in files for row in pq.read_table(file, partitioning=None).to_pylist()]
    infos = {f"user_{name}": info for name, info in dataset.user.items()}
    infos |= {f"context_{name}": info for name, info in dataset.context.items()}
    for row in found:
        for name, info in infos.items():
            if info.vocab is not None:
                row[name] = _indexed(row[name], dataset.index_of(info.vocab))
    return sorted(found, key=lambda row: (row["time"], row["user"]))


def _indexed(codes, index):
    return [_indexed(code, index) for code in codes] if isinstance(codes, list) else int(index[codes])


def vocab(dataset: Dataset, name: str) -> list[tuple]:
    """(value, index, count) of a vocabulary, without null and without values that training does not have."""
    first, *others = [tuple(row.values()) for row in pq.read_table(dataset.vocab_file(name)).to_pylist()]
    assert first == (None, 0, 0)
    return [row for row in others if row[1]]


def test_every_file_is_what_one_works_out_by_hand(tmp_path):
    dataset = made(tmp_path / "out")
    assert vocab(dataset, "place") == [("top", 1, 3), ("low", 2, 1)]
    assert vocab(dataset, "colour") == [("red", 1, 3), ("blue", 2, 1)]
    assert vocab(dataset, "item_id") == [(10, 1, 3), (11, 2, 1)]
    assert vocab(dataset, "user_id") == [(1, 1, 3), (2, 2, 1)]
    a, b = picture_key(picture(10)), picture_key(picture(20))
    assert vocab(dataset, "picture") == [(a, 1, 3)]
    assert dataset.items.to_pylist() == [
        {"item": 10, "picture_key": a, "train_count": 3, "item_id": 1, "picture": 1, "colour": 1},
        {"item": 11, "picture_key": 0, "train_count": 1, "item_id": 2, "picture": 0, "colour": 2},
        {"item": 12, "picture_key": b, "train_count": 0, "item_id": 0, "picture": 0, "colour": 1},
    ]
    first, _, third = rows(dataset, "train")
    assert first == {
        "user": 1,
        "user_user_id": 1,
        "history_item": [],
        "history_age": [],
        "item": [0, 1],
        "label": [1.0, 0.0],
        "weight": [1.0, 1.0],
        "time": [100, 100],
        "context_place": [1, 2],
    }
    assert (third["history_item"], third["item"]) == ([0], [0])
    assert third["history_age"] == [pytest.approx(200 / DAY)]
    test_1, test_2 = rows(dataset, "test")
    assert (test_1["user"], test_1["history_item"], test_1["context_place"]) == (2, [0], [0])
    assert (test_2["user"], test_2["history_item"]) == (1, [0, 0, 0])
    assert dataset.user["user_id"].num_ids == 3
    assert dataset.splits["train"].__dict__ == {
        "parts": ("1970-01-01",),
        "impressions": 4,
        "groups": 3,
        "positives": 3,
        "users": 2,
        "with_picture": 3,
        "with_history": 1,
        "unseen_items": 0,
    }
    assert dataset.splits["test"].unseen_items == 2
    assert dict(pair for shard in list_shards(dataset.images_folder) for pair in read_shard(shard.path)) == {
        a: picture(10),
        b: picture(20),
    }
    assert not (tmp_path / "out" / ".prepare").exists()


def test_describe_is_a_table(tmp_path):
    assert made(tmp_path / "out").describe().splitlines() == [
        "3 items, 2 pictures",
        "       impressions  groups  users  positive  with picture  with history  unseen item",
        "train            4       3      2    75.0 %        75.0 %        25.0 %        0.0 %",
        "  val            2       2      2    50.0 %        50.0 %       100.0 %        0.0 %",
        " test            2       2      2    50.0 %       100.0 %       100.0 %      100.0 %",
    ]


def test_impressions_gives_flat_columns(tmp_path):
    dataset = made(tmp_path / "out")
    flat = dataset.impressions("train", ["user", "time", "label"])
    assert sorted(zip(*(flat[name].tolist() for name in ("time", "user", "label")), strict=True)) == [
        (100, 1, 0.0),
        (100, 1, 1.0),
        (200, 2, 1.0),
        (300, 1, 1.0),
    ]
    with pytest.raises(DataError, match="has no column click_probability"):
        dataset.impressions("train", ["click_probability"])


def test_min_count_makes_rare_values_unknown(tmp_path):
    dataset = made(tmp_path / "out", options=PrepareOptions(lanes=2, min_count=2))
    assert vocab(dataset, "colour") == [("red", 1, 3)]
    assert dataset.items["colour"].to_pylist() == [1, 0, 1]


def test_splits_by_column(tmp_path):
    split = ["test", "val", "train", "train", "test", "val", "train", "train"]
    options = PrepareOptions(lanes=2, split=SplitOptions(by="column"))
    dataset = made(tmp_path / "out", tiny(impressions={"split": split}), options)
    assert [dataset.splits[name].impressions for name in SPLITS] == [4, 2, 2]
    times = np.concatenate([row["time"] for row in rows(dataset, "train")])
    assert times.tolist() == [200, 300, 2 * DAY, 2 * DAY + 10]


def test_no_validation_split_is_wanted(tmp_path):
    dataset = made(tmp_path / "out", options=PrepareOptions(lanes=2, split=SplitOptions(validation=0)))
    assert [dataset.splits[name].impressions for name in SPLITS] == [6, 0, 2]


# --- against plain Python ---


@pytest.mark.parametrize("strings", [False, True])
def test_a_random_shop_is_what_plain_python_makes_of_it(tmp_path, strings):
    shop = random_shop(strings=strings, impressions=1000, batch=77)
    options = PrepareOptions(
        lanes=3, group=GroupOptions("session", session_minutes=60), history=HistoryOptions(5, max_age_days=2.0)
    )
    dataset = made(tmp_path / "out", shop, options)
    log = shop.tables["impressions"].to_pylist()
    items = {row["item"]: row for row in shop.tables["items"].to_pylist()}
    users = {row["user"]: row for row in shop.tables["users"].to_pylist()}
    place = {item: index for index, item in enumerate(items)}
    train = [row for row in log if row["time"] // DAY < 4]

    def index(values) -> dict:
        counts = Counter(value for value in values if value is not None)
        return {value: number for number, value in enumerate(sorted(counts, key=lambda v: (-counts[v], v)), 1)}

    hours, cities = index(row["hour"] for row in train), index(users[row["user"]]["city"] for row in train)
    queries = index(query for row in train for query in row["queries"])
    tags = index(
        tag for row in train for tag in items[row["item"]]["tags"] + users[row["user"]]["likes"]
    )  # users share the vocabulary
    brands = index(items[row["item"]]["brand"] for row in train)

    for row, raw in zip(dataset.items.to_pylist(), items.values(), strict=True):
        assert row["item"] == raw["item"]
        assert row["brand"] == brands.get(raw["brand"], 0)
        assert row["tags"] == [tags.get(tag, 0) for tag in raw["tags"]]
        assert row["price"] == (raw["price"] or 0.0)
        assert row["shop"] == int.from_bytes(hashlib.md5(raw["shop"].encode()).digest()[8:], "little", signed=True)

    def user_number(user) -> int:
        if not strings:
            return user
        return int.from_bytes(hashlib.md5(user.encode()).digest()[8:], "little", signed=True)

    expected = []
    for user in users:
        mine = [row for row in log if row["user"] == user]
        mine.sort(key=lambda row: (row["time"], row["order"]))  # stable: ties stay in the order of the log
        begin = 0
        for position, row in enumerate(mine):
            last = mine[max(position - 1, 0)]["time"]
            if row["time"] - last > 3600 or row["time"] // DAY != last // DAY:
                begin = position
            clicks = [c for c in mine[:begin] if c["label"] and mine[begin]["time"] - c["time"] <= 2 * DAY]
            clicks = clicks[::-1][:5]
            expected.append(
                (
                    min(2, max(0, row["time"] // DAY - 3)),
                    user_number(user),
                    row["time"],
                    place[row["item"]],
                    row["label"],
                    row["weight"],
                    row["click_probability"],
                    hours.get(row["hour"], 0),
                    tuple(queries.get(query, 0) for query in row["queries"]),
                    tuple(place[click["item"]] for click in clicks),
                    tuple(float(np.float32((mine[begin]["time"] - click["time"]) / DAY)) for click in clicks),
                    cities.get(users[user]["city"], 0),
                    tuple(tags.get(tag, 0) for tag in users[user]["likes"]),
                )
            )
    lists = ("time", "item", "label", "weight", "click_probability", "context_hour", "context_queries")
    found = [
        (
            split,
            row["user"],
            *values[:6],
            tuple(values[6]),
            tuple(row["history_item"]),
            tuple(row["history_age"]),
            row["user_city"],
            tuple(row["user_likes"]),
        )
        for split, name in enumerate(SPLITS)
        for row in rows(dataset, name)
        for values in zip(*(row[column] for column in lists), strict=True)
    ]
    assert Counter(found) == Counter(expected)
    sizes = [pq.read_metadata(dataset.lane_files("train", lane)[0]).num_rows for lane in range(3)]
    assert max(sizes) - min(sizes) <= 1


def test_the_same_source_gives_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        made(tmp_path / name, random_shop(impressions=300), OPTIONS)
    files = [path.relative_to(tmp_path / "a") for path in sorted((tmp_path / "a").rglob("*.*")) if path.is_file()]
    assert len(files) > 10
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file


def test_pictures_that_cannot_be_used_count_as_missing(tmp_path):
    cut = picture(20)[:-30]
    source = tiny(items={"picture": ["a", "gone", "b"]}, pictures=[("a", picture(10)), ("b", cut)])
    dataset = made(tmp_path / "out", source)
    assert [key != 0 for key in dataset.items["picture_key"].to_pylist()] == [True, False, False]
    rejected = pq.read_table(dataset.images_folder / "rejected.parquet").to_pylist()
    assert [row["name"] for row in rejected] == ["b", "gone"]
    assert rejected[1]["reason"] == "the data source yields no such picture"
    assert dataset.num_pictures == 1


# --- wrong logs ---


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"impressions": {"label": [1, 0, 2, 1, -1, 1, 1, 0]}},
            r"`label` is neither 0 nor 1 in 2 rows \(row 2: 2, row 4: -1\)",
        ),
        ({"impressions": {"user": [1, None, 2, 1, 2, 1, None, 1]}}, r"`user` is null in 2 rows \(row 1, row 6\)"),
        ({"impressions": {"time": [None] * 8}}, r"`time` is null in 8 rows \(row 0, row 1, row 2, row 3, row 4\)"),
        (
            {"impressions": {"time": [2**33 - 1, 2**33, 0, 1, 2, -(2**33), 1_714_558_800_123, 0]}},
            r"^impressions: `time` is not in seconds since 1970 \(milliseconds or finer\?\) in 3 rows "
            r"\(row 1: 8589934592, the year 2242, row 5: -8589934592, the year 1697, "
            r"row 6: 1714558800123, the year 56302\)\n\n  Convert them to whole seconds",
        ),
        (
            {"impressions": {"item": [10, 11, 10, 99, 11, 99, 98, 12]}},
            r"2 items in 3 impressions are not among the items: 98, 99",
        ),
        ({"items": {"item": [10, 11, 10]}}, r"items: 1 come more than once: 10 \(2 times\)"),
        ({"pictures": [("a", picture(1)), ("a", picture(2))]}, r"pictures: 1 come more than once: a \(2 times\)"),
        ({"impressions": {"label": [1, 0, 1, 1, 0, 1, 0, 0]}}, "the test split has no positives in 2 rows"),
        ({"impressions": {"label": [1] * 8}}, "the train split has no negatives in 4 rows"),
        ({"impressions": {"time": [5, 6, 7, 8, 9, 2 * DAY, 2 * DAY, 1]}}, "the val split has no rows"),
        ({"impressions": {"time": [DAY, 0, 0, 0, 0, 0, 0, 0]}}, "the train split has no rows"),
        ({"impressions": {"item": list("abcdefgh")}}, "`item` is VARCHAR in impressions and BIGINT in items"),
        ({"impressions": {"weight": [1, 1, 1, 1, 1, -1, 1, 1]}}, "`weight` is not a finite number of at least 0 in 1"),
        ({"impressions": {"time": [datetime(2024, 1, 1)] * 8}}, r"`time` has a wrong type: timestamp\[us\]"),
        ({"impressions": {"place": [0.5] * 8}}, "`place` has a wrong type: double; ids are whole numbers or strings"),
        (
            {"columns": SourceColumns(item={"color": SourceColumn("id")})},
            "yields no column color\n\n  Did you mean `colour`",
        ),
        ({"columns": SourceColumns(item={"picture_key": SourceColumn("id")})}, "may not be called picture_key"),
        ({"columns": SourceColumns(context={"time": SourceColumn("id")})}, "may not be called time"),
        (
            {
                "columns": SourceColumns(
                    item={"colour": SourceColumn("id", "x")}, context={"time2": SourceColumn("id", "x")}
                ),
                "impressions": {"time2": [1] * 8},
            },
            "vocabulary `x`: columns of different types share it: `colour` VARCHAR, `time2` BIGINT",
        ),
    ],
)
def test_a_wrong_log_is_refused_with_counts_and_examples(tmp_path, changes, message):
    with pytest.raises(DataError, match=message):
        made(tmp_path / "out", tiny(**changes), PrepareOptions(lanes=2))
    assert not (tmp_path / "out" / "dataset.yaml").exists()


def test_users_that_are_not_among_the_users(tmp_path):
    source = tiny(users={"user": [1], "city": ["x"]}, columns=SourceColumns(user={"city": SourceColumn("id")}))
    with pytest.raises(DataError, match="1 users in 3 impressions are not among the users: 2"):
        made(tmp_path / "out", source)


def test_a_split_that_is_none(tmp_path):
    source = tiny(impressions={"split": ["train"] * 6 + ["tset", "val"]})
    with pytest.raises(DataError, match="`split` of 1 rows is none of train, val, test: tset"):
        made(tmp_path / "out", source, PrepareOptions(lanes=2, split=SplitOptions(by="column")))
    with pytest.raises(DataError, match="yields no column split"):
        made(tmp_path / "out2", tiny(), PrepareOptions(lanes=2, split=SplitOptions(by="column")))


def test_types_that_change_on_the_way(tmp_path):
    source = tiny()
    one = source.tables["impressions"].to_batches()
    two = tiny(impressions={"place": list(range(8))}).tables["impressions"].to_batches()
    source.impressions = lambda _: iter(one + two)
    with pytest.raises(DataError, match="types change at row 8: feature_place is int64, before it was string"):
        made(tmp_path / "out", source)


@pytest.mark.parametrize("option", [{"lanes": 0}, {"lanes": 257}, {"min_count": 0}, {"partitions": 0}])
def test_options_that_cannot_be(tmp_path, option):
    with pytest.raises(FieldError, match=next(iter(option))):
        made(tmp_path / "out", options=PrepareOptions(**option))
