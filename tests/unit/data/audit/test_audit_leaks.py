"""Leakage: a folder that leaks in one way, the check that says so, and folders that only look as if they did."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from damage import BY_HAND, MONDAY, change_groups, change_rows, change_yaml, pages, shop
from little_shop import DAY, LittleShop

from dicm_kit.data.audit import Audit, audit
from dicm_kit.data.audit.result import Check
from dicm_kit.data.dataset import Dataset
from dicm_kit.data.options import PrepareOptions, SplitOptions
from dicm_kit.data.prepare import prepare

AGES, OWN, ACROSS, ROWS, COUNTS = (
    "histories end before their group",
    "no history holds its own label or a later one",
    "no training history holds a label of val or test",
    "no row of test is in training",
    "counts are of training only",
)
BY_TIME, BY_USER = "splits follow time", "splits follow each user's order"
NOON = DAY // 2


def looked_at(folder: Path) -> Audit:
    """Audits a folder after its optional counts are taken out: damage changes some."""

    def plain(content: dict[str, Any]) -> None:
        for counts in [*content["splits"].values(), *content["parts"].values()]:
            for name in ("with_picture", "with_history", "unseen_items"):
                counts.pop(name, None)

    change_yaml(folder, plain)
    return audit(Dataset.open(folder))


def answer(found: Audit, name: str) -> Check:
    (check,) = [check for check in found.checks if check.name == name]
    failed = name in [problem.where for problem in found.problems]
    warned = any(warning.what.startswith(f"{name}: ") for warning in found.warnings)
    assert (failed, warned) == (check.outcome == "fail", check.outcome == "look")
    return check


def give_history(folder: Path, split: str, user: int, second: int, history: list[tuple[int, float]]) -> None:
    """Gives a group another history of (item, age in seconds)."""
    rows = {item: row for row, item in enumerate(pq.read_table(folder / "items.parquet")["item"].to_pylist())}
    changed = []

    def change(group: dict[str, Any]) -> None:
        if group["user"] == user and group["time"][0] == MONDAY + second:
            changed.append(group)
            group["history_item"] = [rows[item] for item, _ in history]
            group["history_age"] = [age / DAY for _, age in history]

    change_groups(folder, split, change)
    assert len(changed) == 1


# --- ages ---


def test_a_history_after_its_group(copied: Callable[[str], Path]) -> None:
    folder = copied("by hand")
    give_history(folder, "train", 1, 300, [(10, -60)])
    check = answer(looked_at(folder), AGES)
    assert (check.outcome, check.count) == ("fail", 1)
    assert check.examples == ("user 1: item 10, 60 s after the group",)


def test_a_history_that_does_not_begin_with_the_newest(copied: Callable[[str], Path]) -> None:
    folder = copied("by hand")
    give_history(folder, "test", 1, 2 * DAY + 10, [(10, 2 * DAY - 290), (10, DAY - 40), (10, 2 * DAY - 90)])
    check = answer(looked_at(folder), AGES)
    assert (check.outcome, check.count) == ("fail", 1)


def pages_in_pieces(users: int, seconds: int = 60) -> LittleShop:
    """Pages of ten, of which these users' have each impression's place in `order`."""
    rows = pages(seconds=seconds)
    return shop(rows, impressions={"order": [place % 10 * (user < users) for place, (user, *_) in enumerate(rows)]})


def test_clicks_of_a_page_in_its_own_histories(tmp_path: Path) -> None:
    prepare(pages_in_pieces(150), PrepareOptions(lanes=2, partitions=2), tmp_path / "out", progress=False)
    check = answer(looked_at(tmp_path / "out"), AGES)
    assert (check.outcome, check.count) == ("look", 14_400)
    assert check.said.endswith(
        "14,400 are of the same second, and only the log's order says which came first: 92.3% of the 5,850 impressions "
        "with a history have a click of their own second in it, and 30.0% of all are clicked"
    )
    assert "The impressions of a page must have the same `time` and `order`" in check.todo


@pytest.mark.parametrize(("users", "outcome"), [(0, "ok"), (3, "ok"), (4, "look"), (150, "look")])
def test_a_tenth_as_many_as_clicks_is_odd(users: int, outcome: str, tmp_path: Path) -> None:
    """4 users: 3.2 % of the histories, 3: 2.4 %, and 30 % are clicked."""
    prepare(pages_in_pieces(users), PrepareOptions(lanes=2, partitions=2), tmp_path / "out", progress=False)
    assert answer(looked_at(tmp_path / "out"), AGES).outcome == outcome


def test_a_day_has_many_pages(tmp_path: Path) -> None:
    """Times that are days: that a click is of the same day is no sign of anything."""
    prepare(pages_in_pieces(150, seconds=0), PrepareOptions(lanes=2, partitions=2), tmp_path / "out", progress=False)
    check = answer(looked_at(tmp_path / "out"), AGES)
    assert check.outcome == "ok"
    assert "14,400 are of the same day" in check.said


def test_histories_whose_ages_nobody_knows(copied: Callable[[str], Path]) -> None:
    folder = copied("by hand")
    for split in ("train", "val", "test"):
        change_groups(folder, split, lambda row: row.update(history_age=[0.0] * len(row["history_age"])))
    found = looked_at(folder)
    assert answer(found, AGES).outcome == "unknown"
    assert [check.outcome for check in found.checks[1:]] == ["ok"] * 5


# --- splits ---


def test_training_that_goes_on_while_validation_has_begun(copied: Callable[[str], Path]) -> None:
    folder = copied("by hand")
    change_groups(
        folder, "train", lambda row: row.update(time=[t + DAY for t in row["time"]]) if row["user"] == 2 else 0
    )
    check = answer(looked_at(folder), BY_TIME)
    assert (check.outcome, check.count) == ("fail", 1)
    assert check.examples == (f"user 2 at {MONDAY + DAY + 200}",)


def by_user_order(folder: Path) -> Path:
    """Baskets of one midnight: three purchases in the order of the log, the last one in test, one before in val.

    User 3 buys item 13 twice, in training and in validation; user 4 comes every day.
    """
    bought = {1: [10, 12, 13], 2: [12, 13, 14], 3: [13, 13, 14], 4: [12, 14, 10]}
    rows, order = [], []
    for user, items in bought.items():
        for place, item in enumerate(items):
            midnight = DAY * place * (user == 4)
            rows += [(user, item, midnight, 1), (user, 11, midnight, 0)]
            order += [place, place]
    options = PrepareOptions(lanes=2, partitions=2, split=SplitOptions("user_order", 1, 1))
    prepare(shop(rows, impressions={"order": order}), options, folder, progress=False)
    return folder


def test_baskets_of_one_moment_are_told_apart_by_their_splits(tmp_path: Path) -> None:
    found = looked_at(by_user_order(tmp_path / "out"))
    assert {check.name: check.outcome for check in found.checks} == {
        AGES: "ok",
        BY_USER: "ok",
        OWN: "ok",
        ACROSS: "ok",
        ROWS: "look",  # item 11 is shown all the time
        COUNTS: "ok",
    }
    assert answer(found, ROWS).said.startswith("3 (37.5% of test) have a user, item and day that training has")
    assert "3 have the same time in two, and only the log's order says" in answer(found, BY_USER).said
    assert "12 entries; 9 are of the same day, and only the log's order says" in answer(found, AGES).said


def test_a_test_purchase_in_a_training_history_of_the_same_moment(tmp_path: Path) -> None:
    folder = by_user_order(tmp_path / "out")
    give_history(folder, "train", 2, 0, [(14, 0)])
    found = looked_at(folder)
    check = answer(found, ACROSS)
    assert (check.outcome, check.count) == ("fail", 1)
    assert check.examples == (f"user 2 at {MONDAY}: item 14, clicked only later",)
    assert answer(found, OWN).outcome == "fail"


def test_a_user_that_goes_back(tmp_path: Path) -> None:
    folder = by_user_order(tmp_path / "out")
    change_groups(folder, "test", lambda row: row.update(time=[t - 60 for t in row["time"]]) if row["user"] == 3 else 0)
    check = answer(looked_at(folder), BY_USER)
    assert (check.outcome, check.count, check.examples) == ("fail", 1, ("user 3",))


def by_column(folder: Path) -> Path:
    """The first day is test, the second training."""
    rows = [(user, item, day * DAY + item, item % 2) for user in (1, 2) for day in (0, 1) for item in (10, 13)]
    rows = [(user, 15 if time > DAY and label else item, time, label) for user, item, time, label in rows]
    split = ["test" if time < DAY else "train" for *_, time, _ in rows]
    options = PrepareOptions(lanes=2, partitions=2, split=SplitOptions("column", validation=0))
    prepare(shop(rows, impressions={"split": split}), options, folder, progress=False)
    return folder


def test_splits_that_follow_no_order_are_for_a_person_to_judge(tmp_path: Path) -> None:
    found = looked_at(by_column(tmp_path / "out"))
    assert found.problems == []
    assert answer(found, BY_USER).outcome == "look"
    assert answer(found, OWN).outcome == "ok", "the click on day 1 had happened"
    check = answer(found, ACROSS)
    assert (check.outcome, check.count) == ("look", 4)
    assert check.said == "4 entries do: the splits follow no order, so they may have happened by then"


# --- histories ---


def test_a_history_that_holds_the_label_of_its_own_group(copied: Callable[[str], Path]) -> None:
    folder = copied("by hand")
    give_history(folder, "train", 2, 200, [(10, 0)])
    found = looked_at(folder)
    check = answer(found, OWN)
    assert (check.outcome, check.count) == ("fail", 1)
    assert check.examples == (f"user 2 at {MONDAY + 200}: item 10, which it asks for itself",)
    assert answer(found, ACROSS).outcome == "ok"


def test_a_history_that_holds_what_is_clicked_later_that_day(tmp_path: Path) -> None:
    source = shop([*BY_HAND, (3, 13, 100, 0), (3, 13, 500, 1)])
    prepare(source, PrepareOptions(lanes=2, partitions=2), tmp_path / "out", progress=False)
    give_history(tmp_path / "out", "train", 3, 100, [(13, 0)])
    found = looked_at(tmp_path / "out")
    check = answer(found, OWN)
    assert (check.outcome, check.said) == ("fail", "0 hold their own, 1 a later one, that never came before")
    assert check.examples == (f"user 3 at {MONDAY + 100}: item 13, clicked only later",)
    assert answer(found, ACROSS).outcome == "ok"


def test_a_training_history_that_holds_a_click_of_test(copied: Callable[[str], Path]) -> None:
    folder = copied("by hand")
    give_history(folder, "train", 2, 200, [(12, 50)])
    check = answer(looked_at(folder), ACROSS)
    assert (check.outcome, check.count) == ("fail", 1)
    assert check.examples == (f"user 2 at {MONDAY + 200}: item 12, clicked only later",)


def test_what_happened_before_the_samples_begin_is_left_alone(copied: Callable[[str], Path]) -> None:
    """The user may have clicked it then, and again in test."""
    folder = copied("by hand")
    give_history(folder, "train", 2, 200, [(12, 50 * DAY)])
    found = looked_at(folder)
    assert (answer(found, OWN).outcome, answer(found, ACROSS).outcome) == ("ok", "ok")


def with_views(folder: Path, own: bool) -> Path:
    """Histories are of another log, of views, and labels are purchases; `own`: the item in question is among them."""
    rows = [(user, item, day * DAY + NOON + item, item % 2) for user in (1, 2) for day in range(3) for item in (10, 11)]
    viewed = [20, 21, 22, 23]
    rows += [(3, item, 5, 0) for item in viewed]
    history, times = [], []
    for _, item, time, label in rows:
        seen = [item] * (own and label == 1) + viewed
        history.append(seen)
        times.append([MONDAY + time - number for number in range(len(seen))])
    given = {"impressions": {"history": history, "history_time": times}}
    prepare(shop(rows, **given), PrepareOptions(lanes=2, partitions=2), folder, progress=False)
    return folder


def test_histories_of_another_log(tmp_path: Path) -> None:
    folder = with_views(tmp_path / "views", own=False)
    found = looked_at(folder)
    assert found.problems == []
    assert answer(found, OWN).said == "0 entries are clicks in the samples, 49 are of elsewhere"
    give_history(folder, "train", 1, NOON + 10, [(11, 1), (20, 2)])  # a view, before the first purchase
    found = looked_at(folder)
    assert found.problems == [], "most entries are no purchases: this one may have been a view, too"
    assert answer(found, OWN).outcome == "look"


def test_most_histories_of_another_log_hold_their_own_label(tmp_path: Path) -> None:
    check = answer(looked_at(with_views(tmp_path / "views", own=True)), OWN)
    assert check.outcome == "look", "twice out of six: the first purchases"
    folder = tmp_path / "views"
    for split in ("val", "test"):  # only the first purchases stay
        change_groups(folder, split, lambda row: row.update(label=[0.0] * len(row["label"])))
    assert answer(looked_at(folder), OWN).outcome == "fail"


# --- rows and counts ---


def test_a_row_of_test_that_training_has(copied: Callable[[str], Path]) -> None:
    """Splits by time, but through the middle of a day."""
    folder = copied("by hand")
    change_groups(folder, "val", lambda row: row.update(time=[MONDAY + 4000] * len(row["time"])))
    change_groups(folder, "test", lambda row: row.update(time=[MONDAY + 5000] * len(row["time"]), item=[0]))
    found = looked_at(folder)
    check = answer(found, ROWS)
    assert (check.outcome, check.count) == ("fail", 2)
    assert check.examples == ("user 1 and item 10", "user 2 and item 10")
    assert answer(found, BY_TIME).outcome == "ok"


@pytest.mark.parametrize(
    ("file", "row", "change", "example"),
    [
        ("vocab/place.parquet", 1, {"count": 7}, "vocab/place.parquet: 1, as index 1: says 7, samples 4"),
        ("vocab/place.parquet", 1, {"count": 0}, "vocab/place.parquet: 1, as index 1: says 0, samples 4"),
        ("vocab/user_id.parquet", 2, {"count": 2}, "vocab/user_id.parquet: 1, as index 2: says 2, samples 1"),
        ("vocab/colour.parquet", 2, {"count": 3}, "vocab/colour.parquet: 1, as index 2: says 3, samples 1"),
        ("items.parquet", 2, {"train_count": 2}, "items.parquet: 1, as row 2: says 2, samples 0"),
    ],
)
def test_counts_of_more_than_training(
    copied: Callable[[str], Path], file: str, row: int, change: dict[str, int], example: str
) -> None:
    folder = copied("by hand")
    change_rows(folder / file, lambda rows: rows[row].update(change))
    check = answer(looked_at(folder), COUNTS)
    assert (check.outcome, check.count, check.examples) == ("fail", 1, (example,))


def test_values_that_only_test_has_must_have_no_index(copied: Callable[[str], Path]) -> None:
    folder = copied("by hand")
    change_rows(folder / "vocab/item_id.parquet", lambda rows: rows[3].update(index=3, count=2))
    change_rows(folder / "items.parquet", lambda rows: rows[2].update(item_id=3))
    change_yaml(folder, lambda content: content["columns"]["item"]["item_id"].update(num_ids=4))
    check = answer(looked_at(folder), COUNTS)
    assert (check.outcome, check.count) == ("fail", 1)
    assert check.examples == ("vocab/item_id.parquet: 1, as index 3: says 2, samples 0",)
