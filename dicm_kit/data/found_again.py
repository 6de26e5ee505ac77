"""A few impressions of a split, found again by their user and item: as a Batch, with whose clicks its history holds.

Only the user column is read through; of the rest, the row groups that hold one of the users.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dicm_kit.data.collate import ColumnsUsed, ItemTables, Slice, collate, shuffled
from dicm_kit.data.dataset import Dataset, Split
from dicm_kit.data.reader import lane_files, window_columns
from dicm_kit.data.windows import WindowColumns
from dicm_kit.types import Batch

_MOST_ALIKE = 50
"""Impressions of one user and item that are looked at."""


@dataclass(frozen=True)
class Wanted:
    """One impression as a predictions file has it."""

    user: int
    item: int
    label: int


@dataclass(frozen=True)
class FoundAgain:
    """Impressions in a batch of their own; a wanted one may be there several times, or not at all."""

    batch: Batch
    wanted: list[int]
    """[N] which of the wanted each is"""
    user_code: list[int]
    """[N] the user's code in the vocabulary of `user_id`"""
    history_item: list[np.ndarray]
    """[N] rows of items.parquet, newest first"""


def find_again(
    dataset: Dataset, split: Split, wanted: Sequence[Wanted], *, columns: ColumnsUsed, max_history: int
) -> FoundAgain | None:
    """Returns the impressions of these users and items with these labels; None when there is not one."""
    width = max(1, min(max_history, dataset.history_max_length))
    users = np.unique(np.array([each.user for each in wanted], np.int64))
    read, codes = window_columns(dataset, columns, width), WindowColumns(("user_id",), (), 1, dataset.num_items)
    slices, number, user_code, history_item = list[Slice](), list[int](), list[int](), list[np.ndarray]()
    alike = dict.fromkeys(range(len(wanted)), 0)
    for lane in lane_files(dataset, split):
        for plan in lane.plan(None):
            if not np.isin(lane.users(plan), users).any():
                continue
            window, code = lane.read(plan, read), lane.read(plan, codes).of_group["user_id"]
            assert isinstance(code, np.ndarray), "one value a user"
            user_n = window.user[window.group_of]
            for index, each in enumerate(wanted):
                same = (user_n == each.user) & (window.item == each.item) & (window.label == each.label)
                for place in np.flatnonzero(same)[: _MOST_ALIKE - alike[index]].tolist():
                    group = int(window.group_of[place])
                    slices.append(Slice(window, place, place + 1))
                    number.append(index)
                    user_code.append(int(code[group]))
                    history_item.append(window.history_item[group, : window.history_length[group]].astype(np.int64))
                    alike[index] += 1
    if not slices:
        return None
    batch = collate(slices, ItemTables.read(dataset, columns), columns, width)
    return FoundAgain(batch, number, user_code, history_item)


def keys_shown(dataset: Dataset, columns: ColumnsUsed) -> np.ndarray:
    """Returns the picture key of each item as the model saw it: shuffled where the recipe asks for that."""
    key_S = dataset.items["picture_key"].to_numpy()
    return key_S if columns.shuffle_pictures is None else shuffled(key_S, columns.shuffle_pictures)


def raw_users(dataset: Dataset, codes: Sequence[int]) -> list[str | None]:
    """Returns the raw user ids of codes; None for the code of no value."""
    import pyarrow.parquet as pq

    info = dataset.user["user_id"]
    if info.vocab is None:
        return [None] * len(codes)
    found: dict[int, str | None] = {}
    first = 0
    with pq.ParquetFile(dataset.vocab_file(info.vocab)) as file:
        for group in range(file.num_row_groups):
            stop = first + file.metadata.row_group(group).num_rows
            inside = sorted({code for code in codes if first <= code < stop})
            if inside:
                values = file.read_row_group(group, columns=["value"])["value"]
                found |= {code: _text(values[code - first].as_py()) for code in inside}
            first = stop
    return [found.get(code) for code in codes]


def _text(value: object) -> str | None:
    return None if value is None else str(value)
