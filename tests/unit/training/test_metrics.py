import math

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss as sklearn_log_loss
from sklearn.metrics import roc_auc_score

from dicm_kit.errors import TrainingError
from dicm_kit.training.metrics import (
    RankingMetrics,
    auc,
    calibration,
    gauc,
    log_loss,
)
from dicm_kit.training.slices import TargetSlices, frequency_deciles


def rows(n=4000, users=300, seed=0, ties=True):
    rng = np.random.default_rng(seed)
    logit = rng.normal(size=n).astype(np.float32)
    if ties:
        logit = np.round(logit, 1)
    label = (rng.random(n) < 1 / (1 + np.exp(-logit))).astype(np.float32)
    weight = rng.choice([1.0, 0.5, 4.0], size=n).astype(np.float32)
    return rng.integers(0, users, n), logit, label, weight


def plain_gauc(user, logit, label):
    """Per-user AUC by scikit-learn, as the definition says."""
    values, sizes = [], []
    for each in np.unique(user):
        mine = user == each
        if 0 < label[mine].sum() < mine.sum():
            values.append(roc_auc_score(label[mine], logit[mine].astype(np.float64)))
            sizes.append(mine.sum())
    return np.average(values, weights=sizes), np.mean(values), 1 - sum(sizes) / len(user)


