"""The tables on the terminal say what test.json says."""

from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from dicm_kit.artifacts.results import Row, print_comparison, print_result, recovered

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
    (found,) = [each for each in text.splitlines() if name in each]
    return found


def test_a_result_has_a_line_for_every_slice_that_there_is() -> None:
    text = printed(print_result, result())
    assert all(part in line(text, " all ") for part in ("1,234", "0.6200", "0.6100", "0.4100", "1.0100"))
    assert "0.5700" in line(text, "new items")
    assert " - " in line(text, "new items"), "what is not defined is no number"
    assert "seen in training" not in text
    assert "oracle" not in text
    assert "GAUC leaves out 25.0% of the impressions" in text
    assert "runs/x/test.json" in text


def test_the_oracle_stands_beside_what_it_bounds() -> None:
    text = printed(print_result, result(**{"gauc": 0.81, "target_unseen/gauc": 0.79}))
    assert "0.8100" in line(text, " all ")
    assert "0.7900" in line(text, "new items")


def test_a_comparison_has_a_line_per_recipe_and_the_oracles() -> None:
    rows = [
        Row("a.yaml", [{"gauc": 0.61, "auc": 0.6}, {"gauc": 0.63, "auc": 0.6}], 12345.0),
        Row("b.yaml", [{"gauc": 0.7, "auc": 0.71}]),
    ]
    text = printed(print_comparison, rows, {"gauc": 0.8, "auc": 0.9})
    assert "0.6200 ±.0141" in line(text, "a.yaml")
    assert "0.7000" in line(text, "b.yaml")
    assert "±" not in line(text, "b.yaml")
    assert "0.8000" in line(text, "oracle")
    assert "oracle" not in printed(print_comparison, rows, None)
    assert "12,345" in line(printed(print_comparison, [Row("a.yaml", [{"gauc": 0.6}], 12345.0)], None), "a.yaml")


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
    text = printed(print_comparison, rows, {"gauc": 0.8, "auc": 0.9}, width=width)
    assert all(number in text for number in ("0.6100", "0.6000", "0.5000", "0.4000", "0.8000"))


def test_recovered_is_a_share_of_the_gain() -> None:
    rows = [Row(name, [{"gauc": low}, {"gauc": low + 0.02}]) for name, low in (("a", 0.6), ("b", 0.68), ("c", 0.7))]
    assert recovered(*rows) == pytest.approx(0.8)
