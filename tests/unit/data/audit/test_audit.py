"""The audit of sound folders: numbers by hand, text, folders that others wrote, users in slices and by sample."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from damage import MONDAY, change_yaml
from little_shop import DAY, random_shop

from dicm_kit.data.audit import audit, complaints, histories, is_audited, joins, text, users, write_audit
from dicm_kit.data.audit.made import said
from dicm_kit.data.dataset import Dataset
from dicm_kit.data.options import GroupOptions, NegativeOptions, PrepareOptions, SplitOptions
from dicm_kit.data.prepare import prepare


def test_counts_by_hand(prepared: dict[str, Path]) -> None:
    found = audit(Dataset.open(prepared["by hand"]))
    assert found.problems == []
    first = MONDAY // DAY
    by_hand = {
        "train": (4, 3, 3, 2, 3, 1, 1, 0, 0, first, 4, 1, 3, 1),
        "val": (2, 2, 1, 2, 1, 2, 3, 0, 0, first + 1, 2, 0, 0, 0),
        "test": (2, 2, 1, 2, 2, 2, 4, 0, 2, first + 2, 2, 0, 0, 0),
    }
    names = "impressions groups positives users with_picture with_history history_entries unknown_user unseen_items"
    names += " first_day looked_at repeated both_labels users_with_both"
    for split, numbers in by_hand.items():
        counts = found.splits[split]
        assert tuple(getattr(counts, name) for name in names.split()) == numbers, split
        assert (counts.parts, counts.last_day) == (1, counts.first_day)
    pictures = found.pictures
    assert pictures is not None
    assert (pictures.items, pictures.with_picture, pictures.distinct, pictures.stored) == (3, 2, 2, 2)
    assert (pictures.rejected, pictures.shared_by) == (0, 1)
    assert (found.clock, found.made_up, found.one_user_in) == ("seconds", False, 1)
    assert [check.outcome for check in found.checks] == ["ok"] * 6


def test_the_text_of_the_shop_by_hand(
    copied: Callable[[str], Path], golden: Callable[[str, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = copied("by hand")
    monkeypatch.chdir(folder.parent)
    dataset = Dataset.open(folder.name)
    written = text(audit(dataset))
    written = written.replace(dataset.fingerprint, "FINGERPRINT")
    golden("audit.txt", written)
    page = Path(__file__).parents[4] / "docs/reference/audit.md"
    assert f"```text\n{written}```" in page.read_text(encoding="utf-8"), "the page shows it"


@pytest.mark.parametrize("strings", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        PrepareOptions(),
        PrepareOptions(group=GroupOptions("session"), min_count=3),
        PrepareOptions(group=GroupOptions("day"), drop_repeats=True),
        PrepareOptions(split=SplitOptions("user_order", 0.2, 0.2)),
    ],
    ids=["time", "session", "day", "user_order"],
)
def test_what_prepare_makes_has_no_problems(tmp_path: Path, options: PrepareOptions, strings: bool) -> None:
    options = replace(options, lanes=3, partitions=2)
    dataset = prepare(random_shop(2, impressions=900, strings=strings), options, tmp_path / "out", progress=False)
    found = audit(dataset)
    assert found.problems == []
    ages, splits, *others = found.checks
    assert {check.outcome for check in others} <= {"ok", "look"}
    assert (ages.outcome, splits.outcome) == ("ok", "ok")
    lines = text(found).splitlines()
    assert len(lines) < 60
    assert max(map(len, lines[1:])) <= 100
    assert len(found.examples) == 5
    assert max(len(example.history) for example in found.examples) >= 3
    assert {example.clicked for example in found.examples} == {True, False}


def test_a_folder_that_days_were_added_to(tmp_path: Path) -> None:
    options, shop = PrepareOptions(lanes=2, partitions=2, min_count=2), random_shop(5, impressions=900)
    for ends in ((4,), (4, 5), (4, 5, 6)):
        dataset = prepare(shop.cut(*ends), options, tmp_path / "out", progress=False)
        assert audit(dataset).problems == []
    found = audit(dataset)
    assert [split.parts for split in found.splits.values()] == [3, 1, 1]
    assert text(found).splitlines()[2] == f"source     log of 3 pieces: day 0, day 4, day 5; {dataset.made['source']}"


def test_drawn_negatives_are_named_and_not_taken_for_repeats(tmp_path: Path) -> None:
    shop = random_shop(3, impressions=800)
    positive = shop.tables["impressions"]["label"].to_numpy() == 1
    shop.tables["impressions"] = shop.tables["impressions"].filter(positive)
    negatives = NegativeOptions(per_positive=5, by="uniform")
    options = PrepareOptions(lanes=2, partitions=2, negatives=negatives, drop_repeats=True)
    found = audit(prepare(shop, options, tmp_path / "out", progress=False))
    assert found.problems == []
    assert [split.repeated for split in found.splits.values()] == [0, 0, 0]
    assert "negatives  DRAWN: 5 per positive, by uniform, among items clicked on the same day" in text(found)
    assert not any("is positive" in warning.what for warning in found.warnings)


def test_examples_are_in_raw_values(prepared: dict[str, Path]) -> None:
    found = audit(Dataset.open(prepared["by hand"]))
    one, two = sorted(found.examples, key=lambda example: example.user, reverse=True)
    assert (two.user, two.item, two.clicked, two.has_picture) == ("1", "12", False, True)
    assert two.values == {"colour": "red", "price": "6", "place": "low"}
    assert [item for item, _ in two.history] == ["10", "10", "10"]
    assert [age * DAY for _, age in two.history] == pytest.approx([DAY - 40, 2 * DAY - 290, 2 * DAY - 90], abs=0.1)
    assert (one.user, one.item, one.clicked) == ("2", "12", True)


def test_a_folder_that_another_tool_wrote(copied: Callable[[str], Path]) -> None:
    folder = copied("by hand")
    shutil.rmtree(folder / "state")
    (folder / "images" / "rejected.parquet").unlink()

    def plain(content: dict) -> None:
        content["made"] = {"source": "a Spark job", "group": "by page"}
        for counts in [*content["splits"].values(), *content["parts"].values()]:
            for name in ("with_picture", "with_history", "unseen_items", "first_day", "last_day"):
                counts.pop(name, None)

    change_yaml(folder, plain)
    found = audit(Dataset.open(folder))
    assert found.problems == []
    lines = text(found).splitlines()
    assert lines[2:7] == [
        "source     a Spark job",
        "group      by page",
        "history    not said",
        "split      not said",
        "negatives  not said",
    ]
    assert "ok    splits follow time: each is before the next" in lines


@pytest.mark.parametrize(
    ("made", "name", "words"),
    [
        (
            {"split": {"by": "time", "test": 2, "validation": 1}},
            "split",
            "time: the last 2 UTC days for test, the 1 UTC day before for val",
        ),
        (
            {"split": {"by": "user_order", "test": 0.1, "validation": 1}},
            "split",
            "user_order: each user's last 10 % of groups for test, the 1 group before for val",
        ),
        ({"split": {"by": "weeks", "of": 3}}, "split", "by weeks, of 3"),
        (
            {"group": {"by": "session", "session_minutes": 5}},
            "group",
            "session: what a user is shown without a pause of 5 minutes",
        ),
        (
            {"history": {"max_length": 8, "max_age_days": 14}},
            "history",
            "the last 8 clicks before the group, at most 14 days old",
        ),
        ({"negatives": None}, "negatives", "none drawn: the log's own"),
        ({"negatives": {"ours": "two"}}, "negatives", "ours two"),
        ({"source": "0123456789abcdef"}, "source", "fingerprint 0123456789abcdef"),
        ({"source": "a Spark job"}, "source", "a Spark job"),
        ({"counts": {"rows_left_out": 1200}, "unlisted": "drop"}, "left out", "rows: 1,200 by unlisted: drop"),
    ],
)
def test_how_it_was_made_in_words(made: dict, name: str, words: str) -> None:
    assert said(made)[name] == words


@pytest.mark.parametrize(
    ("pieces", "words"),
    [
        (["log"], "fingerprint 0123456789abcdef"),
        (["a.csv"], "log of 1 piece: a.csv; fingerprint 0123456789abcdef"),
        (
            [f"{name}.csv" for name in "abcdefg"],
            "log of 7 pieces: a.csv, b.csv, c.csv, d.csv, e.csv and 2 more; fingerprint 0123456789abcdef",
        ),
    ],
)
def test_the_pieces_of_the_log_are_named(pieces: list[str], words: str) -> None:
    assert said({"source": "0123456789abcdef"}, pieces)["source"] == words


def test_users_in_slices_give_the_same(prepared: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = Dataset.open(prepared["every kind"])
    whole = audit(dataset)
    monkeypatch.setattr(users, "_USERS", 50)
    monkeypatch.setattr(users, "_ROWS", 70)
    monkeypatch.setattr(histories, "_POSITIVES", 20)
    assert audit(dataset) == whole


def test_of_a_large_dataset_some_users_are_looked_at(
    prepared: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = Dataset.open(prepared["every kind"])
    whole = audit(dataset)
    monkeypatch.setattr(joins, "MOST_IMPRESSIONS", 210)
    some = audit(dataset)
    assert some.one_user_in == 3
    assert some.problems == []
    for name, split in some.splits.items():
        assert split.impressions == whole.splits[name].impressions
        assert 0 < split.users < whole.splits[name].users
        assert 0 < split.looked_at < split.impressions
    assert "Of 1 user in 3, drawn by a hash: users, repeated rows," in text(some)
    assert audit(dataset) == some


def test_the_file_says_which_state_of_the_folder_it_is_about(copied: Callable[[str], Path]) -> None:
    dataset = Dataset.open(copied("by hand"))
    assert not is_audited(dataset)
    found = write_audit(dataset)
    assert is_audited(dataset)
    assert (dataset.folder / "audit.txt").read_text() == text(found)
    assert text(found).endswith(f"\n\n{complaints(found)}\n")
    assert not is_audited(replace(dataset, fingerprint="another"))


def test_times_that_are_no_clock_and_times_that_are_days(tmp_path: Path) -> None:
    shop = random_shop(4, impressions=400)
    rows = shop.tables["impressions"]
    for name, time, words in (
        ("ranks", np.arange(400) // 4, "none"),
        ("days", (rows["time"].to_numpy() // DAY + 19_000) * DAY, "days"),
    ):
        shop.tables["impressions"] = rows.set_column(rows.schema.get_field_index("time"), "time", [time])
        options = PrepareOptions(lanes=2, partitions=2, split=SplitOptions("user_order", 1, 1))
        found = audit(prepare(shop, options, tmp_path / name, progress=False))
        assert (found.clock, found.problems) == (words, [])
        lines = text(found)
        assert ("\ndays " in lines) == (words == "days")
        assert ("before)" if words == "none" else "(same day)") in lines
