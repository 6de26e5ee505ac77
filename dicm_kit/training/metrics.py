"""Exact ranking and calibration metrics: the same digits for any order of the rows and any number of ranks.

Scores are kept in float32, sums are taken in float64 over sorted values, and AUC is counted in integers, so the order
in which ranks hand their rows in leaves no trace.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import Metric

from dicm_kit.errors import TrainingError
from dicm_kit.training.slices import Columns, TargetSlices, slices

Rows = NDArray[Any] | Tensor
"""One value per impression."""

_MAX_USERS = 2**30  # what the sort key has room for


@dataclass(frozen=True)
class GaucResult:
    """Per-user AUCs, averaged. NaN where no user has both labels."""

    value: float
    """Weighted by impressions: arXiv:1711.06505, section 7.1."""
    unweighted: float
    """Every user counts the same."""
    left_out_share: float
    """Share of impressions whose user has one label only: those users are in neither sum."""
    num_users: int
    """Users counted."""


def auc(score: Rows, label: Rows, weight: Rows | None = None) -> float:
    """Returns the chance that a clicked row scores above one that was not, ties counting half; NaN with one label."""
    score, label = _array(score), _labels(label)
    if weight is not None:
        return _weighted_auc(score, label, _array(weight).astype(np.float64))
    counts = _count_pairs(np.zeros(len(label), dtype=np.int64), score, label)
    return _ratio(float(counts.won2.sum()), 2.0 * float((counts.clicked * counts.passed).sum()))


def gauc(user: Rows, score: Rows, label: Rows) -> GaucResult:
    """Returns per-user AUCs averaged over users with both labels, ties within a user counting half."""
    label = _labels(label)
    both, impressions, auc_of_user = per_user(_array(user), _array(score), label)
    impressions, auc_of_user = impressions[both], auc_of_user[both]
    return GaucResult(
        value=_ratio(float((impressions * auc_of_user).sum()), float(impressions.sum())),
        unweighted=_ratio(float(auc_of_user.sum()), float(both.sum())),
        left_out_share=1.0 - float(impressions.sum()) / len(label) if len(label) else float("nan"),
        num_users=int(both.sum()),
    )


def per_user(
    user: NDArray[Any], score: NDArray[Any], label: NDArray[Any]
) -> tuple[NDArray[np.bool_], NDArray[np.float64], NDArray[np.float64]]:
    """Returns for each user, in order: whether it has both labels, its impressions, its AUC (NaN without both)."""
    counts = _count_pairs(user, score, label)
    pairs = 2.0 * counts.clicked * counts.passed
    auc_of_user = np.divide(counts.won2, pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)
    return pairs > 0, (counts.clicked + counts.passed).astype(np.float64), auc_of_user


def log_loss(logit: Rows, label: Rows, weight: Rows | None = None) -> float:
    """Returns the (weighted) mean of -log p(label), in nats."""
    loss, _ = row_losses(_array(logit), _labels(label))
    return _weighted_mean_ratio(loss, np.ones_like(loss), weight)


def calibration(logit: Rows, label: Rows, weight: Rows | None = None) -> float:
    """Returns mean prediction / mean label: 1 is right, 1.1 predicts 10 % too many clicks; NaN without clicks."""
    label = _labels(label)
    _, probability = row_losses(_array(logit), label)
    return _weighted_mean_ratio(probability, label.astype(np.float64), weight)


def row_losses(logit: NDArray[Any], label: NDArray[Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns each row's -log p(label), in nats, and its p(click)."""
    logit = logit.astype(np.float64)
    return np.logaddexp(0.0, logit) - label * logit, np.exp(-np.logaddexp(0.0, -logit))


class RankingMetrics(Metric):
    """All metrics of a split, exact over all ranks: keeps every row (29 bytes an impression) until `compute`.

    `compute` gives `auc`, `gauc`, `gauc_unweighted`, `gauc_left_out`, `log_loss`, `calibration`, `impressions`; with
    `slices`, also each of them as `<slice>/<metric>`. What is not defined (one label only) is NaN, and is left out of
    slices. `weight` counts in `log_loss` and `calibration`; ranking metrics count impressions.
    """

    full_state_update = False
    user: list[Tensor]
    item: list[Tensor]
    logit: list[Tensor]
    label: list[Tensor]
    weight: list[Tensor]
    history: list[Tensor]

    def __init__(self, slices: TargetSlices | None = None, over_ranks: bool = True, keep_rows: bool = False):
        """Takes whether `compute` joins the rows of all ranks, and whether it leaves them in `rows`."""
        super().__init__(sync_on_compute=over_ranks)
        self.slices, self.keep_rows = slices, keep_rows
        self.rows: Columns | None = None
        """Of the last `compute`, of all ranks; with `decile`, the slice of the target."""
        for name in ("user", "item", "logit", "label", "weight", "history"):
            self.add_state(name, default=[], dist_reduce_fx="cat")

    def update(
        self, user_N: Tensor, item_N: Tensor, logit_N: Tensor, label_N: Tensor, weight_N: Tensor, history_N: Tensor
    ) -> None:
        """Keeps the rows of a batch; N = 0 is fine. `history_N` is the length of the row's history."""
        self.user.append(user_N)
        self.item.append(item_N)
        self.logit.append(logit_N.float())
        self.label.append(label_N.to(torch.int8))  # checked to be 0 or 1 when the data was prepared
        self.weight.append(weight_N.float())
        self.history.append(history_N.int())

    def compute(self) -> dict[str, float]:
        """Returns metrics by name; the same on every rank."""
        rows = {name: _joined(getattr(self, name)) for name in ("user", "item", "logit", "label", "weight", "history")}
        if self.slices is not None:
            rows["decile"] = self.slices.of(rows["item"])
        if not np.isfinite(rows["logit"]).all():
            bad = int((~np.isfinite(rows["logit"])).sum())
            raise TrainingError(
                f"{bad} of {len(rows['logit'])} predictions are not finite",
                todo="Lower the learning rate, set trainer.gradient_clip, or look at the number columns.",
            )
        if self.keep_rows:
            self.rows = rows
        return all_metrics(rows)


