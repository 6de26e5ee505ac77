"""Which test impressions the gallery shows: the hardest mistakes of both kinds, then some that are right."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from dicm_kit.training.slices import Impressions

Kind = Literal["missed", "false_alarm", "hit", "passed"]
SHOWN: dict[Kind, int] = {"missed": 4, "false_alarm": 4, "hit": 3, "passed": 1}
"""How many of each. By loss alone all mistakes would be clicks: where few impressions are clicked, those cost most."""


@dataclass(frozen=True)
class Chosen:
    """An impression of the predictions file."""

    kind: Kind
    user: int
    item: int
    label: int
    logit: float

    @property
    def probability(self) -> float:
        """What the model predicted."""
        return float(1 / (1 + np.exp(-np.float64(self.logit))))


def choose(rows: Impressions) -> tuple[list[Chosen], bool]:
    """Returns the impressions, mistakes of both kinds in turn and then the right ones, and whether only those with a
    history were looked at: that is when there are enough of them.

    No user and no item comes twice.
    """
    clicked, logit = rows["label"] == 1, rows["logit"].astype(np.float64)
    with_history = rows["history"] > 0
    only_history = int(with_history.sum()) >= 100 or bool(with_history.all())
    if not only_history:
        with_history = np.ones_like(with_history)
    ranked: dict[Kind, NDArray[np.int64]] = {
        "missed": _ranked(clicked & with_history, logit),
        "false_alarm": _ranked(~clicked & with_history, -logit),
        "hit": _ranked(clicked & with_history, -logit),
        "passed": _ranked(~clicked & with_history, logit),
    }
    taken: set[tuple[str, int]] = set()
    found: dict[Kind, list[Chosen]] = {kind: [] for kind in SHOWN}
    for kind, most in SHOWN.items():
        for place in ranked[kind].tolist():
            user, item = int(rows["user"][place]), int(rows["item"][place])
            if len(found[kind]) == most:
                break
            if ("user", user) not in taken and ("item", item) not in taken:
                taken |= {("user", user), ("item", item)}
                found[kind].append(Chosen(kind, user, item, int(rows["label"][place]), float(logit[place])))
    mistakes = [each for pair in zip_all(found["missed"], found["false_alarm"]) for each in pair]
    return [*mistakes, *found["hit"], *found["passed"]], only_history


def zip_all(one: list[Chosen], other: list[Chosen]) -> list[list[Chosen]]:
    """Returns the lists in turns, the longer one's rest at the end."""
    return [[*one[place : place + 1], *other[place : place + 1]] for place in range(max(len(one), len(other)))]


def _ranked(among: NDArray[np.bool_], score: NDArray[np.float64], most: int = 1000) -> NDArray[np.int64]:
    """Returns the places with the smallest scores, in order; not all of them, which may be many millions."""
    places = np.flatnonzero(among)
    scores = score[places]
    if len(places) > most:
        smallest = np.sort(np.argpartition(scores, most)[:most])
        places, scores = places[smallest], scores[smallest]
    return places[np.argsort(scores, kind="stable")]
