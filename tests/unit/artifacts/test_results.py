"""The tables on the terminal say what test.json says."""

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from dicm_kit.artifacts.difference import Difference
from dicm_kit.artifacts.results import (
    OVER_SEEDS,
    Row,
    comparison_markdown,
    difference_title,
    print_against,
    print_comparison,
    print_result,
    recovered,
)

TEST = {
    "auc": 0.61, "gauc": 0.62, "log_loss": 0.41, "calibration": 1.01, "impressions": 1234.0, "gauc_left_out": 0.25,
    "target_unseen/gauc": 0.57, "target_unseen/auc": 0.56, "target_unseen/impressions": 10.0,
    "target_unseen/log_loss": 0.5, "target_unseen/calibration": float("nan"), "target_unseen/gauc_left_out": 0.0,
}  # fmt: skip


def result(**oracle: float) -> dict[str, Any]:
    made: dict[str, Any] = {"run_dir": "runs/x", "dataset": "data/x", "test": TEST}
    return made | ({"oracle": oracle} if oracle else {})


def printed(show: Any, *values: Any, width: int = 160) -> str:
    console = Console(file=StringIO(), width=width)
    show(*values, console)
    assert isinstance(console.file, StringIO)
    return console.file.getvalue()


def line(text: str, name: str) -> str:
    (found,) = [each for each in text.splitlines() if each.startswith(name)]
    return found


def test_a_result_has_a_line_for_every_slice_that_there_is() -> None:
    text = printed(print_result, result())
    assert all(part in line(text, "all ") for part in ("1,234", "0.6200", "0.6100", "0.4100", "1.0100"))
    assert "0.5700" in line(text, "new items")
    assert line(text, "new items").endswith("  -"), "what is not defined is no number"
    assert "seen in training" not in text
    assert "oracle" not in text
    assert "GAUC leaves out 25.0% of the impressions" in text
    assert "runs/x/test.json" in text


def test_the_oracle_stands_beside_what_it_bounds() -> None:
    text = printed(print_result, result(**{"gauc": 0.81, "target_unseen/gauc": 0.79}))
    assert "0.8100" in line(text, "all ")
    assert "0.7900" in line(text, "new items")


def test_a_comparison_has_a_line_per_recipe_and_the_oracles() -> None:
    rows = [
        Row("a.yaml", [{"gauc": 0.61, "auc": 0.6}, {"gauc": 0.63, "auc": 0.6}], 12345.0),
        Row("b.yaml", [{"gauc": 0.7, "auc": 0.71}]),
    ]
    text = printed(print_comparison, rows, {"gauc": 0.8, "auc": 0.9}, "a.yaml")
    assert "0.6200 ±.0141" in line(text, "a.yaml")
    assert "0.7000" in line(text, "b.yaml")
    assert "±" not in line(text, "b.yaml")
    assert "0.8000" in line(text, "oracle")
    assert "oracle" not in printed(print_comparison, rows, None, "a.yaml")
    assert "12,345" in line(
        printed(print_comparison, [Row("a.yaml", [{"gauc": 0.6}], 12345.0)], None, "a.yaml"), "a.yaml"
    )


@pytest.mark.parametrize("width", [80, 200])
def test_no_number_is_cut_on_a_narrow_terminal(width: int) -> None:
    text = printed(print_result, result(gauc=0.81), width=width)
    assert all(number in text for number in ("0.6200", "0.6100", "0.4100", "1.0100", "0.8100"))
    rows = [
        Row(
            "attributes",
            [{"gauc": 0.61, "auc": 0.6, "target_seen/gauc": 0.5, "target_unseen/gauc": 0.4}],
            1.0,
        )
    ]
    text = printed(print_comparison, rows, {"gauc": 0.8, "auc": 0.9}, "attributes", width=width)
    assert all(number in text for number in ("0.6100", "0.6000", "0.5000", "0.4000", "0.8000"))


INTERVALS = {"gauc": [0.61, 0.63], "auc": [0.6, 0.625], "target_unseen/gauc": [0.5, 0.64]}
ONE_SEED = {
    "gauc": Difference(0.62, 0.6, (0.015, 0.025)),
    "auc": Difference(0.61, 0.62, (-0.02, 0.0001)),
    "log_loss": Difference(10.5, 0.4, None),
    "target_unseen/gauc": Difference(0.57, 0.57, (-0.01, 0.01)),
}
SEEDS = {"gauc": Difference(0.62, 0.6, (0.015, 0.025), 0.0031, (0.01, 0.03))}


