"""Values that training has not had for a number of days: no index, whatever way the days came in."""

from collections import Counter
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from little_shop import DAY, LittleShop, random_shop
from test_adding_days import contents, files

from dicm_kit.data.audit import audit, text
from dicm_kit.data.collate import ColumnsUsed
from dicm_kit.data.dataset import Dataset, Split
from dicm_kit.data.description import Asked
from dicm_kit.data.options import HistoryOptions, NegativeOptions, PrepareOptions, SplitOptions
from dicm_kit.data.prepare import prepare
from dicm_kit.data.reader import read_batches
from dicm_kit.errors import DataError, FieldError
from dicm_kit.interfaces import SourceColumn, SourceColumns

OPTIONS = PrepareOptions(lanes=2, partitions=2, history=HistoryOptions(max_length=4))


def made(folder: Path, source: LittleShop, options: PrepareOptions) -> Dataset:
    return prepare(source, options, folder, progress=False)


def vocabulary(dataset: Dataset, name: str) -> dict[Any, tuple[int, int, int | None]]:
    """Returns value -> index, count, last day since 1970."""
    table = pq.read_table(dataset.vocab_file(name))
    assert table.slice(0, 1).to_pylist() == [{"value": None, "index": 0, "count": 0, "last_day": None}]
    return {
        row["value"]: (row["index"], row["count"], row["last_day"] and (row["last_day"] - date(1970, 1, 1)).days)
        for row in table.slice(1).to_pylist()
    }


def vocabularies(dataset: Dataset) -> list[str]:
    sides = (dataset.user, dataset.item, dataset.context)
    return sorted({info.vocab for side in sides for info in side.values() if info.vocab})


def known(dataset: Dataset, name: str) -> set[Any]:
    return {value for value, (index, *_) in vocabulary(dataset, name).items() if index}


