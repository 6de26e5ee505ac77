"""Parts of a split that are measured by themselves: by how often the target was seen in training, by history length."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Columns = dict[str, NDArray[Any]]
"""Impressions, column by column."""

HISTORY_BUCKETS = (0, 1, 4, 8, 16, 32)
"""Least length of each history-length slice; the last has no end."""


class TargetSlices:
    """Which slice a target item belongs to, by how often it was a target in training."""

    def __init__(self, train_count: NDArray[Any]):
        """Takes the impressions of every item (row of items.parquet) in the training split."""
        self.decile = frequency_deciles(train_count)

    def of(self, item: NDArray[Any]) -> NDArray[np.int8]:
        """Returns 0 for targets never seen in training, else the decile, 1 (rare) to 10."""
        return self.decile[item]


def frequency_deciles(train_count: NDArray[Any]) -> NDArray[np.int8]:
    """Returns each item's decile of training impressions: 1 holds the rarest items, 0 those never seen.

    Items in order of their count, rarest first: an item is in decile 1 while the items with smaller counts together
    have less than a tenth of all training impressions, and so on. Items with the same count share a decile, so deciles
    hold about, not exactly, a tenth of the impressions, and a high one may be empty.
    """
    counts, inverse, items = np.unique(train_count, return_inverse=True, return_counts=True)
    impressions = counts.astype(np.int64) * items
    rarer = np.cumsum(impressions) - impressions
    decile = 1 + np.minimum(10 * rarer // max(1, int(impressions.sum())), 9)
    return np.where(counts > 0, decile, 0).astype(np.int8)[inverse]


def slices(rows: Columns) -> Iterator[tuple[str, Columns]]:
    """Yields the rows of each slice that has some, by name; `decile` and `history` say where a row belongs."""
    by_decile, starts = _grouped(rows, rows["decile"], 11)
    spans = {"target_unseen": (starts[0], starts[1]), "target_seen": (starts[1], starts[11])}
    spans |= {f"target_decile_{each}": (starts[each], starts[each + 1]) for each in range(1, 11)}
    yield from _spans(by_decile, spans)
    bucket = np.searchsorted(HISTORY_BUCKETS, rows["history"], side="right") - 1
    by_history, starts = _grouped(rows, bucket.astype(np.int8), len(HISTORY_BUCKETS))
    spans = {}
    for place, (least, following) in enumerate(zip(HISTORY_BUCKETS, (*HISTORY_BUCKETS[1:], None), strict=True)):
        up_to = "_up" if following is None else "" if following == least + 1 else f"_{following - 1}"
        spans[f"history_{least}{up_to}"] = (starts[place], starts[place + 1])
    yield from _spans(by_history, spans)


def _grouped(rows: Columns, code: NDArray[np.int8], num_codes: int) -> tuple[Columns, list[int]]:
    """Returns the rows in order of their code, and where each code begins; the end comes last."""
    order = np.argsort(code, kind="stable")
    starts = np.searchsorted(code[order], np.arange(num_codes + 1))
    return {name: values[order] for name, values in rows.items()}, starts.tolist()


def _spans(rows: Columns, spans: dict[str, tuple[int, int]]) -> Iterator[tuple[str, Columns]]:
    for name, (start, end) in spans.items():
        if end > start:
            yield name, {column: values[start:end] for column, values in rows.items()}
