"""The difference of two sides: paired over users, over seeds, refused where rows differ."""

from pathlib import Path
from statistics import stdev
from typing import Any

import numpy as np
import pytest
from unit.artifacts.predicted import USERS, rows, run_folder

from dicm_kit.artifacts.difference import Side, contents, differences
from dicm_kit.artifacts.predictions import read_predictions
from dicm_kit.errors import RunError
from dicm_kit.training.bootstrap import draws, resampled
from dicm_kit.training.metrics import all_metrics


def side(folder: Path, *columns: dict[str, Any]) -> Side:
    return Side([run_folder(folder / f"seed-{seed}", each) for seed, each in enumerate(columns)])


def width(interval: tuple[float, float] | None) -> float:
    assert interval is not None
    return interval[1] - interval[0]


def test_one_run_against_another(tmp_path: Path) -> None:
    ours, other = side(tmp_path / "a", rows(skill=2.0)), side(tmp_path / "b", rows(skill=1.0))
    found = differences(ours, other)
    for name, each in found.items():
        assert each.run == all_metrics(rows(skill=2.0))[name]
        assert each.value == all_metrics(rows(skill=2.0))[name] - all_metrics(rows(skill=1.0))[name]
        assert (each.seeds, each.interval_with_seeds) == (None, None)
        assert each.interval is None or each.interval[0] < each.value < each.interval[1], name
    assert {"gauc", "auc", "gauc_unweighted", "log_loss", "calibration", "target_unseen/gauc"} <= found.keys()
    assert found["gauc"].interval[0] > 0  # type: ignore[index]


def test_both_sides_are_measured_on_the_same_users(tmp_path: Path) -> None:
    """The same by hand: users are drawn, both models are measured on what was drawn."""
    ours, other = rows(noise=1), rows(noise=2)
    found = differences(side(tmp_path / "a", ours), side(tmp_path / "b", other))["log_loss"]
    drawn_UB = np.concatenate([each.numpy() for each in draws(USERS, 1000, seed=0)], axis=1)

    def sums(columns: dict[str, Any], value: Any) -> Any:
        return np.bincount(columns["user"], value * columns["weight"]) @ drawn_UB

    def loss(columns: dict[str, Any]) -> Any:
        logit = columns["logit"].astype(np.float64)
        return sums(columns, np.log1p(np.exp(-logit)) + (1 - columns["label"]) * logit) / sums(columns, 1.0)

    assert found.interval == pytest.approx(np.quantile(loss(ours) - loss(other), [0.025, 0.975]), abs=1e-12)
    apart = [np.quantile(loss(each), [0.025, 0.975]) for each in (ours, other)]
    assert width(found.interval) < 0.8 * np.hypot(*(high - low for low, high in apart)), "what is common cancels"


def test_a_run_against_itself_is_no_difference(tmp_path: Path) -> None:
    found = differences(side(tmp_path / "a", rows()), side(tmp_path / "b", rows()))
    assert {(each.value, each.interval) for each in found.values() if each.interval} == {(0.0, (0.0, 0.0))}


def test_seeds_are_paired_and_their_mean_is_compared(tmp_path: Path) -> None:
    seeds = [(rows(2.0, noise=each), rows(1.0, noise=each + 10)) for each in range(3)]
    ours, other = (side(tmp_path / name, *(pair[place] for pair in seeds)) for place, name in enumerate("ab"))
    found = differences(ours, other)["gauc"]
    one_by_one = [all_metrics(one)["gauc"] - all_metrics(two)["gauc"] for one, two in seeds]
    assert found.value == pytest.approx(np.mean(one_by_one), abs=1e-12)
    assert found.seeds == pytest.approx(stdev(one_by_one), abs=1e-12)
    replicates = [resampled(one)["gauc"].values - resampled(two)["gauc"].values for one, two in seeds]
    assert found.interval == pytest.approx(np.quantile(np.mean(replicates, axis=0), [0.025, 0.975]), abs=1e-12)


def test_seeds_drawn_too_have_the_variance_of_their_mean(tmp_path: Path) -> None:
    """Over users and seeds, variances add: that of the users given the seeds, and the seeds' own over their number."""
    ours = side(tmp_path / "a", *(rows(1.0 + each, noise=0) for each in range(3)))
    other = side(tmp_path / "b", *(rows(0.5, noise=0) for _ in range(3)))
    found = differences(ours, other)["gauc"]
    assert found.seeds is not None
    normal = 2 * 1.96
    wanted = np.hypot(width(found.interval), normal * found.seeds / np.sqrt(3))
    assert width(found.interval_with_seeds) == pytest.approx(wanted, rel=0.15)
    assert width(found.interval_with_seeds) > 1.2 * width(found.interval)


def test_other_numbers_of_seeds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="2 runs against 1: seeds are compared in pairs"):
        differences(side(tmp_path / "a", rows(), rows()), side(tmp_path / "b", rows()))


def test_other_rows_are_refused_on_a_side_and_between_sides(tmp_path: Path) -> None:
    fewer = {name: values[1:] for name, values in rows().items()}
    with pytest.raises(RunError, match="was not tested on the impressions of"):
        side(tmp_path / "a", rows(), fewer)
    with pytest.raises(RunError, match="1,199 impressions, there 1,200"):
        differences(side(tmp_path / "b", fewer), side(tmp_path / "c", rows()))


def test_slices_by_history_are_compared_only_where_they_hold_the_same_rows(tmp_path: Path) -> None:
    shorter = rows(noise=1)
    shorter["history"] = np.minimum(shorter["history"], 2)
    whole = side(tmp_path / "a", rows())
    found = differences(side(tmp_path / "b", shorter), whole)
    assert "target_seen/gauc" in found
    assert not [name for name in found if name.startswith("history_")]
    assert "history_8_15/gauc" in differences(side(tmp_path / "c", rows(noise=1)), whole)


def test_what_is_not_defined_is_left_out(tmp_path: Path) -> None:
    columns = rows()
    columns["label"] = (columns["user"] % 2).astype(np.int8)  # no user has both labels
    found = differences(side(tmp_path / "a", columns), side(tmp_path / "b", columns))
    assert "gauc" not in found
    assert found["auc"].value == 0


def test_the_file_names_both_sides(tmp_path: Path) -> None:
    ours, other = side(tmp_path / "a", rows(noise=1)), side(tmp_path / "b", rows())
    found = contents(ours, other, differences(ours, other))
    assert found["run"] == [str(tmp_path / "a/seed-0")]
    assert found["against"] == [str(tmp_path / "b/seed-0")]
    assert (found["replicates"], found["dataset_fingerprint"]) == (1000, "d1")
    gauc = found["differences"]["gauc"]
    assert gauc.keys() == {"run", "against", "difference", "interval"}
    assert read_predictions(tmp_path / "a/seed-0").rows["user"][0] == 0
