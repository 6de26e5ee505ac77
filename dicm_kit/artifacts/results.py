"""The results of runs as tables: on the terminal, and in Markdown."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean, stdev
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from dicm_kit.artifacts.difference import Difference

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
_COMPARED = {
    "auc": "AUC",
    "gauc": "GAUC",
    "target_seen/gauc": "GAUC seen",
    "target_unseen/gauc": "GAUC new",
}
OVER_SEEDS = """over users: what other users would give, of these same trainings.
over users and seeds: of other trainings, too.
± seeds: the standard deviation of the difference, seed by seed."""
"""What a comparison with several seeds says below the differences; docs/reference has the same words."""
_WIDE = 100
"""Columns of a terminal that a table with intervals needs."""


@dataclass(frozen=True)
class Row:
    """A line of the comparison: one recipe, its results by seed, or the oracle (no impressions per second)."""

    name: str
    results: Sequence[Mapping[str, Any]]
    """`test` metrics, one mapping per seed."""
    speed: float | None = None
    """Training impressions per second."""
    differences: Mapping[str, Difference] = field(default_factory=dict)
    """To the row that others are compared to, which has none itself."""
    costs: Mapping[str, float | None] = field(default_factory=dict)
    """Of one run, mean over seeds: parameters, training_seconds, impressions_per_second, pictures_embedded."""


def print_result(result: Mapping[str, Any], console: Console | None = None) -> None:
    """Prints the test metrics of one run and its main slices, and the oracle's GAUC where the truth is known."""
    console = console or Console()
    test, oracle, intervals = result["test"], result.get("oracle"), result.get("intervals", {})
    wide = console.width >= _WIDE
    table = plain_table(f"{result['run_dir']}: test split of {result['dataset']}", "impressions")
    for title in ("count", *_COLUMNS.values(), *(["oracle"] if oracle else [])):
        table.add_column(title, justify="right", no_wrap=True)
    for name, title in _SLICES.items():
        prefix = f"{name}/" if name else ""
        if f"{prefix}impressions" not in test:
            continue
        cells = [_number(test.get(prefix + metric)) for metric in _COLUMNS]
        if wide:
            for place, metric in enumerate(("gauc", "auc")):
                cells[place] += _interval(intervals.get(prefix + metric), " ")
        best = [_number(oracle.get(f"{prefix}gauc"))] if oracle else []
        table.add_row(title, f"{int(test[f'{prefix}impressions']):,}", *cells, *best)
    console.print(table)
    left_out = test["gauc_left_out"]
    said = [f"GAUC leaves out {left_out:.1%} of the impressions: users with clicks only, or with none."]
    if "gauc" in intervals:
        of_all = f"of all: GAUC{_interval(intervals['gauc'], ' ')}, AUC{_interval(intervals['auc'], ' ')}"
        said.append(f"95 % intervals over users {'in brackets' if wide else of_all}.")
    console.print(" ".join([*said, f"All slices: {result['run_dir']}/test.json"]), markup=False)


def print_comparison(
    rows: Sequence[Row], oracle: Mapping[str, Any] | None, against: str, console: Console | None = None
) -> None:
    """Prints one line per recipe, and the oracle's: AUC, and GAUC over all, seen and new targets.

    With several seeds, mean ± standard deviation. Below, the differences to the row `against`.
    """
    console = console or Console()
    table = plain_table("test split", "recipe")
    several = any(len(row.results) > 1 for row in rows)  # then there is no room for it
    for title in (*_COMPARED.values(), *([] if several else ["impressions/s"])):
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        cells = [_spread([each[name] for each in row.results if name in each]) for name in _COMPARED]
        speed = [] if several else [f"{row.speed:,.0f}" if row.speed else ""]
        table.add_row(row.name, *cells, *speed)
    if oracle:
        table.add_row("oracle", *(_number(oracle.get(name)) for name in _COMPARED))
    console.print(table)
    console.print("seen, new: impressions of items that training has seen, and has not.")
    if several:
        console.print("±: the standard deviation over seeds.")
    if any(row.differences for row in rows):
        _print_differences(rows, against, several, console)
    if any(row.costs for row in rows):
        _print_costs(rows, console)


def _print_costs(rows: Sequence[Row], console: Console) -> None:
    table = plain_table("\na run costs", "recipe")
    titles = {
        "parameters": "parameters",
        "training_seconds": "seconds",
        "impressions_per_second": "impressions/s",
        "pictures_embedded": "pictures embedded",
    }
    for title in titles.values():
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        cells = [row.costs.get(name) for name in titles]
        table.add_row(row.name, *("-" if each is None else f"{each:,.0f}" for each in cells))
    console.print(table)


