"""The commands that do something with a recipe or a run; `commands.py` hands the command line on to them."""

import json
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from dicm_kit.artifacts.comparison_files import write_comparison
from dicm_kit.artifacts.difference import Difference, Side, contents, differences
from dicm_kit.artifacts.results import Row, comparison_markdown, print_against, print_comparison
from dicm_kit.artifacts.run_folder import (
    RECIPE_FILE,
    changed_plugins,
    claimed,
    earlier_run,
    runs_in,
    write_plugins,
)
from dicm_kit.bench import measure, only_train, print_measured
from dicm_kit.compare import check_data, compared, plan_file, plan_recipes
from dicm_kit.data.audit import AUDIT_FILE, complaints, is_audited, write_audit
from dicm_kit.data.audit import text as audit_text
from dicm_kit.data.dataset import DATASET_FILE, Dataset
from dicm_kit.data.options import PrepareOptions
from dicm_kit.data.prepare import code_of
from dicm_kit.data.prepare import prepare as prepare_dataset
from dicm_kit.errors import DataError, DicmError, FieldError, RecipeError, RunError, some
from dicm_kit.memory import keep_pages
from dicm_kit.memory_check import refuse_what_cannot_fit
from dicm_kit.picture_source import Pictures
from dicm_kit.recipe.build import rehearse
from dicm_kit.recipe.comparison import is_comparison, load_comparison
from dicm_kit.recipe.load import LoadedRecipe, dump, load
from dicm_kit.recipe.schema import Recipe
from dicm_kit.reporting import report as write_report
from dicm_kit.reporting import report_after
from dicm_kit.session import Session, is_first
from dicm_kit.training.checkpoint_files import check_provenance, dataset_of, to_resume
from dicm_kit.training.measure_steps import Measured
from dicm_kit.training.same_run import check_dataset, check_recipe
from dicm_kit.training.warm_start import checkpoint_of
from dicm_kit.whole_file import is_full_disk, write_whole


def run(loaded: LoadedRecipe, *, resume: bool = False, overwrite: bool = False) -> dict[str, Any]:
    """Prepares and extracts what is missing, trains, tests, reports, and returns what test.json then holds.

    A run that goes on takes the dataset folder as it is, whatever the log has got since.

    Raises:
        RunError: the run folder is another run's, or there is nothing to resume, or it is of another recipe or data.
        RecipeError: it cannot fit into memory.
    """
    recipe, folder = loaded.recipe, Path(loaded.recipe.run_dir)
    source = rehearse(loaded)
    refuse_what_cannot_fit(loaded, None)  # tables of hashes, before hours of work; `Session` asks for the rest
    if recipe.warm_start.run is not None and not resume:  # now, and not after hours of work
        earlier = earlier_run(Path(recipe.warm_start.run), folder)
        if earlier is not None:
            checkpoint_of(earlier)
    with ExitStack() as stack:
        stack.enter_context(_full_disk_named(folder))
        if is_first():
            stack.enter_context(claimed(folder, resume=resume, overwrite=overwrite))
        text = dump(recipe, base=loaded.path.parent)
        checkpoint = to_resume(folder) if resume else None
        if checkpoint is not None:
            check_recipe(checkpoint, text)
        elif is_first():
            write_whole(folder / RECIPE_FILE, text)
            write_plugins(folder, loaded.registry.plugins)
        _use_machine(recipe)
        dataset = (_trained_on(checkpoint, recipe) if checkpoint else None) or _prepared(loaded, source)
        _say_changed_source(loaded, dataset)
        _check_test_split(dataset)
        if is_first() and not is_audited(dataset):
            print(f"{complaints(write_audit(dataset))}\nThe whole audit: {dataset.folder / AUDIT_FILE}")
        if checkpoint is not None:
            check_dataset(checkpoint, dataset)
        session = Session(loaded, dataset)
        if checkpoint is not None:
            check_provenance(checkpoint, session.provenance)
            if is_first():
                write_whole(folder / RECIPE_FILE, text)
                print(f"Going on from {checkpoint}.")
                _say_changed_plugins(loaded)
                write_plugins(folder, loaded.registry.plugins)
        session.write_vocabularies()
        session.fit(checkpoint)
        result = session.test(session.best_checkpoint())
    if is_first():
        report_after(session)
    return result


def prepare(loaded: LoadedRecipe) -> Dataset:
    """Makes the recipe's dataset folder, or goes on with it, and prints an audit of it; DataError for problems."""
    dataset = _prepared(loaded, rehearse(loaded))
    audit = write_audit(dataset)
    print(audit_text(audit))
    _say_changed_source(loaded, dataset)
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
    """Tests a run's best checkpoint again, prints the table and writes test.json and the report anew."""
    if not (run_dir / RECIPE_FILE).is_file():
        raise RunError(f"is no run folder: it has no {RECIPE_FILE}", where=str(run_dir), todo="See `dicm run --help`.")
    loaded = load(run_dir / RECIPE_FILE, [f"run_dir={run_dir}"])
    with claimed(run_dir, resume=True, overwrite=False):
        _use_machine(loaded.recipe)
        loaded.recipe.trainer.logger = "none"  # the log is the training's
        _say_changed_plugins(loaded)
        session = Session(loaded, _prepared(loaded, rehearse(loaded)))
        result = session.test(session.best_checkpoint())
    if is_first():
        report_after(session)
    return result


