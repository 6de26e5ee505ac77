"""A data source -> the dataset folder, in steps that are not done twice. The format: docs/reference/dataset_folder.md.

```
source.items, impressions, users  -> .prepare/*.parquet    types and values checked            ingest
source.pictures                   -> images/               shards by partition                 pictures
new rows of the log               -> .prepare/new/state/   their part, counts, clicks          parts, state, tables
counts of all parts               -> .prepare/new/         vocab/, items.parquet               tables, vocabulary
new rows                          -> .prepare/sorted.parquet   by user and time, encoded       tables
                                  -> .prepare/new/samples/ groups with histories, in lanes    negatives, grouping, lanes
.prepare/new                      -> the folder, when all of it is there; dataset.yaml comes last
```

A folder that is there already gets the days that are new: parts that are written stay as they are.
"""

import shutil
from pathlib import Path
from typing import Any

from dicm_kit.data.dataset import DATASET_FILE, Dataset
from dicm_kit.data.description import Asked
from dicm_kit.data.options import (
    GroupOptions,
    HistoryOptions,
    NegativeOptions,
    PrepareOptions,
    SplitOptions,
    check_options,
)
from dicm_kit.data.preparation import Preparation
from dicm_kit.data.progress import shown
from dicm_kit.data.state import STATE, State
from dicm_kit.data.steps import full_disk_explained, locked, move_in, publish
from dicm_kit.errors import DataError
from dicm_kit.interfaces import DataSource

__all__ = ["GroupOptions", "HistoryOptions", "NegativeOptions", "PrepareOptions", "SplitOptions", "code_of", "prepare"]

_WORK = ".prepare"
_LOCK = ".prepare.lock"
_READY = "ready"


def prepare(
    source: DataSource,
    options: PrepareOptions,
    out: Path | str,
    *,
    progress: bool = True,
    memory_mb: int = 256,
    code: str | None = None,
) -> Dataset:
    """Returns the dataset folder `out` of the source: made, gone on with where a run was cut off, grown by the days
    that are new, or as it is.

    A folder of another source, of other options, of another version or of a log that changed is left alone: DataError.
    One process prepares a folder, others wait for it. `memory_mb`: what sorting and joining may take, in MB, before
    they go to disk under `out`. `code`: a hash of the source's code, which the folder keeps; `code_of` returns it.
    """
    check_options(options)
    out = Path(out)
    asked = _asked(source, options, out)
    if done := _complete(out, asked):
        return done
    _check_free(out)
    with full_disk_explained(out, lambda: "the folder"):
        (out / _WORK).mkdir(parents=True, exist_ok=True)
    with shown(progress) as show, locked(out / _LOCK, lambda: show.waiting(out)):
        with full_disk_explained(out, lambda: show.step):
            if (out / _WORK / _READY).is_dir():  # a run was cut off while it moved its files in
                _finish(out)
        asked = _asked(source, options, out)
        if done := _complete(out, asked):  # another process was faster
            return done
        (out / _WORK).mkdir(exist_ok=True)
        with full_disk_explained(out, lambda: show.step):
            new = Preparation(source, options, out, out / _WORK, asked, memory_mb, show, code).run()
            publish(new, out / _WORK / _READY)
            _finish(out)
            return Dataset.open(out)


def code_of(folder: Path) -> str | None:
    """Returns the hash of the code that a dataset folder was prepared with; None where it keeps none."""
    state = State.read(folder / STATE)
    return state.code if state else None


def _asked(source: DataSource, options: PrepareOptions, out: Path) -> Asked:
    state = State.read(out / STATE) if (out / DATASET_FILE).exists() else None
    return Asked.of(source, options, state.pieces if state else {})


def _finish(out: Path) -> None:
    """Moves what is ready into the folder; a run that is cut off here is gone on with here."""
    ready = out / _WORK / _READY
    if (ready / DATASET_FILE).exists():
        (out / DATASET_FILE).unlink(missing_ok=True)  # from here on, until the new one is there, it is not a dataset
        for name in ("samples", "vocab", "items.parquet", "images", STATE, DATASET_FILE):
            move_in(ready / name, out / name, merge=name != "vocab")
    shutil.rmtree(out / _WORK)


def _complete(out: Path, asked: Asked) -> Dataset | None:
    """Returns the dataset when the folder holds it, None when it holds none or one that can grow to it; DataError when
    it holds another."""
    if not (out / DATASET_FILE).exists():
        return None
    dataset = Dataset.open(out)
    if dataset.fingerprint == asked.fingerprint:
        shutil.rmtree(out / _WORK, ignore_errors=True)  # a run was cut off at its very end
        return dataset
    before, now = _flat(dataset.made), _flat(asked.made)
    changes = [f"{name} was {before.get(name)}, now {now.get(name)}" for name in now if before.get(name) != now[name]]
    if not changes and State.read(out / STATE) is not None:
        return None
    raise DataError(
        f"was prepared from another source or with other options ({'; '.join(changes) or 'columns differ'})",
        where=str(out),
        todo="Choose another folder for `data.out`, or delete this one to prepare it anew.",
    )


def _check_free(out: Path) -> None:
    """Raises DataError when the folder holds something that is no preparation of ours."""
    if out.exists() and not out.is_dir():
        raise DataError("is a file, not a folder", where=str(out), todo="Choose another `data.out`.")
    ours = (out / _WORK).is_dir() or (out / DATASET_FILE).exists()
    if out.is_dir() and not ours and any(path.name != _LOCK for path in out.iterdir()):
        raise DataError(
            "is not empty and not a dataset folder: nothing was written",
            where=str(out),
            todo="Choose another folder for `data.out`.",
        )


def _flat(options: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in options.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat
