"""Intervals of metrics: equal to what really drawing users gives, and as often right as they say."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from dicm_kit.training.bootstrap import RESAMPLED, Resampled, draws, intervals, resampled
from dicm_kit.training.metrics import all_metrics


def split(users: int = 60, n: int = 1500, seed: int = 0, decimals: int | None = 1) -> dict[str, Any]:
    """Returns the rows of a split; rounded scores have ties, within and between users."""
    rng = np.random.default_rng(seed)
    user = rng.integers(0, users, n) * 7 + 3  # numbers with gaps
    logit = (rng.normal(size=n) + 0.5 * np.sin(user)).astype(np.float32)
    label = (rng.random(n) < 1 / (1 + np.exp(-logit))).astype(np.int8)
    label[user < 17] = 0  # users with one label only
    return {
        "user": user,
        "item": rng.integers(0, 50, n),
        "logit": logit if decimals is None else np.round(logit, decimals),
        "label": label,
        "weight": rng.choice([0.5, 1.0, 4.0], n).astype(np.float32),
        "history": rng.choice([0, 2, 5, 9], n),
        "decile": rng.choice([0, 1, 10], n, p=[0.1, 0.2, 0.7]).astype(np.int8),
    }


def really_drawn(rows: Mapping[str, Any], drawn: Any) -> dict[str, float]:
    """Returns the metrics of a log in which each user stands as often as drawn, as a user of its own each time."""
    times = drawn[np.unique(rows["user"], return_inverse=True)[1]]
    copied = {name: np.repeat(values, times) for name, values in rows.items()}
    copy = np.concatenate([np.arange(each) for each in times]) if len(times) else []
    copied["user"] = copied["user"] * 1000 + np.array(copy, dtype=np.int64)
    return all_metrics(copied)


@pytest.mark.parametrize("decimals", [None, 1, 0])
def test_equal_to_really_drawing_users(decimals: int | None) -> None:
    rows = split(decimals=decimals)
    found = resampled(rows, replicates=40, seed=5)
    (drawn_UB,) = draws(len(np.unique(rows["user"])), 40, seed=5, chunk=40)
    for replicate, drawn in enumerate(drawn_UB.numpy().astype(np.int64).T):
        wanted = really_drawn(rows, drawn)
        for name, each in found.items():
            value = wanted.get(name, math.nan)
            assert each.values[replicate] == pytest.approx(value, abs=1e-12, nan_ok=True), (name, replicate)
    of_slices = {"", "target_unseen/", "target_seen/", "target_decile_1/", "history_0/", "history_8_15/"}
    assert {f"{prefix}{name}" for prefix in of_slices for name in RESAMPLED} <= found.keys()


def test_drawing_everyone_once_gives_the_metrics_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dicm_kit.training.bootstrap.draws", lambda users, *_: [torch.ones(users, 2)])
    rows = split(n=4000)
    whole = all_metrics(rows)
    for name, each in resampled(rows).items():
        assert each.values == pytest.approx([whole[name]] * 2, abs=1e-12), name


def test_the_size_of_a_chunk_and_of_a_run_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = split()
    before = resampled(rows, replicates=20)
    monkeypatch.setattr("dicm_kit.training.bootstrap._CHUNK", 3)
    monkeypatch.setattr("dicm_kit.training.bootstrap._MAX_RUN", 7)
    after = resampled(rows, replicates=20)
    for name, each in before.items():
        assert after[name].values == pytest.approx(each.values, abs=1e-14, nan_ok=True), name


def test_a_seed_gives_the_same_draws_whatever_the_predictions_and_the_order_of_rows() -> None:
    rows = split(decimals=None)
    order = np.random.default_rng(1).permutation(len(rows["user"]))
    mixed = resampled({name: values[order] for name, values in rows.items()}, replicates=20)
    other = resampled({**rows, "logit": -rows["logit"]}, replicates=20)
    for name, each in resampled(rows, replicates=20).items():
        assert mixed[name].values == pytest.approx(each.values, abs=1e-12), name
        if name.endswith("auc"):
            assert other[name].values == pytest.approx(1 - each.values, abs=1e-12), name
    again = resampled(rows, replicates=20, seed=1)["auc"].values
    assert not np.array_equal(again, resampled(rows, replicates=20)["auc"].values)


def test_every_replicate_draws_as_many_users_as_there_are() -> None:
    drawn = np.concatenate([each.numpy() for each in draws(500, 70, seed=2)], axis=1)
    assert drawn.shape == (500, 70)
    assert (drawn.sum(axis=0) == 500).all()
    assert np.mean(drawn == 0) == pytest.approx(math.exp(-1), abs=0.01)
    assert drawn.mean(axis=1) == pytest.approx(np.ones(500), abs=0.6), "all users alike"


def test_an_interval_by_hand() -> None:
    values = np.arange(1001.0)
    assert Resampled(values, 10).interval == pytest.approx((25, 975))
    few = Resampled(np.where(values < 50, np.nan, values), 10)
    assert few.interval == pytest.approx((50 + 0.025 * 950, 50 + 0.975 * 950))
    assert Resampled(np.where(values < 51, np.nan, values), 10).interval is None, "more than 5 % are not defined"
    assert Resampled(values, 9).interval is None, "too few users"


def test_one_user_has_no_interval() -> None:
    rows = split(users=1, n=40)
    rows["label"][:] = np.arange(40) % 2
    assert intervals(rows) == {}
    assert np.isfinite(resampled(rows, replicates=5)["gauc"].values).all()


def test_users_with_one_label_only_have_no_gauc_and_an_auc() -> None:
    rows = split()
    rows["label"] = (rows["user"] // 7 % 2).astype(np.int8)  # clicks only, or none
    found = intervals(rows)
    assert {"auc", "log_loss", "calibration"} <= found.keys()
    assert not [name for name in found if "gauc" in name]
    assert np.isnan(resampled(rows, replicates=5)["gauc"].values).all()


def test_one_label_only_has_neither() -> None:
    rows = split()
    rows["label"][:] = 0
    assert {name.split("/")[-1] for name in intervals(rows)} == {"log_loss"}


def test_a_metric_that_many_replicates_leave_undefined_has_no_interval() -> None:
    rows = split()
    rows["label"] = ((rows["user"] == rows["user"][0]) & (np.arange(len(rows["user"])) % 2 == 0)).astype(np.int8)
    values = resampled(rows)["auc"].values
    assert 0.3 < np.isnan(values).mean() < 0.45, "the only user with clicks is not drawn in exp(-1) of them"
    assert "auc" not in intervals(rows)
    assert "log_loss" in intervals(rows)


def test_a_split_without_rows_has_no_interval() -> None:
    assert intervals({name: values[:0] for name, values in split().items()}) == {}


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Users differ a lot, and their impressions are alike: intervals over impressions would be far too narrow."""
    rng = np.random.default_rng(11)

    def world(users: int) -> dict[str, Any]:
        user = np.repeat(np.arange(users), 30)
        taste, skill = rng.normal(size=users)[user], rng.normal(1.0, 1.0, users)[user]
        logit = (rng.normal(size=len(user)) + taste).astype(np.float32)
        label = (rng.random(len(user)) < 1 / (1 + np.exp(-(skill * logit + taste)))).astype(np.int8)
        return {"user": user, "logit": logit, "label": label, "weight": np.ones(len(user), dtype=np.float32)}

    truth = all_metrics(world(30_000))
    worlds = [{name: each.interval for name, each in resampled(world(80), 300).items()} for _ in range(150)]
    for name in RESAMPLED:
        held = np.mean([low <= truth[name] <= high for low, high in (each[name] for each in worlds)])  # type: ignore[misc]
        assert 0.88 <= held <= 0.99, (name, held)
    rows = [world(80) for _ in range(50)]
    alone = [resampled({**each, "user": np.arange(len(each["user"]))}, 200)["auc"].interval for each in rows]
    assert np.mean([low <= truth["auc"] <= high for low, high in alone]) < 0.7  # type: ignore[misc]
