"""What a report reads of a run folder: curves, deciles worked out by hand, and folders that are no finished runs."""

from pathlib import Path

import numpy as np
import pytest
from finished import finished
from predicted import rows, run_folder

from dicm_kit.artifacts.report.choose import SHOWN, choose
from dicm_kit.artifacts.report.collect import calibration_deciles, collect, read_log
from dicm_kit.errors import RunError


def test_the_log_by_step_counted_from_one(tmp_path: Path) -> None:
    run = collect(finished(tmp_path / "run")).run
    assert run.curves is not None
    assert set(run.curves) == {"train/loss", "val/auc", "val/gauc", "val/log_loss"}
    assert run.curves["train/loss"].step.tolist() == [10, 20, 40]
    assert run.curves["train/loss"].value.tolist() == [0.7, 0.6, 0.5]
    assert run.curves["val/gauc"].value.tolist() == [0.62, 0.67]
    assert run.bytes_per_leg == {"vectors": 1000}


def test_a_log_that_was_cut_or_is_not_there(tmp_path: Path) -> None:
    file = tmp_path / "metrics.csv"
    assert read_log(file) == {}
    file.write_text("epoch,step,train/loss\n0,1,0.5\n0,2,nan\n0,3,0.4\n0,4")
    assert read_log(file)["train/loss"].value.tolist() == [0.5, 0.4]
    file.write_text("")
    assert read_log(file) == {}


def test_deciles_by_hand() -> None:
    """Twenty impressions in parts of two; weights count."""
    logit = np.linspace(-2, 2, 20).astype(np.float32)
    label = np.zeros(20, np.int8)
    label[[1, 18, 19]] = 1
    weight = np.ones(20, np.float32)
    weight[1] = 3
    mixed = np.random.default_rng(0).permutation(20)
    columns = {"user": np.arange(20), "label": label, "weight": weight, "logit": logit}
    found = calibration_deciles({name: values[mixed] for name, values in columns.items()})
    chance = 1 / (1 + np.exp(-logit.astype(float)))
    assert [each.impressions for each in found] == [2] * 10
    assert [each.observed for each in found] == pytest.approx([0.75, *[0] * 8, 1])
    assert found[0].predicted == pytest.approx((chance[0] + 3 * chance[1]) / 4)
    assert [each.predicted for each in found[1:]] == pytest.approx(chance[2:].reshape(9, 2).mean(1))
    assert {each.interval for each in found} == {None}, "two users say nothing of chance"


def test_intervals_of_deciles_hold_what_was_seen() -> None:
    found = calibration_deciles(rows(n=6000))
    assert len(found) == 10
    for each in found:
        assert each.interval is not None
        assert each.interval[0] < each.observed < each.interval[1]
    assert calibration_deciles({name: values[:0] for name, values in rows().items()}) == []


def test_a_run_and_its_baseline(tmp_path: Path) -> None:
    ours, other = finished(tmp_path / "dicm/seed-3"), finished(tmp_path / "ids", rows(skill=0.2))
    facts = collect(ours, other)
    assert facts.run.name == "dicm/seed-3"
    assert facts.against is not None
    assert facts.against.name == "ids"
    assert facts.differences["gauc"].value == facts.run.test["gauc"] - facts.against.test["gauc"] > 0


def test_folders_that_cannot_be_reported(tmp_path: Path) -> None:
    ours = finished(tmp_path / "run")
    with pytest.raises(RunError, match="is no run folder"):
        collect(tmp_path / "nothing")
    with pytest.raises(RunError, match=r"has not finished: it has no test\.json"):
        collect(run_folder(tmp_path / "unfinished"))
    with pytest.raises(RunError, match="is compared with itself"):
        collect(ours, tmp_path / "." / "run")
    with pytest.raises(RunError, match="was not tested on the impressions of"):
        collect(ours, finished(tmp_path / "other", rows(n=1000)))
    (ours / "test_predictions.parquet").unlink()
    with pytest.raises(RunError, match="has no test_predictions"):
        collect(ours)


# --- which impressions ---


def test_the_hardest_of_both_kinds_come_first() -> None:
    columns = rows(n=3000) | {"user": np.arange(3000), "item": np.arange(3000)}
    found, only_history = choose(columns)
    assert only_history
    assert [each.kind for each in found] == [*["missed", "false_alarm"] * 4, *["hit"] * 3, "passed"]
    shown = (columns["history"] > 0) & (columns["label"] == 1)
    assert [each.logit for each in found if each.kind == "missed"] == sorted(columns["logit"][shown].tolist())[:4]
    shown = (columns["history"] > 0) & (columns["label"] == 0)
    assert found[1].logit == columns["logit"][shown].max()
    assert found[1].probability == pytest.approx(1 / (1 + np.exp(-found[1].logit)))


def test_no_user_and_no_item_comes_twice() -> None:
    found, _ = choose(rows())
    assert len(found) == sum(SHOWN.values())
    assert len({each.user for each in found}) == len({each.item for each in found}) == len(found)


def test_few_impressions_and_none() -> None:
    few = {name: values[:3] for name, values in rows().items()} | {"history": np.array([0, 0, 5])}
    found, only_history = choose(few)
    assert 1 <= len(found) <= 3
    assert not only_history
    assert choose({name: values[:0] for name, values in rows().items()})[0] == []
