"""Negatives for a log of positives only."""

from collections import Counter

import numpy as np
import pyarrow.parquet as pq
import pytest
from little_shop import DAY, LittleShop

from dicm_kit.data.dataset import Dataset
from dicm_kit.data.negatives import Alive, Negatives
from dicm_kit.data.options import NegativeOptions, PrepareOptions, SplitOptions
from dicm_kit.data.prepare import prepare
from dicm_kit.errors import DataError, FieldError

Row = tuple[int, int, int, float]


def basket_shop(seed: int = 0, users: int = 60, items: int = 30, days: int = 4) -> LittleShop:
    """Positives only; item i is bought on days that do not leave i % 4 over, the small ones more often."""
    draw = np.random.default_rng(seed)
    user, item, time = [], [], []
    for day in range(days):
        alive = np.array([each for each in range(items) if each % 4 != day % 4])
        for each in range(users):
            bought = draw.choice(alive, 3, replace=False, p=(chance := 1.0 / (1 + alive)) / chance.sum())
            user += [each] * 3
            item += bought.tolist()
            time += [day * DAY] * 3
    order = np.arange(len(user))
    return LittleShop(
        impressions={"user": user, "item": item, "time": time, "order": order, "label": np.ones(len(user))},
        items={"item": np.arange(items), "picture": [None] * items},
        fingerprint=f"basket {seed}",
    )


def made(folder, shop: LittleShop | None = None, **options) -> Dataset:
    negatives = NegativeOptions(**({"per_positive": 2} | options))
    return prepare(
        shop or basket_shop(), PrepareOptions(lanes=2, partitions=2, negatives=negatives), folder, progress=False
    )


