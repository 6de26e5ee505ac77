"""report.html of a run: by `dicm report`, and at the end of `dicm run`; asks the model again for what is shown."""

import os
import subprocess
import sys
from pathlib import Path

from dicm_kit.artifacts.report.collect import Facts, collect
from dicm_kit.artifacts.report.gallery import Gallery, gallery
from dicm_kit.artifacts.report.page import REPORT_FILE, write_report
from dicm_kit.artifacts.run_folder import RECIPE_FILE, RESULT_FILE
from dicm_kit.data.dataset import Dataset
from dicm_kit.errors import DicmError, RunError
from dicm_kit.recipe.load import LoadedRecipe, load
from dicm_kit.session import Session

_OF_RANKS = ("RANK", "LOCAL_RANK", "GROUP_RANK", "NODE_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR",
             "MASTER_PORT", "ROLE_", "TORCHELASTIC_", "SLURM_", "PL_")  # fmt: skip


def report(run_dir: Path, against: Path | None = None) -> Path:
    """Writes the report of a finished run, with its gain over another one where one is given, and returns the file.

    Where the dataset is gone, or does not fit the run any more, there is no gallery; the page and the terminal say so.
    """
    facts = collect(run_dir, against)
    try:
        shown: Gallery | str = _gallery_of(run_dir, facts)
    except DicmError as error:
        shown = f"{error.where}: {error.what}" if error.where else error.what
        print(f"warning: the report has no gallery: {shown}")
    return write_report(facts, shown)


def report_after(session: Session) -> None:
    """Writes the report of the run that this session has just tested; rank 0 calls it.

    A run on several ranks is reported by a process of its own: here a part of the model may be on other ranks.

    Raises:
        RunError: it could not be made. What the run has measured is on disk.
    """
    folder = session.folder
    try:
        if session.is_alone:
            facts = collect(folder)
            file = write_report(facts, _ask(session, facts))
        else:
            file = _report_apart(folder)
    except Exception as error:  # whatever it is: nothing that was trained or tested depends on it
        raise RunError(
            f"the report could not be made: {error if isinstance(error, DicmError) else repr(error)}",
            where=str(folder),
            todo=f"The run is finished, its results are in {RESULT_FILE}. Try again: dicm report {folder}",
        ) from error
    print(f"Report: {file}")


def _ask(session: Session, facts: Facts) -> Gallery:
    data = session.data
    return gallery(session.module, session.dataset, data.columns, data.max_history, facts.run.predictions.rows)


def _gallery_of(run_dir: Path, facts: Facts) -> Gallery:
    loaded = _small(load(run_dir / RECIPE_FILE, [f"run_dir={run_dir}"]))
    dataset = Dataset.open(loaded.recipe.data.out)
    if dataset.fingerprint != facts.run.predictions.fingerprint:
        raise RunError(
            f"the dataset has changed since the run was tested: its fingerprint is {dataset.fingerprint}, it was "
            f"{facts.run.predictions.fingerprint}",
            where=str(dataset.folder),
        )
    session = Session(loaded, dataset)
    session.load(session.best_checkpoint())
    return _ask(session, facts)


def _small(loaded: LoadedRecipe) -> LoadedRecipe:
    """Makes a recipe one for a few predictions: on the processor, alone, and no more in memory than is needed."""
    recipe = loaded.recipe
    trainer = recipe.trainer
    trainer.devices = trainer.num_nodes = 1
    trainer.strategy, trainer.accelerator, trainer.precision, trainer.logger = "auto", "cpu", "32-true", "none"
    recipe.data.workers = 0
    if recipe.images is not None:
        recipe.images.store, recipe.images.transport, recipe.images.max_distinct = "mmap", "vectors", None
    return loaded


def _report_apart(folder: Path) -> Path:
    """Makes the report in a process that knows nothing of ranks."""
    alone = {name: value for name, value in os.environ.items() if not name.startswith(_OF_RANKS)}
    command = [sys.executable, "-m", "dicm_kit", "report", str(folder)]
    ended = subprocess.run(command, env=alone, check=False, capture_output=True, text=True)
    if ended.returncode:
        raise RunError(ended.stderr.strip() or f"it ended with exit code {ended.returncode}", where="dicm report")
    for line in ended.stdout.splitlines():
        if line.startswith("warning: "):
            print(line)
    sys.stderr.write(ended.stderr)
    return folder / REPORT_FILE
