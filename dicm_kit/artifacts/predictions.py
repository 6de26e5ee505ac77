"""test_predictions.parquet in the run folder: every impression of the test split with its logit, once.

Intervals and differences of runs are computed from these files; neither model nor dataset is needed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from dicm_kit.artifacts.run_folder import RECIPE_FILE
from dicm_kit.errors import RunError, some
from dicm_kit.training.slices import Impressions
from dicm_kit.whole_file import write_whole

PREDICTIONS_FILE = "test_predictions.parquet"
_TYPES = {
    "user": "int64",
    "item": "int32",
    "label": "int8",
    "weight": "float32",
    "history": "int32",
    "decile": "int8",
    "logit": "float32",
}
_SAME = ("user", "item", "label", "weight")
"""What the rows of two runs must share; how long a history is, is up to the recipe."""
_FINGERPRINT, _VERSION = b"dicm_dataset_fingerprint", b"dicm_predictions"


@dataclass(frozen=True)
class Predictions:
    """What a run's best checkpoint said of the test split."""

    run_dir: Path
    fingerprint: str
    """Of the dataset."""
    rows: Impressions
    """user, item (row of items.parquet), label, weight, history (its length), decile (see `TargetSlices`), logit."""


def in_order(rows: Impressions) -> Impressions:
    """Returns the rows by user, item, label, weight, history, then logit: an order that ranks leave no trace in."""
    # Rows that are equal in all of these are one as good as the other.
    rows = {name: np.asarray(rows[name], dtype=kind) for name, kind in _TYPES.items()}
    order = np.lexsort([rows[name] for name in reversed(_TYPES)])
    return {name: values[order] for name, values in rows.items()}


def write_predictions(folder: Path, rows: Impressions, fingerprint: str) -> None:
    """Writes the file, whole or not at all; rows as `in_order` returns them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    metadata = {_FINGERPRINT: fingerprint.encode(), _VERSION: b"1"}
    file = BytesIO()
    pq.write_table(pa.table(dict(rows)).replace_schema_metadata(metadata), file, compression="zstd")
    write_whole(folder / PREDICTIONS_FILE, file.getvalue())


def read_predictions(folder: Path) -> Predictions:
    """Returns a run's predictions.

    Raises:
        RunError: there are none, or the file is not what `write_predictions` writes.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    file, todo = folder / PREDICTIONS_FILE, f"Make it: dicm test {folder}"
    if not file.is_file():
        raise RunError(f"has no {PREDICTIONS_FILE}", where=str(folder), todo=todo)
    try:
        table = pq.read_table(file, partitioning=None)
        metadata = table.schema.metadata or {}
        rows: dict[str, Any] = {name: table[name].to_numpy() for name in _TYPES}
        return Predictions(folder, metadata[_FINGERPRINT].decode(), rows)
    except (pa.ArrowException, KeyError) as error:
        raise RunError(f"cannot be read: {type(error).__name__} {error}", where=str(file), todo=todo) from error


def tested_on(folder: Path) -> str | None:
    """Returns the fingerprint of the dataset that a run was tested on; None where it left no predictions."""
    import pyarrow.parquet as pq

    file = folder / PREDICTIONS_FILE
    return (pq.read_schema(file).metadata or {}).get(_FINGERPRINT, b"").decode() if file.is_file() else None


def check_same_rows(one: Predictions, other: Predictions) -> None:
    """Raises RunError, which says what differs, unless both are of the same impressions."""
    difference = _difference(one, other)
    if difference:
        raise RunError(
            f"was not tested on the impressions of {one.run_dir}: {difference}",
            where=str(other.run_dir),
            todo="Only runs of one dataset, with one test split, can be compared: give both the same `data`.",
        )


def _difference(one: Predictions, other: Predictions) -> str | None:
    if one.fingerprint != other.fingerprint:
        keys = some(_other_keys(_data_keys(other.run_dir), _data_keys(one.run_dir)))
        said = f" ({keys})" if keys else ""
        return f"the dataset's fingerprint is {other.fingerprint}, there it is {one.fingerprint}{said}"
    sizes = len(one.rows["user"]), len(other.rows["user"])
    if sizes[0] != sizes[1]:
        return f"{sizes[1]:,} impressions, there {sizes[0]:,}"
    differ = np.zeros(sizes[0], dtype=bool)
    for name in _SAME:
        differ |= one.rows[name] != other.rows[name]
    if not differ.any():
        return None
    first = int(differ.argmax())
    here, there = (", ".join(f"{name} {each.rows[name][first]}" for name in _SAME) for each in (other, one))
    return f"{differ.sum():,} of {sizes[0]:,} differ, the first is {here}, there {there}"


def _data_keys(run_dir: Path) -> dict[str, Any]:
    """Returns the keys of `data` in a run's recipe, dotted."""
    recipe = yaml.safe_load((run_dir / RECIPE_FILE).read_text())
    return dict(_flat("data", recipe.get("data")))


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(f"{name}.{key}", inner)
    else:
        yield name, value


def _other_keys(here: dict[str, Any], there: dict[str, Any]) -> list[str]:
    names = [name for name in here | there if here.get(name) != there.get(name)]
    return [f"{name}: {here.get(name)}, there {there.get(name)}" for name in names]
