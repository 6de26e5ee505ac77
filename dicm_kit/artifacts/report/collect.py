"""What a report says, read from the run folder: results, log, predictions, recipe; and the same of another run."""

import csv
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray

from dicm_kit.artifacts.difference import Difference, Side, differences
from dicm_kit.artifacts.metrics_file import METRICS_FILE
from dicm_kit.artifacts.predictions import Predictions, read_predictions
from dicm_kit.artifacts.run_folder import RECIPE_FILE, RESULT_FILE, read_result
from dicm_kit.errors import RunError
from dicm_kit.training.bootstrap import Interval, Resampled, draws
from dicm_kit.training.metrics import row_losses
from dicm_kit.training.slices import Impressions

LOGGED = ("train/loss", "val/log_loss", "val/gauc", "val/auc")
LEGS = ("keys", "vectors", "gradients", "sizes")
_BINS = 10
_DRAWN = 2 * 10**8
"""Users times replicates of the calibration's intervals: seconds."""


@dataclass(frozen=True)
class Curve:
    """What was logged of one metric."""

    step: NDArray[np.float64]
    value: NDArray[np.float64]


@dataclass(frozen=True)
class Decile:
    """A tenth of the test impressions, by what the model predicts of them."""

    predicted: float
    observed: float
    interval: Interval | None
    """Of `observed`, over users."""
    impressions: int


@dataclass(frozen=True)
class RunFacts:
    """A finished run."""

    folder: Path
    result: dict[str, Any]
    """test.json"""
    recipe_text: str
    predictions: Predictions
    curves: dict[str, Curve] | None
    """By the names of `LOGGED`, those that were logged; None: the run wrote no metrics.csv."""
    bytes_per_leg: dict[str, float] = field(default_factory=dict)
    """Sent to other ranks, a step, as logged."""

    @property
    def name(self) -> str:
        """The folder's name, with that of the folder above where it only names the seed."""
        folder = self.folder.resolve()
        return f"{folder.parent.name}/{folder.name}" if folder.name.startswith("seed-") else folder.name

    @property
    def test(self) -> dict[str, float]:
        """The test metrics by name."""
        return self.result["test"]

    def interval(self, name: str) -> Interval | None:
        """Returns a test metric's 95 % interval."""
        found = self.result.get("intervals", {}).get(name)
        return None if found is None else (found[0], found[1])

    @cached_property
    def recipe(self) -> dict[str, Any]:
        """recipe.yaml, as plain values."""
        return yaml.safe_load(self.recipe_text)


@dataclass(frozen=True)
class Facts:
    """A run, and what it is compared with."""

    run: RunFacts
    deciles: list[Decile]
    against: RunFacts | None = None
    differences: dict[str, Difference] = field(default_factory=dict)


def collect(run_dir: Path, against: Path | None = None) -> Facts:
    """Returns what a report says.

    Raises:
        RunError: one of them is no run, has not finished, or they were tested on other impressions.
    """
    run = read_run(run_dir)
    deciles = calibration_deciles(run.predictions.rows)
    if against is None:
        return Facts(run, deciles)
    other = read_run(against)
    if other.folder.resolve() == run.folder.resolve():
        raise RunError("is compared with itself", where=str(run_dir), todo="Name another run after --against.")
    return Facts(run, deciles, other, differences(Side([run_dir]), Side([against])))


def read_run(folder: Path) -> RunFacts:
    """Returns a finished run; RunError for any other folder."""
    recipe = folder / RECIPE_FILE
    if not recipe.is_file():
        raise RunError(f"is no run folder: it has no {RECIPE_FILE}", where=str(folder), todo="See `dicm run --help`.")
    result = read_result(folder)
    if result is None:
        raise RunError(
            f"has not finished: it has no {RESULT_FILE}",
            where=str(folder),
            todo="Go on with it: dicm run RECIPE --resume. Or test what there is: dicm test RUN_DIR.",
        )
    log = read_log(folder / METRICS_FILE)
    legs = {leg: float(np.mean(each.value)) for leg in LEGS if (each := log.pop(f"images/{leg}_bytes", None))}
    curves = log if (folder / METRICS_FILE).is_file() else None
    return RunFacts(folder, result, recipe.read_text(), read_predictions(folder), curves, legs)


def read_log(file: Path) -> dict[str, Curve]:
    """Returns the curves of metrics.csv; steps count from 1. No file: no curves."""
    if not file.is_file():
        return {}
    wanted = (*LOGGED, *(f"images/{leg}_bytes" for leg in LEGS))
    points: dict[str, list[tuple[float, float]]] = {name: [] for name in wanted}
    with file.open(newline="") as lines:
        reader = csv.reader(lines)
        head = next(reader, [])
        places = {name: head.index(name) for name in wanted if name in head}
        step = head.index("step") if "step" in head else 0
        for line in reader:
            if len(line) == len(head):  # a machine that went down leaves a last line that was cut
                for name, place in places.items():
                    if line[place]:
                        points[name].append((float(line[step]) + 1, float(line[place])))
    return {name: _curve(found) for name, found in points.items() if found}


def _curve(points: Iterable[tuple[float, float]]) -> Curve:
    step, value = np.array(list(points)).T
    defined = np.isfinite(value)
    return Curve(step[defined], value[defined])


def calibration_deciles(rows: Impressions) -> list[Decile]:
    """Returns predicted and observed click rates of ten equal parts of the impressions, lowest predictions first.

    Equal predictions may fall into two parts; fewer than ten impressions give fewer parts. Weights count, as in the
    metric `calibration`.
    """
    order = np.argsort(rows["logit"], kind="stable")
    parts = [part for part in np.array_split(order, _BINS) if len(part)]
    if not parts:
        return []
    users, user = np.unique(rows["user"], return_inverse=True)
    _, probability = row_losses(rows["logit"], rows["label"])
    weight = rows["weight"].astype(np.float64)
    clicks_UM, weights_UM = np.zeros((2, len(users), len(parts)))
    predicted = []
    for number, part in enumerate(parts):
        of_part = weight[part]
        clicks_UM[:, number] = np.bincount(user[part], of_part * rows["label"][part], len(users))
        weights_UM[:, number] = np.bincount(user[part], of_part, len(users))
        predicted.append(_ratio(float((probability[part] * of_part).sum()), float(of_part.sum())))
    drawn_MB = _drawn_rates(clicks_UM, weights_UM)
    observed = [_ratio(*each) for each in zip(clicks_UM.sum(0).tolist(), weights_UM.sum(0).tolist(), strict=True)]
    return [
        Decile(said, seen, Resampled(drawn, int((weights > 0).sum())).interval, len(part))
        for said, seen, drawn, weights, part in zip(predicted, observed, drawn_MB, weights_UM.T, parts, strict=True)
    ]


def _drawn_rates(clicks_UM: NDArray[np.float64], weights_UM: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns each part's click rate on replicates of drawn users, [parts, replicates]."""
    replicates = int(np.clip(_DRAWN // len(clicks_UM), 50, 500))
    clicks_MU, weights_MU = torch.from_numpy(clicks_UM).T, torch.from_numpy(weights_UM).T
    rates = []
    for drawn_UB in draws(len(clicks_UM), replicates, seed=0):
        drawn = drawn_UB.double()
        weight_MB = weights_MU @ drawn
        rates.append(torch.where(weight_MB > 0, clicks_MU @ drawn / weight_MB, torch.nan))
    return torch.cat(rates, dim=1).numpy()


def _ratio(above: float, below: float) -> float:
    return above / below if below else float("nan")
