"""What `hm` promises; run it with `pytest plugins/dicm_hm/tests`."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from dicm_kit import DicmError, FieldError, cli
from dicm_kit.data.dataset import Dataset
from dicm_kit.data.sources import log_csv
from dicm_kit.testing import DataSourceContract

sys.path.insert(0, str(Path(__file__).parents[1]))
from dicm_hm import Hm, HmConfig, build, dicm_data_sources

RECIPE = Path(__file__).parents[1] / "recipe.yaml"
FIXTURE = Path(__file__).parent / "fixture"
DAY = 86_400
LAST = 1_600_732_800  # 2020-09-22, the last day of the fixture's ten


class TestHm(DataSourceContract):
    component = dicm_data_sources()[0]
    configs = ({"root": str(FIXTURE), "last_days": 7, "customers": 0.5},)


def rows(stream: Any) -> list[dict[str, Any]]:
    return pa.Table.from_batches(stream).to_pylist()


def source(**keys: Any) -> Hm:
    return build(HmConfig(root=str(FIXTURE), **keys))


def log(made: Hm) -> list[dict[str, Any]]:
    return rows(made.impressions("transactions_train.csv"))


def test_every_purchase_is_a_click_in_the_order_of_the_file() -> None:
    made, lines = log(source()), (FIXTURE / "transactions_train.csv").read_text().splitlines()[1:]
    assert len(made) == len(lines) == 179
    for number, (row, line) in enumerate(zip(made, lines, strict=True)):
        day, customer, article, _, channel = line.split(",")
        time = LAST - (22 - int(day[-2:])) * DAY
        assert row == {
            "user": customer, "item": article, "time": time, "label": 1.0, "sales_channel_id": channel, "order": number,
        }  # fmt: skip
    assert all(len(row["item"]) == 10 and row["item"][0] == "0" for row in made)  # zeros in front are there
    assert "order" not in log(source(basket_order=False))[0]


def test_last_days_and_a_share_of_the_customers(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = log(source())
    assert log(source(last_days=3)) == [row for row in whole if row["time"] > LAST - 3 * DAY]
    assert log(source(last_days=100)) == whole
    half = source(customers=0.5)
    kept = {row["user"] for row in rows(half.users())}
    assert 0 < len(kept) < 14
    assert log(half) == [row for row in whole if row["user"] in kept]
    assert kept < {row["user"] for row in rows(source(customers=0.8).users())}  # a larger sample holds the smaller
    monkeypatch.setattr(log_csv, "_BLOCK", 1000)  # in many blocks it is the same
    assert len(list(source(last_days=3).impressions("transactions_train.csv"))) > 10
    assert log(source(last_days=3, customers=0.5)) == [row for row in log(half) if row["time"] > LAST - 3 * DAY]
    different = {source(**keys).fingerprint for keys in ({}, {"last_days": 3}, {"customers": 0.5}, {"images": None})}
    assert len(different) == 4


def test_articles_and_customers() -> None:
    made = source()
    assert len(made.columns.item) == 23  # all but the id and the description
    articles = {row["item"]: row for row in rows(made.items())}
    assert len(articles) == 20
    first = articles["0108000001"]
    assert (first["picture"], first["product_code"], first["colour_group_code"]) == ("0108000001", "0108000", "09")
    assert {row["picture"] for row in rows(source(images=None).items())} == {None}
    customers = rows(made.users())
    assert len(customers) == 14
    assert [row["age"] for row in customers[:3]] == [20.0, 23.0, None]
    assert (customers[0]["FN"], customers[1]["FN"], customers[6]["club_member_status"]) == ("1.0", None, None)


def test_photos_lie_in_folders_by_the_first_three_digits() -> None:
    found = dict(source().pictures(()))
    assert len(found) == 18
    assert found["0108000001"] == (FIXTURE / "images/010/0108000001.jpg").read_bytes()
    assert list(source(images=None).pictures(())) == []


def test_a_run_with_photos_and_drawn_negatives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data = {"root": FIXTURE, "lanes": 2, "partitions": 2, "min_count": 1, "split.test": 2, "split.validation": 2}
    keys = {f"data.{key}": value for key, value in data.items()} | {"batch_size": 256, "trainer.accelerator": "cpu"}
    backbone = {"model": "resnet10t", "weights": "none", "layer": "layer1", "image_size": 16}
    keys |= {f"images.backbone.{key}": value for key, value in backbone.items()}
    assert cli.main(["run", str(RECIPE), *(f"{key}={value}" for key, value in keys.items())]) == 0
    assert "test" in json.loads((tmp_path / "runs/hm/test.json").read_text())
    made = Dataset.open(tmp_path / "data/hm")
    assert sum(split.positives for split in made.splits.values()) == 178  # one is bought twice: `drop_repeats`
    assert sum(split.impressions for split in made.splits.values()) > 4 * 178
    assert made.num_pictures == 18


BROKEN = {
    "no file": (
        "customers.csv",
        "",
        None,
        r"there is no customers.csv in .*\n\n  The folder should hold:\n    transac",
    ),
    "header": ("articles.csv", "section_no,", "", r"articles.csv:1: the header lacks `section_no`; nothing is in"),
    "another header": ("transactions_train.csv", "t_dat", "date", "lacks `t_dat`; instead there is `date`, `price`"),
    "no day": ("transactions_train.csv", "2020-09-13,11", "13.9.2020,11", "train.csv:2: `t_dat` is no date like 2026-"),
    "no customer": (
        "customers.csv",
        "\n" + "11ae",
        "\n,",
        "customers.csv:6: a broken line: 8 values, the header has 7",
    ),
    "no article": (
        "transactions_train.csv",
        ",0108000001,",
        ",,",
        r"train.csv: `article_id` has no value in \d+ rows \(li",
    ),
    "lost zeros": (
        "transactions_train.csv",
        ",0108",
        ",108",
        r"not of 10 digits in \d+ rows \(line 2, .*\n\n  Zeros in fr",
    ),
    "lost zeros of articles": (
        "articles.csv",
        "\n0108",
        "\n108",
        r"articles.csv: `article_id` is not of 10 digits in 14",
    ),
    "age": ("customers.csv", ",29,", ",young,", r"customers.csv:5: `age` is no number: 'young'"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_bad_input_is_an_error_that_says_where(case: str, tmp_path: Path) -> None:
    file, old, new, message = BROKEN[case]
    shutil.copytree(FIXTURE, tmp_path / "hm")
    path = tmp_path / "hm" / file
    if new is None:
        path.unlink()
    else:
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))
    with pytest.raises(DicmError, match=message):
        read_all(tmp_path / "hm")


def read_all(root: Path) -> None:
    made = build(HmConfig(root=str(root)))
    for stream in (made.impressions("transactions_train.csv"), made.items(), made.users()):
        rows(stream)


def test_values_and_folders_that_cannot_be_are_refused() -> None:
    for keys, message in (
        ({"customers": 0.0}, "`customers`: is a share"),
        ({"last_days": 0}, "`last_days`: must be at least 1"),
        ({"images": "photos"}, "`images`: there is no folder photos"),
    ):
        with pytest.raises(FieldError, match=message):
            source(**keys)