def _print_differences(rows: Sequence[Row], against: str, several: bool, console: Console) -> None:
    table = plain_table(f"\ndifference to {against}, with 95 % intervals", "recipe")
    for title in ("GAUC over users", *(["over users and seeds", "± seeds"] if several else ["AUC over users"])):
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        gauc = row.differences.get("gauc")
        if gauc is None:
            continue
        cells = [_signed(gauc.value) + _interval(gauc.interval, " ", signed=True)]
        if several:
            cells += [_interval(gauc.interval_with_seeds, "", signed=True), _number(gauc.seeds)]
        else:
            auc = row.differences["auc"]
            cells.append(_signed(auc.value) + _interval(auc.interval, " ", signed=True))
        table.add_row(row.name, *cells)
    console.print(table)
    if several:
        console.print(OVER_SEEDS)


def print_against(
    run: str, against: str, differences: Mapping[str, Difference], console: Console | None = None
) -> None:
    """Prints the differences of all main metrics, over all impressions and the main slices."""
    console = console or Console()
    several = any(each.seeds is not None for each in differences.values())
    table = plain_table(f"{run} against {against}: test split", "impressions")
    for title in ("run", "other", "difference", "95 % over users", *(["users and seeds"] if several else [])):
        table.add_column(title, justify="right", no_wrap=True)
    for name, title in _SLICES.items():
        prefix = f"{name}/" if name else ""
        of_slice = {metric: differences[prefix + metric] for metric in _COLUMNS if prefix + metric in differences}
        if of_slice:
            table.add_row(title)
        for metric, each in of_slice.items():
            cells = [_number(each.run), _number(each.against), _signed(each.value)]
            cells.append(_interval(each.interval, "", signed=True) or "-")
            if several:
                cells.append(_interval(each.interval_with_seeds, "", signed=True) or "-")
            table.add_row(f"  {_COLUMNS[metric]}", *cells)
    console.print(table)


def comparison_markdown(rows: Sequence[Row], oracle: Mapping[str, Any] | None, against: str) -> str:
    """Returns the comparison as one Markdown table."""
    titles = [*_COMPARED.values(), "log loss", difference_title(rows, against)]
    lines = [["recipe", *titles], ["---"] * (1 + len(titles))]
    for row in rows:
        cells = [_spread([each[name] for each in row.results if name in each]) for name in (*_COMPARED, "log_loss")]
        gauc = row.differences.get("gauc")
        interval = (gauc.interval_with_seeds or gauc.interval) if gauc else None
        lines.append([row.name, *cells, _signed(gauc.value) + _interval(interval, " ", True) if gauc else ""])
    if oracle:
        lines.append(["oracle", *(_number(oracle.get(name)) for name in (*_COMPARED, "log_loss")), ""])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def difference_title(rows: Sequence[Row], against: str) -> str:
    """Returns what the differences of GAUC are to, and what their intervals are over; the row may be called `mean`."""
    several = any(each.interval_with_seeds for row in rows for each in row.differences.values())
    return f"GAUC, difference to `{against}` [95 % over users{' and seeds' if several else ''}]"


def recovered(baseline: Row, model: Row, reference: Row) -> float:
    """Returns the share of the reference's GAUC gain over the baseline that the model has, mean over seeds."""
    base, own, best = (mean(each["gauc"] for each in row.results) for row in (baseline, model, reference))
    return (own - base) / (best - base)


def plain_table(title: str, first: str) -> Table:
    """Returns a table without a frame; `first` heads its first column."""
    table = Table(
        title=title, title_justify="left", box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0)
    )
    table.add_column(first, no_wrap=True)
    return table


def _number(value: float | None) -> str:
    return "-" if value is None or value != value else f"{value:.4f}"


def _signed(value: float) -> str:
    return re.sub(r"^([+-])0\.", r"\1.", f"{value:+.4f}")


def _interval(interval: Sequence[float] | None, before: str, signed: bool = False) -> str:
    if interval is None:
        return ""
    low, high = (_signed(each) if signed else f"{each:.4f}".removeprefix("0") for each in interval)
    return f"{before}[{low}, {high}]"


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    return f"{mean(values):.4f}" + (f" ±{stdev(values):.4f}".replace("±0.", "±.") if len(values) > 1 else "")