def test_intervals_stand_beside_gauc_and_auc_where_there_is_room() -> None:
    big = {**TEST, "impressions": 1234567.0, "target_seen/impressions": 1234567.0}
    made = {**result(gauc=0.81), "test": big, "intervals": INTERVALS}
    text = printed(print_result, made, width=100)
    assert "…" not in text
    assert "0.6200 [.6100, .6300]  0.6100 [.6000, .6250]" in line(text, "all ")
    assert "0.5700 [.5000, .6400]" in line(text, "new items")
    assert "0.8100" in line(text, "all ")
    narrow = " ".join(printed(print_result, made, width=80).split())
    assert "…" not in narrow
    assert "95 % intervals over users of all: GAUC [.6100, .6300], AUC [.6000, .6250]." in narrow


def test_a_comparison_says_the_difference_to_its_first_row() -> None:
    rows = [Row("first", [TEST]), Row("second", [TEST], None, ONE_SEED)]
    text = printed(print_comparison, rows, None, "first", width=80)
    assert "difference to first" in text
    (found,) = [each for each in text.splitlines() if "+.0200 [+.0150, +.0250]" in each]
    assert found.startswith("second")
    assert "-.0100 [-.0200, +.0001]" in found
    assert "…" not in text


def test_a_comparison_of_seeds_says_what_seeds_add() -> None:
    rows = [Row("first", [TEST, TEST]), Row("second", [TEST, TEST], None, SEEDS)]
    text = printed(print_comparison, rows, None, "first", width=80)
    assert "+.0200 [+.0150, +.0250]" in text
    assert "[+.0100, +.0300]" in text
    assert "0.0031" in text
    assert "\n±: the standard deviation over seeds.\n" in text
    assert text.index("difference to first") < text.index(f"\n{OVER_SEEDS}\n")
    alone = printed(print_comparison, [Row("first", [TEST]), Row("second", [TEST], None, ONE_SEED)], None, "first")
    assert "standard deviation" not in alone
    assert difference_title(rows, "mean") == "GAUC, difference to `mean` [95 % over users and seeds]"


@pytest.mark.parametrize("page", ["comparison.md", "metrics.md"])
def test_the_reference_explains_seeds_in_the_same_words(page: str) -> None:
    text = (Path(__file__).parents[3] / "docs/reference" / page).read_text(encoding="utf-8")
    assert all(line in text for line in OVER_SEEDS.splitlines())


def test_against_has_a_line_for_each_metric_of_each_main_slice() -> None:
    text = printed(print_against, "runs/x", "runs/y", ONE_SEED, width=80)
    assert "runs/x against runs/y" in text
    lines = [each.split() for each in text.splitlines()]
    assert ["GAUC", "0.6200", "0.6000", "+.0200", "[+.0150,", "+.0250]"] in lines
    assert ["log", "loss", "10.5000", "0.4000", "+10.1000", "-"] in lines, "too few users for an interval"
    assert lines.index(["new", "items"]) == len(lines) - 2
    assert ["no", "history"] not in lines
    seeds = printed(print_against, "runs/x", "runs/y", SEEDS, width=80)
    assert "[+.0150, +.0250]  [+.0100, +.0300]" in seeds


def test_a_comparison_in_markdown() -> None:
    rows = [Row("first", [TEST]), Row("second", [TEST], None, ONE_SEED)]
    lines = comparison_markdown(rows, {"gauc": 0.8}, "first").splitlines()
    assert {line.count("|") for line in lines} == {8}
    assert lines[0].endswith("| log loss | GAUC, difference to `first` [95 % over users] |")
    assert lines[2].startswith("| first | 0.6100 | 0.6200 |")
    assert lines[3].endswith("| +.0200 [+.0150, +.0250] |")
    assert lines[4].startswith("| oracle | - | 0.8000 |")


def test_recovered_is_a_share_of_the_gain() -> None:
    rows = [Row(name, [{"gauc": low}, {"gauc": low + 0.02}]) for name, low in (("a", 0.6), ("b", 0.68), ("c", 0.7))]
    assert recovered(*rows) == pytest.approx(0.8)