def against(runs: Sequence[Path], others: Sequence[Path]) -> dict[str, Difference]:
    """Prints how tested runs differ from others, and writes it into the first folder; nothing is trained or tested.

    Each side is one or more run folders, or folders with `seed-*` runs; runs are compared in pairs.
    """
    ours, other = (Side([run for folder in given for run in runs_in(folder)]) for given in (runs, others))
    found = differences(ours, other)
    called = others[0].resolve()
    name = f"{called.parent.name}-{called.name}" if called.name.startswith("seed-") else called.name
    file = runs[0] / f"against-{name}.json"
    write_whole(file, json.dumps(contents(ours, other, found), indent=2) + "\n")
    print_against(some(runs, 1), some(others, 1), found)
    print(f"All slices: {file}")
    return found


def report(run_dir: Path, against: Path | None = None) -> Path:
    """Writes report.html of a finished run, with its gain over another run where one is given."""
    _quiet_lightning()
    return write_report(run_dir, against)


def compare(
    paths: Sequence[Path],
    overrides: Sequence[str],
    seeds: int,
    markdown: Path | None = None,
    out: Path | None = None,
) -> list[Row]:
    """Runs recipes, or the rows of one comparison file, with each seed, and prints them in one table.

    `markdown` is a file for the table, `out` a folder for it as Markdown, CSV and PNG.
    """
    if any(is_comparison(path) for path in paths):
        if len(paths) > 1:
            raise RecipeError("a comparison file is given alone", where="command line", todo="It names its recipes.")
        comparison = load_comparison(paths[0], overrides)
        planned, first = plan_file(comparison, seeds), comparison.against
    else:
        planned = plan_recipes(paths, overrides, seeds)
        first = planned[0].name
    check_data(planned, _fingerprint)
    rows, oracle = compared(planned, first)
    print_comparison(rows, oracle, first)
    if markdown is not None:
        write_whole(markdown, comparison_markdown(rows, oracle, first))
    if out is not None:
        print("\n" + "\n".join(str(each) for each in write_comparison(out, rows, oracle, first)))
    return rows


def bench(loaded: LoadedRecipe, steps: int) -> Measured:
    """Prepares and extracts what is missing, trains so many steps, prints where their time goes; leaves no run."""
    only_train(loaded, steps)
    source = rehearse(loaded)
    _use_machine(loaded.recipe)
    session = Session(loaded, _prepared(loaded, source))
    found = measure(session, steps)
    if is_first():
        print_measured(session, found)
    return found


def _say_changed_plugins(loaded: LoadedRecipe) -> None:
    if is_first():
        for plugin in changed_plugins(Path(loaded.recipe.run_dir), loaded.registry.plugins):
            print(f"The code of plugin {plugin} is not that which the run was made with.")


def _say_changed_source(loaded: LoadedRecipe, dataset: Dataset) -> None:
    """Says so when the dataset folder was prepared with other code of the plugin that its source comes from."""
    plugin = loaded.registry.owner("data_source", loaded.recipe.data.name).plugin
    made = code_of(dataset.folder)
    if is_first() and made is not None and plugin.code is not None and made != plugin.code:
        print(
            f"The code of plugin {plugin} has changed since {dataset.folder} was prepared. If the tables would come "
            "out different now, raise the version in its `fingerprint`, or delete the folder."
        )


def _fingerprint(loaded: LoadedRecipe) -> str:
    return _prepared(loaded, rehearse(loaded)).fingerprint


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


@contextmanager
def _full_disk_named(folder: Path) -> Iterator[None]:
    """Turns the system's error into one that says what to do."""
    try:
        yield
    except DicmError:
        raise
    except Exception as error:
        if not is_full_disk(error):
            raise
        raise RunError(
            "no space left on the device, here or where `data.out` is",
            where=str(folder),
            todo="Make room, then go on with --resume, or with --overwrite where there is no checkpoint.",
        ) from error


def _trained_on(checkpoint: Path, recipe: Recipe) -> Dataset | None:
    """Returns the dataset that a checkpoint was trained on, if the folder still holds it.

    Not brought up to date: the run could not go on when the log has got another day since it was cut off.
    """
    folder = Path(recipe.data.out)
    dataset = Dataset.open(folder) if (folder / DATASET_FILE).is_file() else None
    return dataset if dataset is not None and dataset.fingerprint == dataset_of(checkpoint) else None


def _check_test_split(dataset: Dataset) -> None:
    """Refuses what could not be tested, before it is trained: an untested run is none to the next day's."""
    if not dataset.splits["test"].impressions:
        raise DataError(
            "the test split is empty, and a run ends with a test",
            where=str(dataset.folder),
            todo="Set `data.split.test` above 0, and another folder for `data.out`.",
        )


def _prepared(loaded: LoadedRecipe, source: Any) -> Dataset:
    data = loaded.recipe.data
    keys = {each.name for each in fields(PrepareOptions)} & {each.name for each in fields(data)}
    options = PrepareOptions(**{name: getattr(data, name) for name in keys})
    try:
        code = loaded.registry.owner("data_source", data.name).plugin.code
        return prepare_dataset(source, options, data.out, memory_mb=data.memory_mb, code=code)
    except FieldError as error:
        raise loaded.error(f"data.{error.field}", error.what, error.todo) from error