def rows(dataset: Dataset, *splits: str) -> list[Row]:
    """(user, item, day, label) of every impression, in groups."""
    found = []
    for split in splits:
        for lane in range(dataset.lanes):
            for file in dataset.lane_files(split, lane):
                for group in pq.read_table(file, partitioning=None).to_pylist():
                    entries = zip(group["item"], group["time"], group["label"], strict=True)
                    found += [(group["user"], item, time // DAY, label) for item, time, label in entries]
    return found


def test_each_positive_has_its_negatives_in_its_group(tmp_path):
    shop = basket_shop()
    dataset = made(tmp_path / "out", shop)
    bought = Counter(
        zip(*(shop.tables["impressions"][name].to_pylist() for name in ("user", "item", "time")), strict=True)
    )
    groups = 0
    for split in ("train", "val", "test"):
        for lane in range(2):
            for group in pq.read_table(dataset.lane_files(split, lane)[0], partitioning=None).to_pylist():
                groups += 1
                assert group["label"] == [1.0, 0.0, 0.0], "an event is one purchase, and what was drawn for it"
                assert len(set(group["item"])) == 3
                assert set(group["time"]) == {group["time"][0]}
                day = group["time"][0] // DAY
                assert bought[group["user"], group["item"][0], day * DAY] == 1
                for item in group["item"][1:]:
                    assert (group["user"], item, day * DAY) not in bought
                    assert item % 4 != day % 4, "alive that day"
    assert groups == 720
    assert dataset.splits["test"].impressions == 60 * 3 * 3
    assert dataset.splits["test"].positives == 60 * 3


def test_a_history_is_the_earlier_part_of_the_basket_too(tmp_path):
    dataset = made(tmp_path / "out")
    lengths = Counter()
    for lane in range(2):
        table = pq.read_table(dataset.lane_files("train", lane)[0], partitioning=None)
        lengths.update(len(each) for each in table["history_item"].to_pylist())
    assert lengths == dict.fromkeys(range(6), 60), "two days of three purchases each"


def test_popularity_and_its_power(tmp_path):
    """Against the law: chance of an alive item that the user did not buy is positives ** power."""
    shares = {}
    for by, power in (("popularity", 1.0), ("popularity", 0.5), ("uniform", 0.75)):
        dataset = made(tmp_path / f"{by}{power}", per_positive=8, by=by, power=power)
        drawn = Counter(item for _, item, _, label in rows(dataset, "train", "val", "test") if not label)
        shares[by, power] = sum(drawn[item] for item in range(4)) / sum(drawn.values())
    assert shares["popularity", 1.0] > 1.15 * shares["popularity", 0.5] > 1.15**2 * shares["uniform", 0.75]


def test_chances_are_those_asked_for():
    alive = Alive(np.array([0]), np.array([0, 4]), np.array([7, 8, 9, 3]), np.array([0.0, 1, 3, 6, 10]))
    from dicm_kit.data.grouping import LogRun

    count = 40_000
    run = LogRun(
        user=np.arange(count),
        time=np.arange(count),
        item=np.full(count, 50),
        label=np.ones(count, np.float32),
        part=np.zeros(count, np.int16),
        values={"weight": np.full(count, 3, np.float32)},
    )
    added = Negatives(NegativeOptions(per_positive=1), alive, {0: 5}).added_to(run)
    drawn = added.item[1::2]
    for item, share in ((7, 0.1), (8, 0.2), (9, 0.3), (3, 0.4)):
        assert abs(np.mean(drawn == item) - share) < 4 * np.sqrt(share * (1 - share) / count)
    assert added.values["weight"][:4].tolist() == [3, 1, 3, 1], "a negative weighs 1"


def test_the_seed_draws_others_for_training_only(tmp_path):
    one, other = made(tmp_path / "a"), made(tmp_path / "b", seed=1)
    for split, same in (("train", False), ("val", True), ("test", True)):
        assert (Counter(rows(one, split)) == Counter(rows(other, split))) == same, split


def test_draws_do_not_hang_on_the_order_of_the_rows_or_on_how_the_log_is_cut(tmp_path):
    shop = basket_shop()
    whole = made(tmp_path / "whole", shop)
    cut = made(tmp_path / "cut", shop.cut(1, 2, 4))
    assert Counter(rows(whole, "train", "val", "test")) == Counter(rows(cut, "train", "val", "test"))


def test_too_few_alive_items_are_counted(tmp_path):
    shop = LittleShop(
        impressions={
            "user": [1, 1, 2, 1, 2, 1, 2],
            "item": [0, 1, 2, 0, 1, 0, 1],
            "time": [0, 0, 0, DAY, DAY, 2 * DAY, 2 * DAY],
            "label": [1] * 7,
        },
        items={"item": [0, 1, 2], "picture": [None] * 3},
    )
    dataset = made(tmp_path / "out", shop)
    # user 1 can only get item 2 on day 0, user 2 items 0 and 1; later each has one other item
    assert dataset.made["counts"]["negatives_missing"] == 2 + 2 + 2
    assert dataset.splits["train"].impressions == 3 + 2 + 2


def test_alive_always_takes_no_more_days(tmp_path):
    shop = basket_shop()
    made(tmp_path / "out", shop.cut(1, 3), alive="always")
    with pytest.raises(DataError, match=r"grown .* by day 3, and with `negatives.alive: always` nothing can be added"):
        made(tmp_path / "out", shop.cut(1, 3, 4), alive="always")


def test_a_log_with_negatives_gets_none(tmp_path):
    shop = basket_shop()
    label = np.ones(720)
    label[3] = 0
    shop.tables["impressions"] = shop.tables["impressions"].set_column(4, "label", [label])
    with pytest.raises(
        DataError, match="1 rows are no positives, and `negatives` are for a log that has positives only"
    ):
        made(tmp_path / "out", shop)


def test_a_log_of_positives_needs_them(tmp_path):
    with pytest.raises(DataError, match=r"no negatives in 360 rows\n\n.*needs `negatives`: they are drawn then"):
        prepare(basket_shop(), PrepareOptions(lanes=2), tmp_path / "out", progress=False)


@pytest.mark.parametrize(
    ("key", "value"), [("per_positive", 0), ("power", -1.0), ("power", float("nan")), ("seed", -1)]
)
def test_options_that_cannot_be(tmp_path, key, value):
    with pytest.raises(FieldError, match=f"negatives.{key}"):
        made(tmp_path / "out", **{key: value})
    with pytest.raises(FieldError, match="whole number of days"):
        prepare(basket_shop(), PrepareOptions(split=SplitOptions(test=1.5)), tmp_path / "out")
