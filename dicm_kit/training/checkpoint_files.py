"""Checkpoints on disk: which one a resume takes, what is in it, and whether it fits."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from dicm_kit.data.datamodule import CtrDataModule
from dicm_kit.errors import RunError, some
from dicm_kit.training.table_files import missing_files

CHECKPOINTS = "checkpoints"
"""The folder in a run folder."""

Provenance = dict[str, Any]
"""Where a checkpoint comes from, as plain values: `recipe` (text), `vocabularies` (name -> fingerprint), `id_columns`
("user.city" -> vocabulary, None for a hash), `backbone` (fingerprint, or None), `plugins` (name -> version),
`hook_api`."""


def find_resumable(run_dir: Path) -> Path | None:
    """Returns the checkpoint of the most steps that can be read, or None when the run folder has none."""
    found = []
    for path in sorted((run_dir / CHECKPOINTS).glob("*.ckpt")):
        with suppress(RunError):
            checkpoint = read_checkpoint(path)
            tables = checkpoint["dicm"].get("tables")
            if tables is None or not missing_files(path.parent / tables["folder"], tables["sizes"]):
                found.append((checkpoint["global_step"], path.stat().st_mtime, path))
    return max(found)[2] if found else None


def trained_on(run_dir: Path) -> str | None:
    """Returns the fingerprint of the dataset that a run was trained on so far; None when it has no checkpoint."""
    found = find_resumable(run_dir)
    return None if found is None else read_checkpoint(found)[CtrDataModule.__qualname__]["dataset"]


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


def best_in(run_dir: Path) -> Path | None:
    """Returns the best checkpoint of a run folder, the last one where no best was kept, or None when it has neither."""
    paths = (run_dir / CHECKPOINTS / name for name in ("best.ckpt", "last.ckpt"))
    return next((path for path in paths if path.is_file()), None)


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
    """Refuses a checkpoint of another plugin API; warns of plugins in another version."""
    if made.get("hook_api") != here.get("hook_api"):
        raise RunError(
            f"was made with plugin API {made.get('hook_api')}, this dicm_kit speaks {here.get('hook_api')}",
            where=str(path),
            todo="Use the dicm_kit that made it, or train anew.",
        )
    for name, version in here.get("plugins", {}).items():
        if made.get("plugins", {}).get(name) != version:
            before = made.get("plugins", {}).get(name, "none")
            rank_zero_warn(f"{path}: plugin {name} is version {version} here and was {before} when it was made")
