"""Rows of recipes and their seeds -> runs, each trained in a process of its own -> results with paired differences.

A run of the same resolved recipe that has ended is taken as it is; one that was cut off goes on.
"""

import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from dicm_kit.artifacts.difference import Side, differences
from dicm_kit.artifacts.predictions import tested_on
from dicm_kit.artifacts.results import Row
from dicm_kit.artifacts.run_folder import RECIPE_FILE, changed_plugins, read_result
from dicm_kit.errors import RunError, some
from dicm_kit.recipe.build import rehearse
from dicm_kit.recipe.comparison import Comparison
from dicm_kit.recipe.load import LoadedRecipe, dump, load
from dicm_kit.training.checkpoint_files import find_resumable, trained_on


@dataclass(frozen=True)
class PlannedRun:
    """One recipe with one seed."""

    path: Path
    overrides: list[str]
    loaded: LoadedRecipe
    before: "PlannedRun | None" = None
    """What has to be trained first: its warm start."""

    @property
    def folder(self) -> Path:
        """Where it trains."""
        return Path(self.loaded.recipe.run_dir)

    @property
    def text(self) -> str:
        """The resolved recipe, as the run folder holds it."""
        return dump(self.loaded.recipe, base=self.path.parent)


@dataclass(frozen=True)
class PlannedRow:
    """A row of the table: the runs of one recipe, by seed."""

    name: str
    runs: list[PlannedRun]


def plan_recipes(paths: Sequence[Path], overrides: Sequence[str], seeds: int) -> list[PlannedRow]:
    """Returns a row for each recipe; with several seeds, each run in a folder of its own below the recipe's."""
    rows = []
    for path, name in zip(paths, _names(paths), strict=True):
        loaded = load(path, overrides)
        rehearse(loaded)
        folder = loaded.recipe.run_dir if seeds > 1 else None
        rows.append(PlannedRow(name, _runs(loaded, folder, seeds)))
    _check_folders(rows)
    return rows


def plan_file(comparison: Comparison, seeds: int) -> list[PlannedRow]:
    """Returns the rows of a comparison file; runs lie in `<run_dir>/<row>/seed-N`, or in the `run_dir` of the row."""
    before = {row.name: PlannedRow(row.name, _runs(row.loaded, row.folder, seeds)) for row in comparison.before}
    rows = []
    for row in comparison.rows:
        rehearse(row.loaded)
        runs = _runs(row.loaded, row.folder, seeds, before[row.after].runs if row.after else None)
        rows.append(PlannedRow(row.name, runs))
    _check_folders([*before.values(), *rows])
    return rows


def check_data(rows: Sequence[PlannedRow], fingerprint: Callable[[LoadedRecipe], str]) -> None:
    """Raises RunError where a run was made on its data as they were, and they have grown or changed since.

    `fingerprint` gives that of a recipe's dataset, up to date; it is asked once for each recipe with finished runs or
    with some that were cut off.
    """
    tested, trained = list[str](), list[str]()
    before = [[run.before for run in row.runs if run.before] for row in rows]
    for row in (*rows, *(PlannedRow("before", runs) for runs in before if runs)):
        finished = {run.folder: tested_on(run.folder) for run in row.runs if _finished(run)}
        cut_off = {run.folder: trained_on(run.folder) for run in row.runs if run.folder not in finished}
        if not any((*finished.values(), *cut_off.values())):
            continue
        good = None, fingerprint(row.runs[0].loaded)
        tested += [str(folder) for folder, made_on in finished.items() if made_on not in good]
        trained += [str(folder) for folder, made_on in cut_off.items() if made_on not in good]
    if tested or trained:
        old = f"{len(tested)} finished runs were tested on the data as they were" if tested else ""
        old += " and " * bool(tested and trained)
        old += f"{len(trained)} runs that were cut off were trained on the data as they were" if trained else ""
        raise RunError(
            f"{old}, and the data have grown or changed since: {some(tested + trained)}",
            where="compare",
            todo="Give the new table its own `run_dir=OTHER`, or delete these runs, which are then trained again.",
        )