@pytest.mark.parametrize("ties", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_equal_to_scikit_learn(ties, seed):
    user, logit, label, weight = rows(seed=seed, ties=ties)
    p = 1 / (1 + np.exp(-logit.astype(np.float64)))
    assert auc(logit, label) == pytest.approx(roc_auc_score(label, logit), abs=1e-9)
    assert auc(logit, label, weight) == pytest.approx(roc_auc_score(label, logit, sample_weight=weight), abs=1e-9)
    assert log_loss(logit, label) == pytest.approx(sklearn_log_loss(label, p), abs=1e-9)
    assert log_loss(logit, label, weight) == pytest.approx(sklearn_log_loss(label, p, sample_weight=weight), abs=1e-9)
    assert calibration(logit, label, weight) == pytest.approx(
        np.average(p, weights=weight) / np.average(label.astype(np.float64), weights=weight), abs=1e-9
    )
    result = gauc(user, logit, label)
    weighted, unweighted, left_out = plain_gauc(user, logit, label)
    assert result.value == pytest.approx(weighted, abs=1e-9)
    assert result.unweighted == pytest.approx(unweighted, abs=1e-9)
    assert result.left_out_share == pytest.approx(left_out, abs=1e-9)


def test_by_hand():
    #       user 1: click above non-click, and a tie: (1 + 1/2) / 2     user 2: wrong way     user 3: no click
    user = np.array([1, 1, 1, 2, 2, 3, 3])
    logit = np.array([0.5, 0.5, -1.0, 0.0, 1.0, 2.0, 3.0], dtype=np.float32)
    label = np.array([1, 0, 0, 1, 0, 0, 0])
    result = gauc(user, logit, label)
    assert result.value == (3 * 0.75 + 2 * 0.0) / 5
    assert result.unweighted == 0.375
    assert result.left_out_share == pytest.approx(2 / 7)
    assert result.num_users == 2


def test_auc_by_hand():
    # clicks at 0.5 and 0.0, others at 0.5, -1, 1: (0.5, 1, 0) + (0, 1, 0) of 6 pairs
    logit = torch.tensor([0.5, 0.0, 0.5, -1.0, 1.0])
    assert auc(logit, torch.tensor([1, 1, 0, 0, 0])) == 2.5 / 6
    assert auc(logit, torch.tensor([1, 1, 0, 0, 0]), torch.tensor([2.0, 1, 1, 1, 3])) == (2 * 1.5 + 1) / (3 * 5)


def test_scores_of_any_sign_and_size_are_ordered():
    logit = np.array([-np.inf, -1e30, -1e-40, -0.0, 0.0, 1e-40, 1.5, np.inf], dtype=np.float32)
    label = np.array([0, 0, 0, 1, 0, 1, 1, 1])
    assert auc(logit, label) == (4 * 3 + 3 + 0.5) / 16  # -0.0 and 0.0 tie
    assert auc(logit.astype(np.float64), label) == auc(logit, label)


def test_users_may_be_any_int64():
    user, logit, label, _ = rows(500, 30)
    wild = np.random.default_rng(0).integers(-(2**63), 2**63, 30)[user]
    assert gauc(wild, logit, label).value == pytest.approx(gauc(user, logit, label).value, abs=1e-12)


@pytest.mark.parametrize("label", [[0, 0], [1, 1], []])
def test_one_label_only_is_nan(label):
    logit = np.zeros(len(label), dtype=np.float32)
    assert math.isnan(auc(logit, label))
    assert math.isnan(auc(logit, label, np.ones(len(label))))
    result = gauc(np.zeros(len(label)), logit, label)
    assert math.isnan(result.value)
    assert math.isnan(result.unweighted)
    assert result.num_users == 0
    assert math.isnan(calibration(logit, label)) == (sum(label) == 0)


def test_order_of_rows_leaves_no_trace():
    user, logit, label, weight = rows(3000, ties=False)
    order = np.random.default_rng(1).permutation(len(user))
    for metric in (auc, log_loss, calibration):
        assert metric(logit, label, weight) == metric(logit[order], label[order], weight[order])
    assert gauc(user, logit, label) == gauc(user[order], logit[order], label[order])


def filled(metrics, parts=1, n=600):
    user, logit, label, weight = rows(n, users=5)
    rng = np.random.default_rng(5)
    item, history = rng.integers(0, 20, n), rng.integers(0, 40, n)
    for columns in zip(
        *(np.array_split(each, parts) for each in (user, item, logit, label, weight, history)), strict=True
    ):
        metrics.update(*(torch.from_numpy(each.copy()) for each in columns))
    return user, item, logit, label, weight, history


def test_metrics_of_batches_are_those_of_all_rows():
    metrics = RankingMetrics()
    user, _, logit, label, weight, _ = filled(metrics, parts=7)
    empty = torch.zeros(0)
    metrics.update(empty.long(), empty.long(), empty, empty, empty, empty.long())  # N = 0
    results = metrics.compute()
    assert results["auc"] == auc(logit, label)
    assert results["gauc"] == gauc(user, logit, label).value
    assert results["gauc_left_out"] == gauc(user, logit, label).left_out_share
    assert results["log_loss"] == log_loss(logit, label, weight)
    assert results["calibration"] == calibration(logit, label, weight)
    assert results["impressions"] == 600
    assert set(results) == {
        "auc", "gauc", "gauc_unweighted", "gauc_left_out", "log_loss", "calibration", "impressions"
    }  # fmt: skip


def test_slices_are_the_metrics_of_their_rows():
    count = np.arange(20) // 2  # items 0 and 1 unseen
    metrics = RankingMetrics(TargetSlices(count))
    user, item, logit, label, weight, history = filled(metrics)
    results = metrics.compute()
    masks = {
        "target_unseen": item < 2,
        "target_seen": item >= 2,
        "target_decile_1": np.isin(item, np.flatnonzero(frequency_deciles(count) == 1)),
        "history_0": history == 0,
        "history_4_7": (history >= 4) & (history < 8),
        "history_32_up": history >= 32,
    }
    for name, mask in masks.items():
        assert results[f"{name}/impressions"] == mask.sum() > 0
        assert results[f"{name}/auc"] == auc(logit[mask], label[mask])
        assert results[f"{name}/gauc"] == gauc(user[mask], logit[mask], label[mask]).value
        assert results[f"{name}/log_loss"] == log_loss(logit[mask], label[mask], weight[mask])
    by_history = [
        value for name, value in results.items() if name.startswith("history_") and name.endswith("impressions")
    ]
    by_decile = [
        value for name, value in results.items() if name.startswith("target_decile_") and name.endswith("impressions")
    ]
    assert sum(by_history) == 600
    assert sum(by_decile) == results["target_seen/impressions"]


def test_undefined_metrics_of_slices_are_left_out():
    metrics = RankingMetrics(TargetSlices(np.array([0, 5])))
    one = torch.ones(2, dtype=torch.int64)
    metrics.update(one, torch.tensor([0, 1]), torch.zeros(2), torch.tensor([1.0, 0.0]), torch.ones(2), one)
    results = metrics.compute()
    assert results["auc"] == 0.5
    assert "target_unseen/auc" not in results
    assert results["target_unseen/log_loss"] == pytest.approx(math.log(2))
    assert "target_decile_2/impressions" not in results


def test_predictions_that_are_no_numbers_are_an_error():
    metrics = RankingMetrics()
    one = torch.ones(2, dtype=torch.int64)
    metrics.update(one, one, torch.tensor([0.0, torch.nan]), torch.zeros(2), torch.ones(2), one)
    with pytest.raises(TrainingError, match="1 of 2 predictions are not finite"):
        metrics.compute()
