"""The results of runs as tables on the terminal."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

from rich.console import Console
from rich.table import Table

_COLUMNS = {
    "gauc": "GAUC",
    "auc": "AUC",
    "gauc_unweighted": "GAUC by user",
    "log_loss": "log loss",
    "calibration": "calibration",
}


@dataclass(frozen=True)
class Row:
    """A line of the comparison: one recipe, its results by seed, or the oracle (no impressions per second)."""

    name: str
    results: Sequence[Mapping[str, Any]]
    """`test` metrics, one mapping per seed."""
    speed: float | None = None
    """Training impressions per second."""


def print_result(result: Mapping[str, Any], console: Console | None = None) -> None:
    """Prints the test metrics of one run, with its slices, and the oracle's where the truth is known."""
    console = console or Console()
    test, oracle = result["test"], result.get("oracle")
    table = Table(title=f"test split of {result['dataset']}, {result['run_dir']}", title_justify="left")
    table.add_column("impressions of")
    table.add_column("count", justify="right")
    for title in _COLUMNS.values():
        table.add_column(title, justify="right")
    if oracle:
        table.add_column("oracle GAUC", justify="right")
    for name in ("", *_slices_of(test)):
        prefix = f"{name}/" if name else ""
        cells = [_number(test.get(prefix + metric)) for metric in _COLUMNS]
        best = [_number(oracle.get(f"{prefix}gauc"))] if oracle else []
        table.add_row(_words(name) or "all", f"{int(test[f'{prefix}impressions']):,}", *cells, *best)
    console.print(table)
    left_out = test.get("gauc_left_out")
    if left_out is not None:
        console.print(f"GAUC leaves out {left_out:.1%} of the impressions: users with clicks only or with none.")


def print_comparison(rows: Sequence[Row], oracle: Mapping[str, Any] | None, console: Console | None = None) -> None:
    """Prints one line per recipe: GAUC and AUC over all, seen and unseen targets; mean and deviation over seeds.

    With three recipes or more and the oracle known, also the share of the gain: see `recovered`.
    """
    console = console or Console()
    slices = {"": "", "target_seen": "seen items", "target_unseen": "unseen items"}
    table = Table(title="test split", title_justify="left")
    table.add_column("recipe")
    table.add_column("AUC", justify="right")
    for title in slices.values():
        table.add_column(f"GAUC {title}".strip(), justify="right")
    table.add_column("impressions/s", justify="right")
    for row in rows:
        names = ["auc", *(f"{name}/gauc" if name else "gauc" for name in slices)]
        cells = [_spread([each[name] for each in row.results if name in each]) for name in names]
        table.add_row(row.name, *cells, f"{row.speed:,.0f}" if row.speed else "")
    if oracle:
        names = ["auc", *(f"{name}/gauc" if name else "gauc" for name in slices)]
        table.add_row("oracle: the true probabilities", *(_number(oracle.get(name)) for name in names), "")
    console.print(table)


def recovered(baseline: Row, model: Row, reference: Row) -> float:
    """Returns the share of the reference's GAUC gain over the baseline that the model has, mean over seeds."""
    base, own, best = (mean(each["gauc"] for each in row.results) for row in (baseline, model, reference))
    return (own - base) / (best - base)


def _slices_of(test: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(name.split("/")[0] for name in test if "/" in name))


def _words(name: str) -> str:
    return name.replace("_", " ")


def _number(value: float | None) -> str:
    return "-" if value is None or value != value else f"{value:.4f}"


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    return f"{mean(values):.4f}" + (f" ± {stdev(values):.4f}" if len(values) > 1 else "")