def values_of_rows(shop: LittleShop, dataset: Dataset) -> list[tuple[int, dict[str, list[Any]]]]:
    """Returns the day of each row of the log, and its values in each vocabulary, in plain Python."""
    items = {row["item"]: row for row in shop.tables["items"].to_pylist()}
    users = {row["user"]: row for row in shop.tables["users"].to_pylist()}
    keys = dict(zip(dataset.items["item"].to_pylist(), dataset.items["picture_key"].to_pylist(), strict=True))
    found = []
    for row in shop.tables["impressions"].to_pylist():
        item, user = items[row["item"]], users[row["user"]]
        values = {
            "user_id": [row["user"]],
            "item_id": [row["item"]],
            "picture": [keys.get(row["item"]) or None],
            "city": [user["city"]],
            "brand": [item["brand"]],
            "tags": [*item["tags"], *user["likes"]],
            "hour": [row["hour"]],
            "queries": row["queries"],
        }
        found.append((row["time"] // DAY, values))
    return found


@pytest.mark.parametrize(("seed", "forget", "least"), [(0, 1, 1), (1, 2, 2), (2, 3, 1)])
def test_days_one_by_one_or_all_at_once_and_what_the_log_says(
    tmp_path: Path, seed: int, forget: int, least: int
) -> None:
    shop = random_shop(seed, impressions=280, users=50, items=60, days=9, strings=bool(seed % 2))
    options = replace(OPTIONS, min_count=least, forget_after_days=forget)
    were_gone: dict[str, set[Any]] = {}
    back = 0
    for ends in ((6,), (6, 7), (6, 7, 9)):
        dataset = made(tmp_path / "grown", shop.cut(*ends), options)
        rows = values_of_rows(shop, dataset)
        last = max(day for day, _ in rows if day < ends[-1])
        train = sorted((row for row in rows if row[0] <= last - 2), key=lambda row: row[0])
        since = train[-1][0] - forget + 1
        gone: dict[str, set[Any]] = {}
        for name in vocabularies(dataset):
            counts = Counter(value for _, values in train for value in values[name])
            days_of = {value: day for day, values in train for value in values[name]}
            for value, (index, count, last_day) in vocabulary(dataset, name).items():
                assert (count, last_day) == (counts[value], days_of.get(value))
                assert (index > 0) == (count >= least and days_of[value] >= since)
            gone[name] = {value for value in days_of if counts[value] >= least and days_of[value] < since} - {None}
            back += len(were_gone.get(name, set()) & known(dataset, name))
        were_gone = gone
    assert sum(map(len, gone.values())) > 5
    assert back > 5, "some come back"
    whole = made(tmp_path / "whole", shop.cut(6, 7, 9), options)
    assert contents(dataset) == contents(whole)
    assert dataset.items.equals(whole.items)
    assert (dataset.user, dataset.item, dataset.context) == (whole.user, whole.item, whole.context)
    assert all(vocabulary(dataset, name) == vocabulary(whole, name) for name in vocabularies(whole))
    found = audit(dataset)
    assert found.problems == []
    assert found.forgotten is not None
    assert {name: count for name, (count, _) in found.forgotten.of_vocab.items()} == {
        name: len(values) for name, values in gone.items()
    }


# --- by hand ---

DAYS = {0: [(1, 10), (2, 11)], 1: [(1, 10), (1, 11)], 2: [(1, 10)], 3: [(1, 10), (1, 11)], 4: [(1, 10)], 5: [(1, 10)]}
"""(user, item) of each day: user 2 is only there on day 0, item 11 not on day 2."""


def shop(days: dict[int, list[tuple[int, int]]] = DAYS, **changes: Any) -> LittleShop:
    """Returns a shop in which every row is there twice, clicked and then not clicked."""
    rows = [(day, user, item, label) for day, pairs in days.items() for user, item in pairs for label in (1, 0)]
    given: dict[str, Any] = {
        "impressions": {
            "user": [user for _, user, _, _ in rows],
            "item": [item for _, _, item, _ in rows],
            "time": [day * DAY + 100 - label for day, _, _, label in rows],
            "label": [label for *_, label in rows],
        },
        "items": {"item": [10, 11, 12], "picture": [None] * 3, "brand": ["both", "both", "never"]},
        "columns": SourceColumns(item={"brand": SourceColumn("id")}),
    }
    return LittleShop(**given | changes)


ONE_DAY = PrepareOptions(lanes=1, partitions=1, split=SplitOptions(test=1, validation=0), forget_after_days=1)


def codes(dataset: Dataset, name: str) -> list[Any]:
    return pq.read_table(dataset.vocab_file(name))["value"].to_pylist()


def test_an_id_is_forgotten_and_comes_back_and_its_code_stays(tmp_path: Path) -> None:
    dataset = made(tmp_path / "out", shop().cut(3), ONE_DAY)
    assert vocabulary(dataset, "item_id") == {10: (1, 4, 1), 11: (2, 4, 1), 12: (0, 0, None)}
    assert vocabulary(dataset, "user_id") == {1: (1, 6, 1), 2: (0, 2, 0)}
    values, written = codes(dataset, "item_id"), files(tmp_path / "out")
    dataset = made(tmp_path / "out", shop().cut(3, 4), ONE_DAY)
    assert vocabulary(dataset, "item_id") == {10: (1, 6, 2), 11: (0, 4, 1), 12: (0, 0, None)}, "its last day is kept"
    assert dataset.item["item_id"].num_ids == 2
    assert dataset.items["item_id"].to_pylist() == [1, 0, 0]
    assert dataset.items["train_count"].to_pylist() == [6, 4, 0], "it was in training all the same"
    assert vocabulary(dataset, "brand") == {"both": (1, 10, 2), "never": (0, 0, None)}, "the other item has it"
    dataset = made(tmp_path / "out", shop().cut(3, 4, 5), ONE_DAY)
    assert vocabulary(dataset, "item_id") == {10: (1, 8, 3), 11: (2, 6, 3), 12: (0, 0, None)}, "it is back"
    assert codes(dataset, "item_id") == values
    assert {name: files(tmp_path / "out")[name] for name in written} == written, "no sample is written again"


def indices(dataset: Dataset, split: Split) -> tuple[set[int], set[int], set[int]]:
    """Returns the indices of users, targets and clicked items that a model gets."""
    used = ColumnsUsed(user=("user_id",), target=("item_id",), history=("item_id",))
    user, target, history = set[int](), set[int](), set[int]()
    for batch in read_batches(dataset, split, columns=used, batch_size=4, max_history=8):
        user |= set(batch.user["user_id"].tolist())
        target |= set(batch.target["item_id"].tolist())
        history |= set(batch.history["item_id"][batch.mask_GL].tolist())
    return user, target, history


def test_a_model_gets_the_unknown_id_in_targets_and_histories_alike(tmp_path: Path) -> None:
    dataset = made(tmp_path / "out", shop().cut(3, 4), ONE_DAY)
    assert indices(dataset, "train") == ({0, 1}, {0, 1}, {0, 1}), "user 2, item 11"
    assert indices(dataset, "test") == ({1}, {0, 1}, {0, 1}), "that histories have item 11 keeps it no index"
    dataset = made(tmp_path / "out", shop().cut(3, 4, 5), ONE_DAY)
    assert indices(dataset, "test") == ({1}, {1}, {1, 2})


def test_negatives_that_were_drawn_do_not_count_as_seen(tmp_path: Path) -> None:
    source = shop({day: [*pairs, *[(user, 12) for user, _ in pairs[:1]]] for day, pairs in DAYS.items()})
    positive = source.tables["impressions"]["label"].to_numpy() == 1
    source.tables["impressions"] = source.tables["impressions"].filter(positive)
    options = replace(ONE_DAY, negatives=NegativeOptions(per_positive=1))
    dataset = made(tmp_path / "out", source.cut(4), options)
    assert vocabulary(dataset, "item_id") == {10: (1, 3, 2), 11: (0, 2, 1), 12: (2, 3, 2)}
    assert audit(dataset).problems == []


def test_days_without_rows_are_days_and_the_last_is_one_that_has_rows(tmp_path: Path) -> None:
    gap = {0: [(1, 10)], 1: [(1, 11)], 3: [(1, 10)], 7: [(1, 10)]}
    for days, wanted in ((2, {10}), (3, {10, 11})):
        dataset = made(tmp_path / f"{days}", shop(gap), replace(ONE_DAY, forget_after_days=days))
        assert known(dataset, "item_id") == wanted


# --- folders and options ---


def test_without_the_option_folders_are_as_they_were_before_there_was_one(tmp_path: Path) -> None:
    asked = Asked.of(random_shop(), PrepareOptions(), {})
    assert (asked.fingerprint, asked.how) == ("11c4769ec4352157", "655fbfb272a8c99c"), "those of the version before it"
    options = replace(ONE_DAY, forget_after_days=None)
    dataset = made(tmp_path / "out", shop().cut(3), options)
    tables = [*(tmp_path / "out" / "vocab").glob("*.parquet"), *(tmp_path / "out" / "state").rglob("*.parquet")]
    assert not any("last_day" in pq.read_schema(file).names for file in tables)
    assert "forgotten" not in text(audit(dataset))
    file = tmp_path / "out" / "dataset.yaml"
    content = yaml.safe_load(file.read_text())
    del content["made"]["forget_after_days"]
    file.write_text(yaml.safe_dump(content))
    again = shop().cut(3)
    made(tmp_path / "out", again, options)
    assert again.asked == [], "nothing is read again"
    grown = made(tmp_path / "out", shop().cut(3, 4), options)
    assert contents(grown) == contents(made(tmp_path / "whole", shop().cut(3, 4), options))


@pytest.mark.parametrize(("before", "now"), [(None, 2), (2, None), (2, 3)])
def test_another_number_of_days_needs_another_folder(tmp_path: Path, before: int | None, now: int | None) -> None:
    made(tmp_path / "out", shop(), replace(ONE_DAY, forget_after_days=before))
    with pytest.raises(DataError, match=rf"with other options \(forget_after_days was {before}, now {now}\)"):
        made(tmp_path / "out", shop(), replace(ONE_DAY, forget_after_days=now))


@pytest.mark.parametrize("by", ["user_order", "column"])
def test_it_needs_a_split_by_time(tmp_path: Path, by: Any) -> None:
    options = replace(ONE_DAY, split=SplitOptions(by=by))
    with pytest.raises(FieldError, match=rf"`split\.by: time`: with `{by}` training has no last day"):
        made(tmp_path / "out", shop(), options)
    assert not (tmp_path / "out").exists()


def test_it_is_at_least_one_day(tmp_path: Path) -> None:
    with pytest.raises(FieldError, match="is 0, and must be at least 1"):
        made(tmp_path / "out", shop(), replace(ONE_DAY, forget_after_days=0))


def test_the_audit_says_how_many_are_forgotten(tmp_path: Path) -> None:
    dataset = made(tmp_path / "out", shop().cut(3, 4), ONE_DAY)
    lines = text(audit(dataset)).splitlines()
    assert "forgotten, not in the last day of training: 1 of 2 item_id, 1 of 2 user_id" in lines
    assert any(line.split() == ["unknown", "user", "20.0", "%", "-", "0.0", "%"] for line in lines), "training, too"
    dataset = made(tmp_path / "two", shop().cut(3, 4), replace(ONE_DAY, forget_after_days=3))
    assert "forgotten, not in the last 3 days of training: none" in text(audit(dataset))


def test_the_audit_of_a_last_day_that_is_no_date(tmp_path: Path) -> None:
    dataset = made(tmp_path / "out", shop(), ONE_DAY)
    table = pq.read_table(dataset.vocab_file("item_id"))
    at = table.column_names.index("last_day")
    pq.write_table(table.set_column(at, "last_day", table["index"]), dataset.vocab_file("item_id"))
    (problem,) = audit(dataset).problems
    assert (problem.where, problem.what) == ("vocab/item_id.parquet", "`last_day` is int64")
