"""Checkpoints on disk: which one a resume takes, what is in it, and whether it is of these plugins and vocabularies."""

import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_only, rank_zero_warn

from dicm_kit.data.datamodule import CtrDataModule
from dicm_kit.errors import RunError, some, some_lines
from dicm_kit.training.table_files import check_files

CHECKPOINTS = "checkpoints"
"""The folder in a run folder."""

Provenance = dict[str, Any]
"""Where a checkpoint comes from, as plain values: `recipe` (text), `vocabularies` (name -> fingerprint), `id_columns`
("user.city" -> vocabulary, None for a hash), `data` (what the dataset holds, by name), `backbone` (fingerprint, or
None), `plugins` (name -> version), `hook_api`."""


def usable(run_dir: Path) -> tuple[list[Path], list[RunError]]:
    """Returns the checkpoints of a run folder that can be read, that of the most steps first; and why others cannot."""
    found, broken = [], []
    for path in sorted((run_dir / CHECKPOINTS).glob("*.ckpt")):
        try:
            checkpoint = read_checkpoint(path)
            if tables := checkpoint["dicm"].get("tables"):
                check_files(path.parent / tables["folder"], tables["sizes"])
        except RunError as error:
            broken.append(error)
        else:
            found.append((checkpoint["global_step"], path.stat().st_mtime, path))
    return [path for _, _, path in sorted(found, reverse=True)], broken


def find_resumable(run_dir: Path) -> Path | None:
    """Returns the checkpoint of the most steps that can be read, or None when the run folder has none."""
    return next(iter(usable(run_dir)[0]), None)


def to_resume(run_dir: Path) -> Path:
    """Returns what `find_resumable` does; rank 0 says which files are passed over, and why.

    Raises:
        RunError: there is none.
    """
    found, broken = usable(run_dir)
    passed_over = [f"{error.where}: {error.what}" for error in broken]
    if not found:
        none = "has no checkpoint to go on from"
        raise RunError(
            f"{none}, only such as cannot be used:\n  {some_lines(passed_over)}" if passed_over else none,
            where=str(run_dir / CHECKPOINTS),
            todo="Start again with --overwrite; `checkpoint.every` says how often one is written.",
        )
    for each in passed_over:
        rank_zero_only(print)(f"Passed over {each}")
    return found[0]


def trained_on(run_dir: Path) -> str | None:
    """Returns the fingerprint of the dataset that a run was trained on so far; None when it has no checkpoint."""
    found = find_resumable(run_dir)
    return None if found is None else dataset_of(found)


def dataset_of(path: Path) -> str:
    """Returns the fingerprint of the dataset that a checkpoint was trained on."""
    return read_checkpoint(path)[CtrDataModule.__qualname__]["dataset"]


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Returns a checkpoint's contents, its tensors mapped from the file and not read yet."""
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError:
        raise RunError("no such checkpoint", where=str(path)) from None
    except Exception as error:  # torch.load raises half a dozen kinds, by where the file is cut
        raise RunError(
            f"cannot be read as a checkpoint: {str(error).splitlines()[0]}",
            where=str(path),
            todo="Take another file of the folder; an interrupted run leaves none that is cut.",
        ) from error
    if not isinstance(checkpoint, dict) or "dicm" not in checkpoint:
        raise RunError("is not a checkpoint of dicm_kit", where=str(path))
    return checkpoint


def told(path: Path, monitor: str | None) -> str:
    """Returns in a line which checkpoint is tested, and why: the best is often of an earlier epoch than the last."""
    content = read_checkpoint(path)
    step = f"step {content['global_step']:,}"
    if path.name == "best.ckpt":  # written within its epoch, others also after it
        return f"Tested: best.ckpt, epoch {content['epoch'] + 1}, {step}, by {monitor}"
    return f"Tested: {path.name}, {step}; {f'{monitor} had no best' if monitor else 'no `checkpoint.monitor` is set'}"


def best_in(run_dir: Path) -> Path | None:
    """Returns the best checkpoint of a run folder, the last one where no best was kept, or None when it has neither."""
    paths = (run_dir / CHECKPOINTS / name for name in ("best.ckpt", "last.ckpt"))
    return next((path for path in paths if path.is_file()), None)


def clear_unfinished(folder: Path) -> None:
    """Deletes what a run that was killed, or had no room, began to write: no checkpoint that can be read names it."""
    named = set()
    for path in folder.glob("*.ckpt"):
        with suppress(RunError):
            named.add(read_checkpoint(path)["dicm"].get("tables", {}).get("folder"))
    for path in [*folder.glob(".*.tmp"), *folder.glob(".*.old"), *folder.glob("*.tables")]:
        if path.is_dir() and path.name not in named:
            shutil.rmtree(path)
        elif path.is_file():
            path.unlink()


def check_provenance(path: Path, here: Provenance) -> None:
    """Refuses a checkpoint of another plugin API or other vocabularies; warns of plugins in another version."""
    made = read_checkpoint(path)["dicm"]["provenance"]
    check_plugins(path, made, here)
    vocabularies, known = here.get("vocabularies", {}), made.get("vocabularies", {})
    other = [name for name, fingerprint in vocabularies.items() if known.get(name) != fingerprint]
    if other:
        raise RunError(
            f"was trained with other vocabularies than the dataset has: {some(other)}",
            where=str(path),
            todo="Its id tables would be read by the wrong rows. Use the dataset it was trained on, or train anew; "
            "`warm_start.run` takes rows over by value.",
        )


def check_plugins(path: Path, made: Provenance, here: Provenance) -> None:
    """Refuses a checkpoint of another plugin API; warns of plugins in another version, and of those that are gone."""
    if made.get("hook_api") != here.get("hook_api"):
        raise RunError(
            f"was made with plugin API {made.get('hook_api')}, this dicm_kit speaks {here.get('hook_api')}",
            where=str(path),
            todo="Use the dicm_kit that made it, or train anew.",
        )
    there = made.get("plugins", {})
    for name, version in here.get("plugins", {}).items():
        if there.get(name) != version:
            before = there.get(name, "none")
            rank_zero_warn(f"{path}: plugin {name} is version {version} here and was {before} when it was made")
    for name, version in there.items():  # a file has no version, and is listed by another path where the recipe moves
        if version is not None and name not in here.get("plugins", {}):
            rank_zero_warn(f"{path}: plugin {name}, version {version}, is not listed here and was when it was made")
