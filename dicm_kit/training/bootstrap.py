"""How far metrics could be off by chance: measured again on users drawn with replacement (the bootstrap).

Users, not impressions, are drawn: one user's impressions resemble each other, and an interval that takes them for
independent is too narrow (Owen and Eckles, arXiv:1106.2062). A replicate draws as many users as there are, each with
all its impressions; 95 % of the replicates' values lie in the interval (the percentile method: Efron and Tibshirani,
An Introduction to the Bootstrap, 1993, chapter 13).

No replicate touches the impressions one by one. GAUC, log loss and calibration are ratios of sums over users, so each
user's sums are taken once. AUC is a count of pairs over all users: rows are sorted by score once, and a replicate adds
up how often the users of each run of non-clicks were drawn.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import embedding_bag

from dicm_kit.training.metrics import per_user, row_losses, score_codes
from dicm_kit.training.slices import Columns, slices

REPLICATES = 1000
LEVEL = 0.95
"""Share of the replicates in an interval."""
RESAMPLED = ("auc", "gauc", "gauc_unweighted", "log_loss", "calibration")
_MIN_USERS = 10
_MAX_UNDEFINED = 0.05
_CHUNK = 32
"""Replicates at a time; more are no faster."""
_MAX_VALUES = 2**24
"""Of a chunk's largest table, 4 or 8 bytes each."""
_MAX_RUN = 2**20
"""Rows added up in float32, which counts to 2**24."""

Interval = tuple[float, float]


