"""The run folder: one run at a time, nothing overwritten unasked.

```
recipe.yaml               the recipe with every key, written before anything runs
plugins.json              name, version and a hash of the code of each plugin it lists; only where it lists some
metrics.csv               what was logged
checkpoints/              step-*.ckpt, best.ckpt, last.ckpt
vocab/                    which id each row of the id tables stands for: what a later run's warm start goes by
test_predictions.parquet  every impression of the test split with its logit
test.json                 written last of the results: a folder with it is a finished run
report.html               all of it to look at
against-*.json            differences to other runs, where asked for
```
"""

import fcntl
import json
import os
import re
import shutil
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dicm_kit.errors import RunError, some
from dicm_kit.plugin_modules import Plugin
from dicm_kit.training.row_values import VOCAB
from dicm_kit.whole_file import write_whole

RECIPE_FILE = "recipe.yaml"
RESULT_FILE = "test.json"
PLUGINS_FILE = "plugins.json"
_LOCK = ".lock"


@contextmanager
def claimed(folder: Path, *, resume: bool, overwrite: bool) -> Iterator[None]:
    """Makes the folder and keeps other runs out of it until the end.

    Raises:
        RunError: another run is in it now, or it holds a run and neither `resume` nor `overwrite` was asked for.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise RunError(
                f"another run is in this folder now (process {lock.read().strip() or 'unknown'})",
                where=str(folder),
                todo="Wait for it, or give this run its own: run_dir=OTHER.",
            ) from None
        lock.truncate(0)
        lock.write(f"{os.getpid()} on {socket.gethostname()}\n")
        lock.flush()
        held = held_by(folder)
        if held and overwrite:
            _empty(folder)
        elif held and not resume:
            raise RunError(
                f"holds {held}",
                where=str(folder),
                todo="Go on with it by --resume, delete it by --overwrite, or give this run its own: run_dir=OTHER.",
            )
        yield


def held_by(folder: Path) -> str | None:
    """Returns in words which run is in a folder, so that another one would be refused; None: it is free."""
    held = {path.name for path in _own(folder) if not _is_bare(path)} if folder.is_dir() else set()
    # a run that ended before or in its first step, by a wrong log or a plugin's mistake: nothing is lost
    if not held or (RECIPE_FILE in held and held <= {RECIPE_FILE, PLUGINS_FILE, VOCAB}):
        return None
    return "a finished run" if RESULT_FILE in held else "a run that was not finished"


def runs_in(folder: Path) -> list[Path]:
    """Returns the run folder itself, or its runs in the order of their seeds where it holds `seed-*` folders.

    Raises:
        RunError: it is neither.
    """
    if (folder / RECIPE_FILE).is_file():
        return [folder]
    named = {each: re.fullmatch(r"seed-(\d+)", each.name) for each in folder.glob("seed-*")}
    seeds = {path: int(match[1]) for path, match in named.items() if match and (path / RECIPE_FILE).is_file()}
    if not seeds:
        raise RunError(
            f"is no run folder: it has no {RECIPE_FILE} and no seed-* with one",
            where=str(folder),
            todo="See `dicm run --help`.",
        )
    return sorted(seeds, key=seeds.__getitem__)


def earlier_run(given: Path, run_dir: Path) -> Path | None:
    """Returns the run folder or checkpoint that `warm_start.run` means; None: there is none yet.

    Where `given` is the folder that `run_dir` is in, it is the last finished run there before `run_dir`, by name: a run
    that is made again later, or while another one trains, starts from the same one.

    Raises:
        RunError: it is none of the three.
    """
    if given.is_file() or (given / RECIPE_FILE).is_file():
        return given
    here = run_dir.resolve()
    if given.resolve() == here.parent:
        finished = [file.parent for file in given.glob(f"*/{RESULT_FILE}") if (file.parent / RECIPE_FILE).is_file()]
        return max((each for each in finished if each.name < here.name), default=None)
    held = sorted(file.parent.name for file in given.glob(f"*/{RECIPE_FILE}"))
    inside = f" It holds runs: {some(held)}." if held else ""
    raise RunError(
        f"there is no such run: no {RECIPE_FILE} in it" if given.is_dir() else "there is no such run",
        where=f"warm_start.run: {given}",
        todo=f"Name an earlier run's folder, or the one that run_dir is in: {run_dir.parent}.{inside}",
    )


def write_plugins(folder: Path, plugins: Sequence[Plugin]) -> None:
    """Writes plugins.json, where there are plugins."""
    if listed := _listed(plugins):
        write_whole(folder / PLUGINS_FILE, json.dumps(listed, indent=2) + "\n")


def changed_plugins(folder: Path, plugins: Sequence[Plugin]) -> list[str]:
    """Returns the names of those plugins whose code is not what the run in this folder was made with."""
    try:
        made = {each["name"]: each["code"] for each in json.loads((folder / PLUGINS_FILE).read_text())}
    except FileNotFoundError:
        made = {}
    return [each["name"] for each in _listed(plugins) if made.get(each["name"]) != each["code"]]


def _listed(plugins: Sequence[Plugin]) -> list[dict[str, Any]]:
    """Returns what plugins.json says of each; a file is called by its path from the root, as in recipe.yaml."""
    return [
        {"name": str(each.name if each.version else each.file), "version": each.version, "code": each.code}
        for each in plugins
        if each.code is not None
    ]


def read_result(folder: Path) -> dict[str, Any] | None:
    """Returns test.json, or None for a run that has not ended."""
    try:
        return json.loads((folder / RESULT_FILE).read_text())
    except FileNotFoundError:
        return None
    except json.JSONDecodeError as error:
        raise RunError(
            f"is not JSON: {error}", where=str(folder / RESULT_FILE), todo="Make it again: dicm test RUN_DIR."
        ) from error


def write_result(folder: Path, result: dict[str, Any]) -> None:
    """Writes test.json."""
    write_whole(folder / RESULT_FILE, json.dumps(result, indent=2) + "\n")


def _own(folder: Path) -> list[Path]:
    """Returns what belongs to the run in this folder: not the lock, not other runs below, not comparisons of those."""
    return [
        path
        for path in folder.iterdir()
        if path.name != _LOCK
        and not (path / RECIPE_FILE).is_file()
        and not any(path.glob(f"seed-*/{RECIPE_FILE}"))
        and not (path.match("against-*.json") and not (folder / RECIPE_FILE).is_file())
    ]


def _is_bare(path: Path) -> bool:
    return path.is_dir() and not any(path.iterdir())


def _empty(folder: Path) -> None:
    if not (folder / RECIPE_FILE).is_file():
        raise RunError(
            "is not a run folder: it has no recipe.yaml, and was left as it is",
            where=str(folder),
            todo="Choose another run_dir, or delete it yourself.",
        )
    for path in _own(folder):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
