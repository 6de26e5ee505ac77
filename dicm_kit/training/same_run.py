"""Whether a run that goes on is the run that its checkpoint was written by: recipe and data, compared key by key."""

import hashlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import yaml

from dicm_kit.data.dataset import Dataset
from dicm_kit.errors import RunError, some, some_lines
from dicm_kit.training.checkpoint_files import Provenance, read_checkpoint

MAY_CHANGE = (
    "run_dir",
    "plugins",  # `check_plugins` compares them; what they provide has keys of its own
    "warm_start",  # was done when the run began
    "checkpoint",
    "trainer",
    "data.root",
    "data.out",
    "data.workers",
    "data.memory_mb",
    "images.max_distinct",
    "images.missing",
    "images.store",
    "images.transport",
)
"""Keys, or sections of keys, that say where, how long and how safely to train. Others make another model of it, or are
overruled by what the checkpoint holds, such as learning rates."""
_LONGEST = 60  # characters of a value in a message
_ABSENT = object()


def check_recipe(path: Path, recipe: str) -> None:
    """Raises RunError, which lists what differs, when the checkpoint was written by another recipe than this text."""
    made = read_checkpoint(path)["dicm"]["provenance"]
    other = list(differences(yaml.safe_load(made["recipe"]), yaml.safe_load(recipe), "checkpoint", "recipe"))
    if other:
        raise RunError(
            f"was written by another recipe:\n  {some_lines(other)}",
            where=str(path),
            todo="A run goes on with the recipe that it was begun with; what may change is "
            f"{', '.join(MAY_CHANGE)}. {_otherwise(path)}",
        )


def check_dataset(path: Path, dataset: Dataset) -> None:
    """Raises RunError, which says what changed, when the checkpoint was trained on another dataset."""
    made, here = read_checkpoint(path)["dicm"]["provenance"], held_by(dataset)
    other = list(differences(made["data"], here["data"], "checkpoint", "dataset folder"))
    if made["vocabularies"] != here["vocabularies"]:
        both = made["vocabularies"].keys() & here["vocabularies"].keys()
        names = sorted(name for name in both if made["vocabularies"][name] != here["vocabularies"][name])
        other.append(f"other ids, or ids in another order: {some(names)}")
    if other:
        raise RunError(
            f"was trained on other data than the dataset folder holds now:\n  {some_lines(other, 10)}",
            where=str(path),
            todo="A run goes on with the data that it was begun with: `data.out` must lead to them. "
            + _otherwise(path),
        )


def held_by(dataset: Dataset) -> Provenance:
    """Returns the part of a provenance that says what data a run was trained on: `data` and `vocabularies`."""
    sides = (dataset.user, dataset.item, dataset.context)
    ids = {info.vocab: info.num_ids for side in sides for info in side.values() if info.vocab}
    days = [part.last_day for part in dataset.parts.values() if part.last_day]
    return {
        "data": {
            **{f"{split} impressions": info.impressions for split, info in dataset.splits.items()},
            "last day": max(days, default=None),
            "items": dataset.num_items,
            "pictures": dataset.num_pictures,
            **{f"ids of {name}": ids[name] for name in sorted(ids)},
            "fingerprint": dataset.fingerprint,
        },
        "vocabularies": {
            name: hashlib.sha256(dataset.vocab_file(name).read_bytes()).hexdigest()[:16] for name in sorted(ids)
        },
    }


def _otherwise(path: Path) -> str:
    return (
        "To train something else: another `run_dir`, or --overwrite; `run_dir=OTHER "
        f"warm_start.run={path} warm_start.parts=all` starts with the weights that it has."
    )


def differences(there: Any, here: Any, name_there: str, name_here: str, key: str = "") -> Iterator[str]:
    """Yields "net.hidden: [32] in the checkpoint, [64] in the recipe" for every key with another value.

    Of a section whose `name` differs that key alone: all its other keys mean something else.
    """
    if isinstance(there, dict) and isinstance(here, dict):
        names: Iterable[str] = dict.fromkeys((*there, *here))
        components = there.get("name", _ABSENT), here.get("name", _ABSENT)
        if components[0] != components[1] and all(isinstance(each, str) for each in components):
            names = ["name"]
        for name in names:
            inner = f"{key}.{name}" if key else name
            if inner not in MAY_CHANGE:
                yield from differences(there.get(name, _ABSENT), here.get(name, _ABSENT), name_there, name_here, inner)
    elif there != here:
        yield f"{key}: {_shown(there)} in the {name_there}, {_shown(here)} in the {name_here}"


def _shown(value: Any) -> str:
    if value is _ABSENT:
        return "not"
    if isinstance(value, int | str) and not isinstance(value, bool):
        return f"{value:,}" if isinstance(value, int) and abs(value) > 9999 else str(value)
    text = yaml.safe_dump(value, default_flow_style=True, sort_keys=False, width=10**6).removesuffix("...\n").strip()
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
