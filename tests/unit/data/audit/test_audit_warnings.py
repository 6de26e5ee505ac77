"""Warnings: a healthy shop has none; each by a shop that deserves it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from damage import lanes, pages, shop
from little_shop import DAY, LittleShop, picture

from dicm_kit.data.audit import Audit, audit, text
from dicm_kit.data.audit.result import Refused
from dicm_kit.data.dataset import Dataset
from dicm_kit.data.options import HistoryOptions, NegativeOptions, PrepareOptions, SplitOptions
from dicm_kit.data.prepare import prepare

OPTIONS = PrepareOptions(lanes=2, partitions=2)


def made(folder: Path, source: LittleShop, options: PrepareOptions = OPTIONS) -> Audit:
    found = audit(prepare(source, options, folder, progress=False))
    assert found.problems == []
    return found


def warned(found: Audit) -> list[str]:
    assert all(warning.todo for warning in found.warnings)
    return [warning.what for warning in found.warnings]


def test_a_healthy_shop_has_none(tmp_path: Path) -> None:
    assert warned(made(tmp_path / "out", shop(pages()))) == []


SHOPS: dict[str, tuple[Any, PrepareOptions, str]] = {
    "rare": (
        lambda: shop([(u, i, t, int(u == 0 and label)) for u, i, t, label in pages(400, clicked=1)]),
        OPTIONS,
        "0.025% of train, 0.025% of val, 0.025% of test is positive: there is little to learn from",
    ),
    "often": (lambda: shop(pages(clicked=6)), OPTIONS, "60% of train, 60% of val, 60% of test is positive"),
    "pictured": (
        lambda: without_pictures(shop(pages()), 20),
        OPTIONS,
        "33.3% of training impressions have a picture",
    ),
    "history": (
        lambda: shop(pages()),
        replace(OPTIONS, history=HistoryOptions(max_age_days=0.5)),
        "0.0% of training impressions have a history",
    ),
    "repeated": (
        lambda: shop([*pages(), *[row for row in pages() if row[0] < 3]]),
        OPTIONS,
        "2.0% of impressions repeat a user, item and UTC day",
    ),
    "no_test": (lambda: shop(pages()), replace(OPTIONS, split=SplitOptions(test=0)), "there is no test split"),
    "small_test": (
        lambda: shop(pages(users=99)),
        OPTIONS,
        "test has 990 impressions: its metrics are mostly chance",
    ),
    "few_users": (
        lambda: shop(pages(users=99)),
        OPTIONS,
        "users with both labels in test: 99; GAUC is the mean of few",
    ),
    "unknown": (
        lambda: shop([(u + 1000 * (t > 3 * DAY and u < 60), i, t, label) for u, i, t, label in pages()]),
        OPTIONS,
        "39.3% of test impressions have no index for their user",
    ),
    "incomplete": (
        lambda: shop([row for row in pages() if row[2] < 3 * DAY + 60 * 60]),
        OPTIONS,
        "the last day, 2024-01-04, has 600 impressions; a usual one has 1,500",
    ),
    "gap": (
        lambda: shop([(u, i, t + DAY * (t >= DAY) + 2 * DAY * (t >= 2 * DAY), x) for u, i, t, x in pages(days=5)]),
        OPTIONS,
        "days without impressions: 3 (2024-01-02, 2024-01-04 to 2024-01-05)",
    ),
    "shared": (
        lambda: one_picture(shop(pages()), 21),
        OPTIONS,
        "one picture is that of 21 items (63.6%), as 10",
    ),
    "rejected": (
        lambda: broken_picture(shop(pages())),
        OPTIONS,
        "pictures that cannot be used: 1, beside 31 that are stored",
    ),
    "absent": (
        lambda: less_pictures(shop(pages()), 4),
        OPTIONS,
        "pictures that items name and that are not there: 4, beside 28 that are stored",
    ),
    "negatives_missing": (
        lambda: shop([row for row in pages() if row[3]]),
        replace(OPTIONS, negatives=NegativeOptions(per_positive=30)),
        "negatives that could not be drawn: 5,490; too few other items were alive on their day",
    ),
    "left_out": (
        lambda: shop([*pages(), *[row for row in pages() if row[0] < 3]]),
        replace(OPTIONS, drop_repeats=True),
        "rows of the log that were left out: 120 (2.0%)",
    ),
    "one_each": (
        lambda: shop([(u, i, t + i, label) for u, i, t, label in pages()]),
        OPTIONS,
        "every group has one impression: each repeats its user's columns and history",
    ),
}


OTHERS = {"rare": 2, "small_test": 1, "few_users": 1, "incomplete": 2}
"""How many other warnings a shop cannot but deserve."""


def without_pictures(source: LittleShop, count: int) -> LittleShop:
    items = source.tables["items"]
    names = [None] * (count + 3) + items["picture"].to_pylist()[count + 3 :]  # items 10, 11 and 12 are never shown
    source.tables["items"] = items.set_column(1, "picture", pa.array(names, pa.string()))
    return source


def one_picture(source: LittleShop, count: int) -> LittleShop:
    items = source.tables["items"]
    names = ["p10"] * count + items["picture"].to_pylist()[count:]
    source.tables["items"] = items.set_column(1, "picture", pa.array(names))
    return source


def less_pictures(source: LittleShop, count: int) -> LittleShop:
    del source._pictures[:count]
    return source


def broken_picture(source: LittleShop) -> LittleShop:
    source._pictures[0] = (source._pictures[0][0], picture(1)[:50])
    return source


@pytest.mark.parametrize("case", SHOPS)
def test_a_shop_that_deserves_it(case: str, tmp_path: Path) -> None:
    source, options, expected = SHOPS[case]
    found = warned(made(tmp_path / "out", source(), options))
    assert expected in found
    assert len(found) == 1 + OTHERS.get(case, 0), found


def test_a_lane_that_is_fuller_than_the_others(tmp_path: Path) -> None:
    made(tmp_path / "out", shop(pages()))
    one, other = lanes(tmp_path / "out", "train")
    tables = [pq.read_table(file, partitioning=None) for file in (one, other)]
    pq.write_table(pa.concat_tables(tables), one)
    pq.write_table(tables[1].slice(0, 0), other)
    found = audit(Dataset.open(tmp_path / "out"))
    assert found.problems == []
    assert warned(found) == ["the fullest lane has 2.0 times the mean: an epoch is that much longer"]


def test_pictures_that_are_rejected_are_named(tmp_path: Path) -> None:
    found = made(tmp_path / "out", broken_picture(shop(pages())))
    assert found.pictures is not None
    assert (found.pictures.rejected, found.pictures.stored) == (1, 31)
    assert found.pictures.refused == {"broken png: the file is cut": Refused(1, ("p10",))}
    lines = text(found).splitlines()
    place = lines.index(
        "no pictures to the model, listed in images/rejected.parquet: 0 that items name and that are not"
    )
    assert lines[place + 1] == "    there, 1 that cannot be used"
    assert lines[place + 2] == "  broken png: the file is cut (1): p10"


def test_a_few_photos_that_do_not_exist_are_told_and_no_reason_to_worry(tmp_path: Path) -> None:
    """3 of 32: below a tenth."""
    found = made(tmp_path / "out", less_pictures(shop(pages()), 3))
    assert warned(found) == []
    assert found.pictures is not None
    assert (found.pictures.absent, found.pictures.rejected) == (3, 0)
    assert "  the data source yields no such picture (3): p10, p12, p20\n" in text(found)
    assert "33 items: 29 with a picture, 4 without; 29 different pictures, 29 stored\n" in text(found)


def test_rejected_pictures_are_named_by_reason(tmp_path: Path) -> None:
    made(tmp_path / "out", broken_picture(shop(pages())))
    file = tmp_path / "out/images/rejected.parquet"
    reasons = ["cut", "empty", "cut", *["missing"] * 7]
    table = {"name": [f"p{number}" for number in range(10)], "key": [0] * 10, "reason": reasons}
    pq.write_table(pa.table(table), file)
    found = text(audit(Dataset.open(tmp_path / "out")))
    assert (
        "no pictures to the model, listed in images/rejected.parquet: 0 that items name and that are not\n"
        "    there, 10 that cannot be used\n"
        "  missing (7): p3, p4, p5, p6, p7 and 2 more\n"
        "  cut (2): p0, p2\n"
        "  empty (1): p1\n\n"
    ) in found
    pq.write_table(pa.table({"name": ["p"] * 7, "reason": [f"size {number}" for number in range(7)]}), file)
    assert "  size 4 (1): p\n  and 2 more reasons\n\n" in text(audit(Dataset.open(tmp_path / "out")))