@dataclass(frozen=True)
class Resampled:
    """One metric on every replicate."""

    values: NDArray[np.float64]
    """[replicates]; NaN where the drawn users leave it undefined."""
    num_users: int
    """Users that count in it."""

    @property
    def interval(self) -> Interval | None:
        """The middle 95 % of the replicates; None where they say too little.

        That is with fewer than 10 users, or when more than 5 % of the replicates leave the metric undefined (without
        a click, say). The few undefined ones below that are left out.
        """
        defined = self.values[~np.isnan(self.values)]
        if self.num_users < _MIN_USERS or len(defined) < (1 - _MAX_UNDEFINED) * len(self.values):
            return None
        low, high = np.quantile(defined, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
        return float(low), float(high)


def resampled(rows: Columns, replicates: int = REPLICATES, seed: int = 0) -> dict[str, Resampled]:
    """Returns each metric of `RESAMPLED` on every replicate, and, where rows have a `decile`, of each slice.

    Rows of the same users give the same draws for the same seed, whatever the predictions: two models' replicates can
    be subtracted.
    """
    user, index = np.unique(rows["user"], return_inverse=True)
    rows = {**rows, "user": index.astype(np.int32)}
    parts = {"": _Part(rows)}
    if "decile" in rows:
        parts |= {f"{name}/": _Part(of_slice) for name, of_slice in slices(rows)}
    size = max(len(user), *(part.size for part in parts.values()))
    chunk = int(np.clip(_MAX_VALUES // size, 1, _CHUNK))
    values: dict[str, list[NDArray[np.float64]]] = {}
    for drawn_UB in draws(len(user), replicates, seed, chunk):
        for prefix, part in parts.items():
            for name, of_chunk in part.measured(drawn_UB).items():
                values.setdefault(f"{prefix}{name}", []).append(of_chunk)
    users = {f"{prefix}{name}": part.num_users[name] for prefix, part in parts.items() for name in RESAMPLED}
    return {name: Resampled(np.concatenate(chunks), users[name]) for name, chunks in values.items()}


def intervals(rows: Columns) -> dict[str, Interval]:
    """Returns the 95 % interval of each metric that has one, by its name in test.json."""
    return {name: found for name, each in resampled(rows).items() if (found := each.interval) is not None}


def draws(num_users: int, replicates: int, seed: int, chunk: int = _CHUNK) -> Iterator[Tensor]:
    """Yields how often each user is drawn, [users, replicates] for `chunk` replicates at a time.

    Every replicate draws `num_users` times, all users alike. The size of a chunk does not change what is drawn.
    """
    random = np.random.default_rng(seed)
    for start in range(0, replicates, chunk):
        drawn = [
            np.bincount(random.integers(0, num_users, num_users), minlength=num_users)
            for _ in range(start, min(replicates, start + chunk))
        ]
        yield torch.from_numpy(np.stack(drawn, axis=1).astype(np.float32))


class _Part:
    """All rows, or those of a slice: what is measured on every replicate."""

    def __init__(self, rows: Columns):
        """Takes rows whose `user` counts from 0 over the users of all rows."""
        self.users, user = np.unique(rows["user"], return_inverse=True)
        self.pairs = _Pairs(rows)
        self.size = max(len(self.users), self.pairs.size)
        both, size, auc_of_user = per_user(rows["user"], rows["logit"], rows["label"])
        loss, probability = row_losses(rows["logit"], rows["label"])
        weight = rows["weight"].astype(np.float64)
        sums = (loss * weight, weight, probability * weight, rows["label"] * weight)
        self.sums_US = torch.from_numpy(
            np.stack(
                [
                    np.where(both, size * auc_of_user, 0.0),
                    np.where(both, size, 0.0),
                    np.where(both, auc_of_user, 0.0),
                    both.astype(np.float64),
                    *(np.bincount(user, each, len(self.users)) for each in sums),
                ],
                axis=1,
            )
        )
        of_all = dict.fromkeys(RESAMPLED, len(self.users))
        self.num_users = of_all | {"gauc": int(both.sum()), "gauc_unweighted": int(both.sum())}

    def measured(self, drawn_UB: Tensor) -> dict[str, NDArray[np.float64]]:
        """Returns each metric on each replicate of the chunk."""
        mine_UB = drawn_UB[torch.from_numpy(self.users)].double()
        above_SB, below_SB = (self.sums_US.T @ mine_UB).view(4, 2, -1).unbind(1)
        ratios = _ratio(above_SB, below_SB).numpy()
        return {
            "auc": self.pairs.auc(drawn_UB),
            **dict(zip(("gauc", "gauc_unweighted", "log_loss", "calibration"), ratios, strict=True)),
        }


class _Pairs:
    """The (click, no click) pairs of all users, ready to be counted for any number of times that users are drawn.

    Sorted by score, rows are runs of non-clicks with clicks between them. A click wins over the non-clicks below
    `low`, and half over those from there to `high`, which have its score. Clicks with the same two are taken together.
    """

    def __init__(self, rows: Columns):
        code, click = score_codes(rows["logit"]), rows["label"] == 1
        order = np.argsort(code, kind="stable")
        code, click, user = code[order], click[order], rows["user"][order]
        low, high = (np.searchsorted(code[~click], code[click], side) for side in ("left", "right"))
        new = np.flatnonzero(np.diff(low, prepend=-1) | np.diff(high, prepend=-1))
        self.defined = bool(click.any() and not click.all())
        self.click_user, self.other_user = torch.from_numpy(user[click]), torch.from_numpy(user[~click])
        self.click_start = _int32(new)
        ends = (low[new], high[new], np.arange(0, len(self.other_user), _MAX_RUN), [len(self.other_user)])
        start = np.unique(np.concatenate(ends)).astype(np.int64)
        self.other_start = _int32(start[:-1])
        self.low, self.high = (torch.from_numpy(np.searchsorted(start, each[new])) for each in (low, high))
        self.tied = bool((low != high).any())
        self.size = max(len(start), len(new))

    def auc(self, drawn_UB: Tensor) -> NDArray[np.float64]:
        """Returns the AUC of each replicate."""
        if not self.defined:
            return np.full(drawn_UB.shape[1], np.nan)
        clicks_KB = embedding_bag(self.click_user, drawn_UB, self.click_start, mode="sum").double()
        runs_MB = embedding_bag(self.other_user, drawn_UB, self.other_start, mode="sum")
        below_MB = torch.zeros(len(runs_MB) + 1, runs_MB.shape[1], dtype=torch.float64)
        torch.cumsum(runs_MB, 0, dtype=torch.float64, out=below_MB[1:])
        lost_to_KB = below_MB[self.low]
        if self.tied:
            lost_to_KB = lost_to_KB.add_(below_MB[self.high]).div_(2)
        won_B = (clicks_KB * lost_to_KB).sum(0)
        return _ratio(won_B, clicks_KB.sum(0) * below_MB[-1]).numpy()


def _ratio(above: Tensor, below: Tensor) -> Tensor:
    return torch.where(below == 0, torch.nan, above / below)


def _int32(values: NDArray[Any]) -> Tensor:
    return torch.from_numpy(values.astype(np.int32))
