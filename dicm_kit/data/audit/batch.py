"""Some sample groups as flat arrays, after a look that they are what the format says."""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from dicm_kit.data.audit.format import TYPES
from dicm_kit.data.dataset import ColumnInfo, Dataset
from dicm_kit.data.ragged import offsets_of

if TYPE_CHECKING:
    import pyarrow as pa

_PER_IMPRESSION = ("item", "label", "weight", "time", "click_probability")
_HISTORY = ("history_item", "history_age")
_ROWS = ("list<int32>", "list<int64>")


@dataclass(frozen=True)
class Layout:
    """What a lane file holds."""

    types: dict[str, tuple[str, ...]]
    """Its columns, and which types each may have."""
    infos: dict[str, ColumnInfo]
    """Of the user and context columns among them."""
    codes: dict[str, int]
    """How many rows the vocabulary of a column has, for those whose vocabulary can be used."""
    num_items: int

    @classmethod
    def of(cls, dataset: Dataset, usable_vocabs: set[str]) -> "Layout":
        """Returns that of a dataset."""
        sides = (("user", dataset.user), ("context", dataset.context))
        infos = {f"{side}_{name}": info for side, columns in sides for name, info in columns.items()}
        infos = {name: info for name, info in infos.items() if info.kind in TYPES}
        codes = {name: len(dataset.index_of(info.vocab)) for name, info in infos.items() if info.vocab in usable_vocabs}
        return cls(_types(dataset), infos, codes, dataset.num_items)


class SampleBatch:
    """Sample groups (g), their impressions (n) and history entries (h)."""

    def __init__(self, batch: "pa.RecordBatch", layout: "Layout"):
        self._batch, self._layout, self._names = batch, layout, layout.types
        self.broken = False
        """After `wrong`: the arrays cannot be used."""

    def wrong(self) -> dict[str, int]:
        """Returns what breaks the format so that nothing else can be looked at, and how often."""
        found = {f"nulls in `{name}`": self._nulls(name) for name in self._names}
        if not any(found.values()):
            found |= self._wrong_lengths()
        if not any(found.values()):
            found |= self._out_of_range()
        self.broken = any(found.values())
        return {what: count for what, count in found.items() if count}

    def _wrong_lengths(self) -> dict[str, int]:
        found = {"groups without an impression": int((self.lengths == 0).sum())}
        for name in self._names:
            like = "item" if name in _PER_IMPRESSION or name.startswith("context_") else "history_item"
            if like == "item" or name in _HISTORY:
                differ = np.count_nonzero(self._lengths(name) != self._lengths(like))
                found[f"groups whose lists `{name}` and `{like}` have different lengths"] = int(differ)
        return found

    def _out_of_range(self) -> dict[str, int]:
        found = {}
        for name in ("item", "history_item"):
            rows = self.values(name)
            strange = (rows < 0) | (rows >= self._layout.num_items)
            found[f"values of `{name}` that are no row of items.parquet"] = int(np.count_nonzero(strange))
        for name, info in self._layout.infos.items():
            if info.kind == "number":
                strange = ~np.isfinite(self.values(name))
                found[f"values of `{name}` that are not finite"] = int(np.count_nonzero(strange))
            elif name in self._layout.codes:
                codes = self.values(name)
                strange = (codes < 0) | (codes >= self._layout.codes[name])
                found[f"values of `{name}` that are no row of vocab/{info.vocab}.parquet"] = int(strange.sum())
        return found

    # --- arrays ---

    @cached_property
    def user(self) -> np.ndarray:
        """[g]"""
        return self.values("user")

    @cached_property
    def lengths(self) -> np.ndarray:
        """[g] impressions"""
        return self._lengths("item")

    @cached_property
    def history_lengths(self) -> np.ndarray:
        """[g]"""
        return self._lengths("history_item")

    @cached_property
    def history_offsets(self) -> np.ndarray:
        """[g + 1] where each group's entries begin"""
        return offsets_of(self.history_lengths)

    @cached_property
    def item(self) -> np.ndarray:
        """[n]"""
        return self.values("item")

    @cached_property
    def label(self) -> np.ndarray:
        """[n]"""
        return self.values("label")

    @cached_property
    def weight(self) -> np.ndarray:
        """[n]"""
        return self.values("weight")

    @cached_property
    def time(self) -> np.ndarray:
        """[n]"""
        return self.values("time")

    @cached_property
    def history_item(self) -> np.ndarray:
        """[h]"""
        return self.values("history_item")

    @cached_property
    def history_age(self) -> np.ndarray:
        """[h]"""
        return self.values("history_age")

    def coded(self, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns the codes of a user or context column, and of how many impressions and positives each is."""
        info, codes = self._layout.infos[name], self.values(name)
        if name.startswith("user_"):
            weights, positives = self.lengths, self._positives
        else:
            weights, positives = np.ones(len(self.item), np.int64), (self.label == 1).astype(np.int64)
        if info.kind == "ids":
            lists = self._batch[name].flatten() if name.startswith("context_") else self._batch[name]
            lengths = lists.value_lengths().to_numpy()
            weights, positives = np.repeat(weights, lengths), np.repeat(positives, lengths)
        return codes, weights, positives

    def steps_back(self, values: np.ndarray, offsets: np.ndarray | None = None) -> np.ndarray:
        """Returns which values are lower than the one before in their list; lists of impressions by default."""
        offsets = offsets_of(self.lengths) if offsets is None else offsets
        back = np.zeros(len(values), bool)
        back[1:] = values[1:] < values[:-1]
        starts = offsets[:-1]
        back[starts[starts < len(values)]] = False
        return back

    def values(self, name: str) -> np.ndarray:
        """Returns all values of a column, of lists and lists of lists one after the other."""
        import pyarrow as pa

        column = self._batch[name]
        while pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
            column = column.flatten()
        return column.to_numpy()

    @cached_property
    def _positives(self) -> np.ndarray:
        """[g]"""
        if not len(self.lengths):
            return np.zeros(0, np.int64)
        return np.add.reduceat(self.label == 1, offsets_of(self.lengths)[:-1], dtype=np.int64)

    def _lengths(self, name: str) -> np.ndarray:
        return self._batch[name].value_lengths().to_numpy().astype(np.int64)

    def _nulls(self, name: str) -> int:
        import pyarrow as pa

        column = self._batch[name]
        count = column.null_count
        while pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
            column = column.flatten()
            count += column.null_count
        return count


def _types(dataset: Dataset) -> dict[str, tuple[str, ...]]:
    wanted: dict[str, tuple[str, ...]] = {
        "user": ("int64",),
        "history_item": _ROWS,
        "history_age": ("list<float>",),
        "item": _ROWS,
        "label": ("list<float>",),
        "weight": ("list<float>",),
        "time": ("list<int64>",),
    }
    if dataset.has_truth:
        wanted["click_probability"] = ("list<double>",)
    wanted |= {f"user_{name}": TYPES[info.kind] for name, info in dataset.user.items() if info.kind in TYPES}
    for name, info in dataset.context.items():
        if info.kind in TYPES:
            wanted[f"context_{name}"] = tuple(f"list<{each}>" for each in TYPES[info.kind])
    return wanted