def compared(rows: Sequence[PlannedRow], against: str) -> tuple[list[Row], dict[str, Any] | None]:
    """Runs what is missing, the row `against` first, and returns each row's results, and the oracle's where known.

    Raises:
        RunError: a run failed, or was not tested on the impressions of the row `against`.
    """
    console = Console()
    order = sorted(rows, key=lambda row: row.name != against)
    results: dict[str, Row] = {}
    sides: list[Side] = []
    oracle = None
    for row in order:
        of_row = [_result(run, console) for run in row.runs]
        oracle = of_row[0].get("oracle") or oracle
        sides.append(Side([run.folder for run in row.runs]))
        found = differences(sides[-1], sides[0]) if len(sides) > 1 else {}
        costs = _costs(of_row)
        speed = costs["impressions_per_second"]
        results[row.name] = Row(row.name, [each["test"] for each in of_row], speed, found, costs)
    return [results[row.name] for row in rows], oracle


def _costs(results: Sequence[Mapping[str, Any]]) -> dict[str, float | None]:
    """Returns means over a row's runs; None where a run does not say."""
    of_runs = [
        {
            **{name: each.get(name) for name in ("parameters", "training_seconds", "impressions_per_second")},
            "pictures_embedded": each["pictures"]["embedded"] if each.get("pictures", {}).get("embedded") else None,
        }
        for each in results
    ]
    costs: dict[str, float | None] = {}
    for name in of_runs[0]:
        values = [float(each) for each in (of_run[name] for of_run in of_runs) if each is not None]
        costs[name] = float(np.mean(values)) if len(values) == len(of_runs) else None
    return costs


def _names(paths: Sequence[Path]) -> list[str]:
    """Returns the recipes' names for a table: `dicm`, or with their folders where two are called alike."""
    stems = [path.stem for path in paths]
    return stems if len(set(stems)) == len(stems) else [str(path.with_suffix("")) for path in paths]


def _runs(
    loaded: LoadedRecipe, folder: Path | str | None, seeds: int, before: Sequence[PlannedRun] | None = None
) -> list[PlannedRun]:
    """Returns a run for each seed, the recipe's own seed first; `folder` None: in the recipe's own.

    `before`: for each seed the run that it starts from.
    """
    runs = []
    for place, seed in enumerate(range(loaded.recipe.seed, loaded.recipe.seed + seeds)):
        own = [] if folder is None else [f"seed={seed}", f"run_dir={folder}/seed-{seed}"]
        first = before[place] if before else None
        if first is not None:
            own.append(f"warm_start.run={first.folder}")
        overrides = [*loaded.overrides, *own]
        runs.append(PlannedRun(loaded.path, overrides, load(loaded.path, overrides), first))
    return runs


def _check_folders(rows: Sequence[PlannedRow]) -> None:
    """Raises RunError where a run folder holds, or two rows would write, runs of two recipes."""
    planned: dict[Path, tuple[str, str]] = {}
    for row in rows:
        for run in row.runs:
            name, text = planned.setdefault(run.folder.resolve(), (row.name, run.text))
            if text != run.text:
                raise RunError(
                    f"`{name}` and `{row.name}` are two recipes with one `run_dir`",
                    where=str(run.folder),
                    todo="Give each its own.",
                )
            _finished(run)


def _finished(run: PlannedRun) -> dict[str, Any] | None:
    """Returns the result of a run that has ended."""
    recipe = run.folder / RECIPE_FILE
    if not recipe.is_file():
        return None
    if recipe.read_text() != run.text:
        raise RunError(
            f"holds a run of another recipe or of other overrides than {run.path} now",
            where=str(run.folder),
            todo="Delete it, or choose another `run_dir`.",
        )
    changed = changed_plugins(run.folder, run.loaded.registry.plugins)
    if changed:
        raise RunError(
            f"holds a run that was made with other code of {some(changed)} than there is now",
            where=str(run.folder),
            todo="Delete it, and it is trained again; or choose another `run_dir`.",
        )
    return read_result(run.folder)


def _result(run: PlannedRun, console: Console) -> dict[str, Any]:
    finished = _finished(run)
    if finished is not None:
        return finished
    if run.before is not None:
        _result(run.before, console)
    return _run_apart(run, console)


def _run_apart(run: PlannedRun, console: Console) -> dict[str, Any]:
    again = []
    if (run.folder / RECIPE_FILE).is_file():  # of the same recipe, and cut off
        again = ["--resume"] if find_resumable(run.folder) else ["--overwrite"]
    command = ["run", str(run.path), *run.overrides, *again]
    console.rule()
    console.print(shlex.join(["dicm", *command]), markup=False, highlight=False, soft_wrap=True)
    ended = subprocess.run([sys.executable, "-m", "dicm_kit", *command], check=False)
    result = read_result(run.folder)
    if ended.returncode or result is None:
        raise RunError(
            f"ended with exit code {ended.returncode}; the table needs every run", where=f"dicm run {run.path}"
        )
    return result
