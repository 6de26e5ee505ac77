"""Two sides of a comparison, each one or several runs: the difference of every metric, with its intervals.

Both sides are measured on the same draws of users, so that what is common to both (a user who is hard to predict) does
not widen the interval of their difference.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dicm_kit.artifacts.predictions import Predictions, check_same_rows, read_predictions
from dicm_kit.errors import RunError
from dicm_kit.training.bootstrap import Interval, Resampled, resampled
from dicm_kit.training.metrics import all_metrics


@dataclass(frozen=True)
class Difference:
    """Of one metric: this side minus the other, each the mean over its runs."""

    run: float
    against: float
    interval: Interval | None
    """Over users, given these runs: the middle 95 % of the replicates."""
    seeds: float | None = None
    """Standard deviation of the differences seed by seed; None for one seed."""
    interval_with_seeds: Interval | None = None
    """Over users and seeds: what another set of users, and a training with other seeds, could have given."""

    @property
    def value(self) -> float:
        """The difference."""
        return self.run - self.against

    def plain(self) -> dict[str, Any]:
        """Returns it for a JSON file; what is not there is left out."""
        content = {"run": self.run, "against": self.against, "difference": self.value, "interval": self.interval}
        content |= {"seeds": self.seeds, "interval_with_seeds": self.interval_with_seeds}
        return {name: value for name, value in content.items() if value is not None}


class Side:
    """The runs of one side, measured on all rows and on every replicate."""

    def __init__(self, runs: Sequence[Path]):
        """Takes the run folders, in the order of their seeds.

        Raises:
            RunError: a run has no predictions, or two are not of the same impressions.
        """
        assert runs, "a side has a run"
        self.runs = tuple(runs)
        self.first = read_predictions(runs[0])
        self.whole: list[dict[str, float]] = []
        self.replicates: list[dict[str, Resampled]] = []
        self.same_history = True
        """Whether all runs saw histories of the same lengths: their slices by history are then of the same rows."""
        for place, folder in enumerate(runs):
            of_run = self.first if place == 0 else read_predictions(folder)
            check_same_rows(self.first, of_run)
            self.same_history &= _same_history(self.first, of_run)
            self.whole.append(all_metrics(of_run.rows))
            self.replicates.append(resampled(of_run.rows))


def differences(ours: Side, other: Side) -> dict[str, Difference]:
    """Returns the difference of each metric that both sides have, by its name in test.json.

    Slices by history are left out where the sides' recipes cut histories differently: they hold other impressions.

    Raises:
        RunError: other impressions, or other numbers of runs: seeds are compared in pairs.
    """
    check_same_rows(other.first, ours.first)
    if len(ours.runs) != len(other.runs):
        raise RunError(
            f"{len(ours.runs)} runs against {len(other.runs)}: seeds are compared in pairs",
            where=str(ours.runs[0]),
            todo="Name as many runs on both sides, or run the missing seeds.",
        )
    histories = ours.same_history and other.same_history and _same_history(ours.first, other.first)
    both = [name for name in ours.whole[0] if name in ours.replicates[0] and name in other.whole[0]]
    of_same_rows = [name for name in both if histories or not name.startswith("history_")]
    found = {name: _difference(name, ours, other) for name in of_same_rows}
    return {name: each for name, each in found.items() if each.value == each.value}  # others are not defined


def contents(ours: Side, other: Side, found: Mapping[str, Difference]) -> dict[str, Any]:
    """Returns what `dicm test RUN --against OTHER` writes."""
    return {
        "run": [str(each) for each in ours.runs],
        "against": [str(each) for each in other.runs],
        "dataset_fingerprint": ours.first.fingerprint,
        "replicates": len(ours.replicates[0]["auc"].values),
        "differences": {name: each.plain() for name, each in found.items()},
    }


def _difference(name: str, ours: Side, other: Side) -> Difference:
    run, against = ([each[name] for each in side.whole] for side in (ours, other))
    drawn_SB = np.stack(
        [one[name].values - two[name].values for one, two in zip(ours.replicates, other.replicates, strict=True)]
    )
    users = ours.replicates[0][name].num_users
    interval = Resampled(drawn_SB.mean(axis=0), users).interval
    if len(drawn_SB) == 1:
        return Difference(run[0], against[0], interval)
    return Difference(
        mean(run),
        mean(against),
        interval,
        stdev(one - two for one, two in zip(run, against, strict=True)),
        Resampled(_seeds_drawn_too(drawn_SB), users).interval,
    )


def _seeds_drawn_too(drawn_SB: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns for each replicate the mean over seeds that were drawn with replacement.

    Of S seeds, S - 1 are drawn: the variance of their mean is then that of a mean of S seeds, without bias; S draws
    would give (S - 1) / S of it (Rao and Wu, Resampling inference with complex survey data, 1988).
    """
    num_seeds, replicates = drawn_SB.shape
    drawn = np.random.default_rng(0).integers(0, num_seeds, (num_seeds - 1, replicates))
    return np.take_along_axis(drawn_SB, drawn, axis=0).mean(axis=0)


def _same_history(one: Predictions, other: Predictions) -> bool:
    return bool(np.array_equal(one.rows["history"], other.rows["history"]))
