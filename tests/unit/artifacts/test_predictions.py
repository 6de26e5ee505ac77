"""test_predictions.parquet: what is written is read, whatever the order; other rows are told."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from unit.artifacts.predicted import rows, run_folder

from dicm_kit.artifacts.predictions import PREDICTIONS_FILE, check_same_rows, in_order, read_predictions
from dicm_kit.errors import RunError


def test_what_is_written_is_read(tmp_path: Path) -> None:
    found = read_predictions(run_folder(tmp_path / "run"))
    assert found.fingerprint == "d1"
    wanted = in_order(rows())
    assert found.rows.keys() == wanted.keys()
    for name, values in found.rows.items():
        assert values.dtype == wanted[name].dtype
        assert np.array_equal(values, wanted[name]), name
    table = pq.read_table(tmp_path / "run" / PREDICTIONS_FILE)
    assert {"user", "item", "label", "weight", "logit"} <= set(table.column_names)
    assert str(table.schema.field("logit").type) == "float"


def test_the_order_of_ranks_leaves_no_trace() -> None:
    columns = rows()
    columns["item"] //= 10  # many rows of one user and item
    order = np.random.default_rng(3).permutation(len(columns["user"]))
    mixed = in_order({name: values[order] for name, values in columns.items()})
    for name, values in in_order(columns).items():
        assert np.array_equal(values, mixed[name]), name
    assert (np.diff(mixed["user"]) >= 0).all()


def changed(name: str, row: int, value: Any) -> dict[str, Any]:
    columns = in_order(rows())
    columns[name][row] = value
    return columns


@pytest.mark.parametrize(
    ("columns", "fingerprint", "says"),
    [
        (None, "d2", "the dataset's fingerprint is d2, there it is d1"),
        ({name: values[:-3] for name, values in rows().items()}, "d1", "1,197 impressions, there 1,200"),
        (changed("item", 2, -1), "d1", "differ, the first is user 0, item -1, label"),
        (changed("weight", -1, 9.0), "d1", "1 of 1,200 differ, the first is user 39"),
    ],
)
def test_other_rows_are_told(columns: dict[str, Any] | None, fingerprint: str, says: str, tmp_path: Path) -> None:
    one = read_predictions(run_folder(tmp_path / "one"))
    other = read_predictions(run_folder(tmp_path / "other", columns, fingerprint))
    with pytest.raises(RunError, match="was not tested on the impressions of") as caught:
        check_same_rows(one, other)
    assert says in str(caught.value)
    assert str(tmp_path / "other") in str(caught.value)


def test_another_dataset_is_told_by_the_keys_of_its_recipe(tmp_path: Path) -> None:
    one, other = (run_folder(tmp_path / name, fingerprint=name) for name in ("d1", "d2"))
    (one / "recipe.yaml").write_text("data: {name: log, split: {by: time, test: 1}, out: data/x}\n")
    (other / "recipe.yaml").write_text("data: {name: log, split: {by: time, test: 2}, out: data/x, seed: 3}\n")
    with pytest.raises(RunError, match=r"\(data.split.test: 2, there 1, data.seed: 3, there None\)"):
        check_same_rows(read_predictions(one), read_predictions(other))


def test_logits_and_histories_may_differ(tmp_path: Path) -> None:
    one = read_predictions(run_folder(tmp_path / "one"))
    other = rows(noise=1)
    other["history"] = np.minimum(other["history"], 1)
    check_same_rows(one, read_predictions(run_folder(tmp_path / "other", other)))


@pytest.mark.parametrize("damage", ["missing", "cut", "another table"])
def test_a_file_that_is_missing_or_broken_says_how_to_make_it(damage: str, tmp_path: Path) -> None:
    file = run_folder(tmp_path / "run") / PREDICTIONS_FILE
    if damage == "missing":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(file.read_bytes()[:-100])
    else:
        pq.write_table(pq.read_table(file).drop_columns(["weight"]), file)
    with pytest.raises(RunError, match=f"dicm test {tmp_path}/run"):
        read_predictions(tmp_path / "run")
