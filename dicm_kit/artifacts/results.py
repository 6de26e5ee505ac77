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
    "log_loss": "log loss",
    "calibration": "calib.",
}
_SLICES = {
    "": "all",
    "target_seen": "seen in training",
    "target_decile_1": "rarest of them",
    "target_unseen": "new items",
    "history_0": "no history",
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
    """Prints the test metrics of one run and its main slices, and the oracle's GAUC where the truth is known."""
    console = console or Console()
    test, oracle = result["test"], result.get("oracle")
    table = Table(title=f"{result['run_dir']}: test split of {result['dataset']}", title_justify="left")
    table.add_column("impressions", no_wrap=True)
    table.add_column("count", justify="right", no_wrap=True)
    for title in _COLUMNS.values():
        table.add_column(title, justify="right", no_wrap=True)
    if oracle:
        table.add_column("oracle", justify="right", no_wrap=True)
    for name, title in _SLICES.items():
        prefix = f"{name}/" if name else ""
        if f"{prefix}impressions" not in test:
            continue
        cells = [_number(test.get(prefix + metric)) for metric in _COLUMNS]
        best = [_number(oracle.get(f"{prefix}gauc"))] if oracle else []
        table.add_row(title, f"{int(test[f'{prefix}impressions']):,}", *cells, *best)
    console.print(table)
    left_out = test["gauc_left_out"]
    console.print(
        f"GAUC leaves out {left_out:.1%} of the impressions: users with clicks only, or with none. "
        f"All slices: {result['run_dir']}/test.json"
    )


def print_comparison(rows: Sequence[Row], oracle: Mapping[str, Any] | None, console: Console | None = None) -> None:
    """Prints one line per recipe, and the oracle's: AUC, and GAUC over all, seen and new targets.

    With several seeds, mean ± standard deviation.
    """
    console = console or Console()
    columns = {
        "auc": "AUC",
        "gauc": "GAUC",
        "target_seen/gauc": "GAUC seen",
        "target_unseen/gauc": "GAUC new",
    }
    table = Table(title="test split", title_justify="left")
    table.add_column("recipe", no_wrap=True)
    for title in columns.values():
        table.add_column(title, justify="right", no_wrap=True)
    several = any(len(row.results) > 1 for row in rows)  # then there is no room for it
    if not several:
        table.add_column("impressions/s", justify="right", no_wrap=True)
    for row in rows:
        cells = [_spread([each[name] for each in row.results if name in each]) for name in columns]
        speed = [] if several else [f"{row.speed:,.0f}" if row.speed else ""]
        table.add_row(row.name, *cells, *speed)
    if oracle:
        table.add_row("oracle", *(_number(oracle.get(name)) for name in columns))
    console.print(table)
    console.print("seen, new: impressions of items that training has seen, and has not.")


def recovered(baseline: Row, model: Row, reference: Row) -> float:
    """Returns the share of the reference's GAUC gain over the baseline that the model has, mean over seeds."""
    base, own, best = (mean(each["gauc"] for each in row.results) for row in (baseline, model, reference))
    return (own - base) / (best - base)


def _number(value: float | None) -> str:
    return "-" if value is None or value != value else f"{value:.4f}"


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    return f"{mean(values):.4f}" + (f" ±{stdev(values):.4f}".replace("±0.", "±.") if len(values) > 1 else "")