def all_metrics(rows: Columns) -> dict[str, float]:
    """Returns every metric of the rows, and, where they have a `decile`, of their slices."""
    results = _metrics(rows)
    if "decile" in rows:
        for name, part in slices(rows):
            results |= {f"{name}/{metric}": value for metric, value in _metrics(part).items() if value == value}
    return results


def _metrics(rows: Columns) -> dict[str, float]:
    by_user = gauc(rows["user"], rows["logit"], rows["label"])
    return {
        "auc": auc(rows["logit"], rows["label"]),
        "gauc": by_user.value,
        "gauc_unweighted": by_user.unweighted,
        "gauc_left_out": by_user.left_out_share,
        "log_loss": log_loss(rows["logit"], rows["label"], rows["weight"]),
        "calibration": calibration(rows["logit"], rows["label"], rows["weight"]),
        "impressions": float(len(rows["label"])),
    }


@dataclass(frozen=True)
class _PairCounts:
    """Per user: clicks, non-clicks, and twice the pairs in which the click scored higher (a tie counts once)."""

    clicked: NDArray[np.int64]
    passed: NDArray[np.int64]
    won2: NDArray[np.int64]


def _count_pairs(user: NDArray[Any], score: NDArray[Any], label: NDArray[Any]) -> _PairCounts:
    """Counts with one sort of 64-bit keys: user in the high bits, then the score, the label in the lowest."""
    if len(label) == 0:
        nothing = np.zeros(0, dtype=np.int64)
        return _PairCounts(nothing, nothing, nothing)
    key = score_codes(score)
    key <<= 1
    key |= label.astype(np.int64)
    key |= _user_codes(user) << 33
    key.sort()
    clicks_before = np.zeros(len(key) + 1, dtype=np.int64)
    np.cumsum(key & 1, out=clicks_before[1:])
    key >>= 1  # rows of one user with one score are now equal
    block = _starts(key)
    clicked = clicks_before[np.append(block[1:], len(key))] - clicks_before[block]
    passed = np.diff(block, append=len(key)) - clicked
    passed_before = block - clicks_before[block]
    user_block = _starts(key[block] >> 32)
    clicked_of_user = np.add.reduceat(clicked, user_block)
    won2 = np.add.reduceat(clicked * (2 * passed_before + passed), user_block)
    # `passed_before` counted the users before this one, too.
    won2 -= 2 * passed_before[user_block] * clicked_of_user
    return _PairCounts(clicked_of_user, np.add.reduceat(passed, user_block), won2)


def _starts(sorted_values: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.concatenate(([0], np.flatnonzero(sorted_values[1:] != sorted_values[:-1]) + 1))


def score_codes(score: NDArray[Any]) -> NDArray[np.int64]:
    """Returns integers in [0, 2**32) in the order of the scores, equal where they are equal."""
    assert not np.isnan(score).any(), "scores are numbers"
    if score.dtype != np.float32:
        return np.unique(score, return_inverse=True)[1].astype(np.int64)
    bits = (score + np.float32(0.0)).view(np.int32)  # -0.0 + 0.0 is 0.0
    # Floats compare as their bits do, but for negative ones, whose order is reversed.
    return (bits ^ ((bits >> 31) & np.int32(0x7FFFFFFF))).astype(np.int64) + 2**31


def _user_codes(user: NDArray[Any]) -> NDArray[np.int64]:
    codes = user.astype(np.int64)
    if codes.min() < 0 or codes.max() >= _MAX_USERS:
        codes = np.unique(codes, return_inverse=True)[1].astype(np.int64)
        assert codes.max() < _MAX_USERS, "more than 2**30 users in one split"
    return codes


def _weighted_auc(score: NDArray[Any], label: NDArray[Any], weight: NDArray[np.float64]) -> float:
    if len(label) == 0:
        return float("nan")
    code = score_codes(score)
    order = np.lexsort((weight, label, code))  # by weight last, so that sums do not depend on the rows' order
    code, label, weight = code[order], label[order], weight[order]
    block = _starts(code)
    clicked = np.add.reduceat(weight * label, block)
    passed = np.add.reduceat(weight * (1 - label), block)
    below = np.cumsum(passed) - passed
    return _ratio(float((clicked * (below + 0.5 * passed)).sum()), float(clicked.sum() * passed.sum()))


def _weighted_mean_ratio(above: NDArray[np.float64], below: NDArray[np.float64], weight: Rows | None) -> float:
    """Returns sum(weight * above) / sum(weight * below); sorted first, so that the rows' order leaves no trace."""
    if weight is not None:
        factor = _array(weight).astype(np.float64)
        above, below = above * factor, below * factor
    return _ratio(float(np.sort(above).sum()), float(np.sort(below).sum()))


def _ratio(above: float, below: float) -> float:
    return above / below if below else float("nan")


def _joined(parts: list[Tensor] | Tensor) -> NDArray[Any]:
    """Returns a state as one array: a list before ranks are joined, a tensor after."""
    return _array(parts if isinstance(parts, Tensor) else torch.cat(parts))


def _array(rows: Rows) -> NDArray[Any]:
    return rows.detach().cpu().numpy() if isinstance(rows, Tensor) else np.asarray(rows)


def _labels(label: Rows) -> NDArray[Any]:
    labels = _array(label)
    assert ((labels == 0) | (labels == 1)).all(), "labels are 0 or 1"
    return labels
