"""Laws of AUC and GAUC."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicm_kit.training.metrics import auc, calibration, gauc, log_loss

FEW = settings(max_examples=100, deadline=None, derandomize=True)
# Few distinct scores make ties; any float32 makes the rest.
scores = st.one_of(st.integers(-3, 3).map(float), st.floats(-(2.0**99), 2.0**99, width=32))
impressions = st.lists(
    st.tuples(st.integers(0, 4), scores, st.booleans(), st.sampled_from([0.5, 1.0, 3.0])), max_size=40
)


def columns(rows):
    user = np.array([row[0] for row in rows], dtype=np.int64)
    score = np.array([row[1] for row in rows], dtype=np.float32)
    return user, score, np.array([int(row[2]) for row in rows]), np.array([row[3] for row in rows])


def pairs(score, label):
    """The definition: of all (click, other) pairs, those in the right order; ties count half."""
    clicks, others = score[label == 1], score[label == 0]
    if not len(clicks) or not len(others):
        return math.nan
    return ((clicks[:, None] > others).sum() + 0.5 * (clicks[:, None] == others).sum()) / (len(clicks) * len(others))


def same(a, b, tolerance=1e-12):
    return (math.isnan(a) and math.isnan(b)) or abs(a - b) <= tolerance


@FEW
@given(impressions)
def test_auc_counts_pairs(rows):
    _, score, label, weight = columns(rows)
    assert same(auc(score, label), pairs(score, label))
    assert same(auc(score, label, np.ones(len(rows))), pairs(score, label))
    # An integer weight is as many rows.
    times = (2 * weight).astype(int)
    assert same(auc(score, label, weight), pairs(np.repeat(score, times), np.repeat(label, times)))


@FEW
@given(impressions)
def test_gauc_is_the_average_over_users_with_both_labels(rows):
    user, score, label, _ = columns(rows)
    by_user = {
        each: (pairs(score[user == each], label[user == each]), (user == each).sum()) for each in np.unique(user)
    }
    counted = [(value, size) for value, size in by_user.values() if not math.isnan(value)]
    result = gauc(user, score, label)
    assert result.num_users == len(counted)
    if counted:
        assert same(result.value, np.average([v for v, _ in counted], weights=[s for _, s in counted]))
        assert same(result.unweighted, np.mean([v for v, _ in counted]))
        assert same(result.left_out_share, 1 - sum(s for _, s in counted) / len(rows))
    else:
        assert math.isnan(result.value)


@FEW
@given(impressions, st.randoms(use_true_random=False))
def test_order_of_rows_and_names_of_users_do_not_matter(rows, random):
    user, score, label, weight = columns(rows)
    shuffled = random.sample(rows, len(rows))
    user2, score2, label2, weight2 = columns(shuffled)
    for metric in (auc, log_loss, calibration):
        if metric is auc or (np.abs(score) < 700).all():
            a, b = metric(score, label, weight), metric(score2, label2, weight2)
            assert a == b or (math.isnan(a) and math.isnan(b))
    a, b = gauc(user, score, label), gauc(user2 * 2**40 - 7, score2, label2)
    assert same(a.value, b.value)
    assert a.num_users == b.num_users


@FEW
@given(impressions)
def test_only_the_order_of_scores_within_a_user_counts(rows):
    user, score, label, _ = columns(rows)
    rank = np.unique(score, return_inverse=True)[1].astype(np.float32)
    lifted = rank + 100 * user.astype(np.float32)  # another level for each user, the same order within
    assert same(gauc(user, score, label).value, gauc(user, lifted, label).value)
    assert same(gauc(user, score, label).value + gauc(user, -score, label).value, 1.0) or math.isnan(
        gauc(user, score, label).value
    )


@FEW
@given(impressions)
def test_one_user_s_gauc_is_auc(rows):
    _, score, label, _ = columns(rows)
    assert same(gauc(np.zeros(len(rows), dtype=np.int64), score, label).value, auc(score, label))


@pytest.mark.parametrize("shift", [0.0, 0.5])
def test_calibration_of_true_probabilities_is_one(shift):
    rng = np.random.default_rng(0)
    logit = rng.normal(size=200_000).astype(np.float32)
    label = rng.random(200_000) < 1 / (1 + np.exp(-logit))
    assert calibration(logit + np.float32(shift), label) == pytest.approx(1.0 if shift == 0 else 1.22, abs=0.02)
