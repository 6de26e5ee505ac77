"""The commands that do something with a recipe or a run; `cli.py` hands the command line on to them."""

import logging
import os
import subprocess
import sys
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from dicm_kit.artifacts.results import Row, print_comparison
from dicm_kit.artifacts.run_folder import RECIPE_FILE, claimed, read_result
from dicm_kit.data.audit import AUDIT_FILE, complaints, is_audited, text, write_audit
from dicm_kit.data.dataset import Dataset
from dicm_kit.data.options import PrepareOptions
from dicm_kit.data.prepare import prepare as prepare_dataset
from dicm_kit.errors import DataError, FieldError, RunError
from dicm_kit.memory import keep_pages
from dicm_kit.recipe.build import rehearse
from dicm_kit.recipe.load import LoadedRecipe, dump, load
from dicm_kit.recipe.schema import Recipe
from dicm_kit.session import Pictures, Session, is_first
from dicm_kit.training.checkpoint import (
    find_resumable,
)
from dicm_kit.whole_file import write_whole


def run(loaded: LoadedRecipe, *, resume: bool = False, overwrite: bool = False) -> dict[str, Any]:
    """Prepares and extracts what is missing, trains, tests, and returns what test.json then holds.

    Raises:
        RunError: the run folder is another run's, or there is nothing to resume.
    """
    recipe, folder = loaded.recipe, Path(loaded.recipe.run_dir)
    source = rehearse(loaded)
    with ExitStack() as stack:
        if is_first():
            stack.enter_context(claimed(folder, resume=resume, overwrite=overwrite))
            write_whole(folder / RECIPE_FILE, dump(recipe, base=loaded.path.parent))
        _use_machine(recipe)
        dataset = _prepared(loaded, source)
        if is_first() and not is_audited(dataset):
            print(f"{complaints(write_audit(dataset))}\nThe whole audit: {dataset.folder / AUDIT_FILE}")
        session = Session(loaded, dataset)
        checkpoint = session.resumable() if resume else None
        session.fit(checkpoint)
        return session.test(session.best_checkpoint())


def prepare(loaded: LoadedRecipe) -> Dataset:
    """Makes the recipe's dataset folder, or goes on with it, and prints an audit of it; DataError for problems."""
    dataset = _prepared(loaded, rehearse(loaded))
    audit = write_audit(dataset)
    print(text(audit))
    if audit.problems:
        raise DataError(
            f"the audit found {len(audit.problems)} problems: see above",
            where=str(dataset.folder),
            todo="What each means: docs/reference/audit.md. Training on it would not stop, but would mislead.",
        )
    print(f"Next: dicm run {loaded.path}")
    return dataset


def extract(loaded: LoadedRecipe) -> Path | None:
    """Makes the feature store of the recipe's frozen backbone; returns its folder, None for a trained backbone."""
    if loaded.recipe.images is None:
        raise loaded.error("images", "the recipe has no `images`, so there is nothing to extract")
    _use_machine(loaded.recipe)
    pictures = Pictures.of(loaded, _prepared(loaded, rehearse(loaded)))
    if pictures.features is None:
        print("The backbone is trained: it reads the pictures themselves, so there is nothing to extract.")
    else:
        print(f"{pictures.features}\n\nNext: dicm run {loaded.path}")
    return pictures.features


def test(run_dir: Path) -> dict[str, Any]:
    """Tests a run's best checkpoint again, prints the table and writes test.json anew."""
    if not (run_dir / RECIPE_FILE).is_file():
        raise RunError(f"is no run folder: it has no {RECIPE_FILE}", where=str(run_dir), todo="See `dicm run --help`.")
    loaded = load(run_dir / RECIPE_FILE, [f"run_dir={run_dir}"])
    with claimed(run_dir, resume=True, overwrite=False):
        _use_machine(loaded.recipe)
        loaded.recipe.trainer.logger = "none"  # the log is the training's
        session = Session(loaded, _prepared(loaded, rehearse(loaded)))
        return session.test(session.best_checkpoint())


def compare(paths: Sequence[Path], overrides: Sequence[str], seeds: int) -> list[Row]:
    """Runs each recipe with each seed, each in a process of its own, and prints them in one table.

    A run of the same resolved recipe that has ended is taken as it is; one that was cut off goes on.
    """
    console, rows, oracle = Console(), [], None
    for path, name in zip(paths, _names(paths), strict=True):
        results = []
        for number in range(seeds):
            asked = _of_seed(path, overrides, number, seeds)
            results.append(_finished(path, asked) or _run_apart(path, asked, console))
        oracle = results[0].get("oracle") or oracle
        speed = float(np.mean([each["impressions_per_second"] for each in results]))
        rows.append(Row(name, [each["test"] for each in results], speed))
    print_comparison(rows, oracle, console)
    return rows


# --- compare ---


def _names(paths: Sequence[Path]) -> list[str]:
    """Returns the recipes' names for a table: `dicm`, or with their folders where two are called alike."""
    stems = [path.stem for path in paths]
    return stems if len(set(stems)) == len(stems) else [str(path.with_suffix("")) for path in paths]


def _of_seed(path: Path, overrides: Sequence[str], number: int, seeds: int) -> list[str]:
    """Returns the overrides of the n-th seed: the recipe's own seed first, each in a folder of its own."""
    recipe = load(path, overrides).recipe
    if seeds == 1:
        return list(overrides)
    seed = recipe.seed + number
    return [*overrides, f"seed={seed}", f"run_dir={recipe.run_dir}/seed-{seed}"]


def _finished(path: Path, overrides: Sequence[str]) -> dict[str, Any] | None:
    loaded = load(path, overrides)
    folder = Path(loaded.recipe.run_dir)
    if not (folder / RECIPE_FILE).is_file():
        return None
    if (folder / RECIPE_FILE).read_text() != dump(loaded.recipe, base=loaded.path.parent):
        raise RunError(
            f"holds a run of another recipe or of other overrides than {path} now",
            where=str(folder),
            todo="Delete it, or choose another `run_dir`.",
        )
    return read_result(folder)


def _run_apart(path: Path, overrides: Sequence[str], console: Console) -> dict[str, Any]:
    folder = Path(load(path, overrides).recipe.run_dir)
    again = []
    if (folder / RECIPE_FILE).is_file():  # of the same recipe, and cut off
        again = ["--resume"] if find_resumable(folder) else ["--overwrite"]
    command = ["run", str(path), *overrides, *again]
    console.rule(f"dicm {' '.join(command)}", align="left")
    ended = subprocess.run([sys.executable, "-m", "dicm_kit", *command], check=False)
    result = read_result(folder)
    if ended.returncode or result is None:
        raise RunError(f"ended with exit code {ended.returncode}; the table needs every run", where=f"dicm run {path}")
    return result


# --- the machine ---


def _use_machine(recipe: Recipe) -> None:
    """Divides the processor among the ranks of this machine, and keeps memory that torch gives back."""
    _quiet_lightning()
    keep_pages()
    ranks = recipe.trainer.devices if recipe.trainer.devices > 0 else max(1, torch.cuda.device_count())
    torch.set_num_threads(recipe.trainer.threads or max(1, (os.cpu_count() or 1) // ranks))


def _quiet_lightning() -> None:
    """Leaves out what Lightning says of itself: devices, tips, "max_epochs reached"; warnings stay."""
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # lightning 2.6.6 calls a deprecated name of torch; it goes with Lightning's next release
    warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\).*")
    # a trained backbone's BatchNorm is frozen, on purpose
    warnings.filterwarnings("ignore", message=r"Found \d+ module\(s\) in eval mode")


def _prepared(loaded: LoadedRecipe, source: Any) -> Dataset:
    data = loaded.recipe.data
    keys = {each.name for each in fields(PrepareOptions)} & {each.name for each in fields(data)}
    options = PrepareOptions(**{name: getattr(data, name) for name in keys})
    try:
        return prepare_dataset(source, options, data.out, memory_mb=data.memory_mb)
    except FieldError as error:
        raise loaded.error(f"data.{error.field}", error.what, error.todo) from error
