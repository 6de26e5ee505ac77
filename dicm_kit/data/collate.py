"""Slices of windows -> Batch, vectorised: item columns are joined here, where an item stands once in memory."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from dicm_kit.data.dataset import ColumnInfo, Dataset
from dicm_kit.data.order import PICTURES, permutation
from dicm_kit.data.ragged import Ragged
from dicm_kit.data.windows import Array, Window
from dicm_kit.errors import DataError, did_you_mean, some
from dicm_kit.types import Bag, Batch, Column, Columns

if TYPE_CHECKING:
    import pyarrow as pa

_ROUND_TO = 8
_KEY = "picture_key"  # prepare lets no column be called so


@dataclass(frozen=True)
class ColumnsUsed:
    """Which columns of the dataset go into a Batch."""

    user: tuple[str, ...] = ()
    target: tuple[str, ...] = ()
    context: tuple[str, ...] = ()
    history: tuple[str, ...] = ()
    target_picture: bool = True
    """False: `target_key_N` is all 0."""
    history_picture: bool = True
    """False: `history_key_GL` is all 0."""
    shuffle_pictures: int | None = None
    """A seed: the items that have a picture exchange their pictures. None: each keeps its own."""

    def check(self, dataset: Dataset) -> None:
        """Raises DataError when the dataset lacks one."""
        sides = {"user": dataset.user, "target": dataset.item, "context": dataset.context, "history": dataset.item}
        for side, known in sides.items():
            if unknown := [name for name in getattr(self, side) if name not in known]:
                near = did_you_mean(unknown[0], known)
                raise DataError(
                    f"has no {side} column {some(f'`{name}`' for name in unknown)}",
                    where=str(dataset.folder),
                    todo=f"{near or ''} Columns here: {', '.join(known) or 'none'}.".strip(),
                )


@dataclass(frozen=True)
class ItemTable:
    """Item columns, to be looked up by row. One row more than items: the last, all 0, is that of empty history slots.

    Whole-number columns stand side by side, so that an item's values are one place in memory, not one per column.
    """

    names: tuple[str, ...]
    whole: np.ndarray
    """[items + 1, names] int64"""
    others: dict[str, Array]
    """Numbers (float32) and bags."""

    @classmethod
    def read(cls, dataset: Dataset, names: Sequence[str], keys: bool, shuffle: int | None = None) -> "ItemTable":
        """Returns the named columns, and as `picture_key` the picture keys, if wanted; shuffled by a seed, if given."""
        infos = {name: dataset.item[name] for name in names} | ({_KEY: ColumnInfo("hash")} if keys else {})
        columns = {name: _with_empty(dataset.items[name], info) for name, info in infos.items()}
        if keys and shuffle is not None:
            columns[_KEY] = shuffled(columns[_KEY], shuffle)  # type: ignore[arg-type]
        whole = tuple(name for name, info in infos.items() if info.kind in ("id", "hash"))
        stack = np.empty((dataset.num_items + 1, len(whole)), np.int64)
        for index, name in enumerate(whole):
            stack[:, index] = columns[name]  # type: ignore[assignment]
        return cls(whole, stack, {name: column for name, column in columns.items() if name not in whole})

    def look_up(self, rows: np.ndarray) -> Columns:
        """Returns all columns, each in the shape of `rows`."""
        found: Columns = {}
        if self.names:
            # "clip" writes straight into `out`; the reader has checked that all rows exist
            taken = np.empty((rows.size, len(self.names)), np.int64)
            np.take(self.whole, rows.ravel(), axis=0, out=taken, mode="clip")
            by_column = np.ascontiguousarray(taken.T)
            found |= {
                name: torch.from_numpy(column.reshape(rows.shape))
                for name, column in zip(self.names, by_column, strict=True)
            }
        for name, values in self.others.items():
            if isinstance(values, Ragged):
                bag = values.take(rows.ravel())
                found[name] = Bag(torch.from_numpy(bag.values), torch.from_numpy(bag.offsets), rows.shape)
            else:
                found[name] = torch.from_numpy(np.take(values, rows))
        return found


@dataclass(frozen=True)
class ItemTables:
    """What is joined to targets and to histories."""

    target: ItemTable
    history: ItemTable

    @classmethod
    def read(cls, dataset: Dataset, used: ColumnsUsed) -> "ItemTables":
        """Returns the columns that are used."""
        return cls(
            ItemTable.read(dataset, used.target, used.target_picture, used.shuffle_pictures),
            ItemTable.read(dataset, used.history, used.history_picture, used.shuffle_pictures),
        )


@dataclass(frozen=True)
class Slice:
    """Impressions `start` to `stop` of a window."""

    window: Window
    start: int
    stop: int

    @property
    def groups(self) -> slice:
        """The sample groups they belong to; the first and the last may go on in other slices."""
        group_of = self.window.group_of
        return slice(int(group_of[self.start]), int(group_of[self.stop - 1]) + 1)


def collate(slices: Sequence[Slice], tables: ItemTables, used: ColumnsUsed, width: int) -> Batch:
    """Returns the slices, one after the other, as a Batch; at least one slice.

    L is the longest history of the batch, rounded up to a multiple of 8 (few different sizes are kinder to allocators
    and compilers), at most `width` and at least 1: a batch of short histories costs little, and no model may depend on
    empty slots.
    """
    groups = [each.groups for each in slices]

    def of_groups(pick: Callable[[Window], Array]) -> Array:
        return _joined([pick(each.window)[rows] for each, rows in zip(slices, groups, strict=True)])

    def of_impressions(pick: Callable[[Window], Array]) -> Array:
        return _joined([pick(each.window)[each.start : each.stop] for each in slices])

    length_G = of_groups(lambda window: window.history_length)
    assert isinstance(length_G, np.ndarray)
    longest = int(length_G.max(initial=0))
    L = max(1, min(width, -(-longest // _ROUND_TO) * _ROUND_TO))
    item_GL = _wide([each.window.history_item[rows, :L] for each, rows in zip(slices, groups, strict=True)], np.int64)
    age_GL = _wide([each.window.history_age[rows, :L] for each, rows in zip(slices, groups, strict=True)], np.float32)
    item_N = _wide([each.window.item[each.start : each.stop] for each in slices], np.int64)
    group_N = _groups_of_impressions(slices, groups)
    target, history = tables.target.look_up(item_N), tables.history.look_up(item_GL)
    target_key_N, history_key_GL = _key(target, item_N), _key(history, item_GL)
    user_G = of_groups(lambda window: window.user)
    assert isinstance(user_G, np.ndarray)

    return Batch(
        group_N=torch.from_numpy(group_N),
        user={name: _column(of_groups(lambda window, name=name: window.of_group[name])) for name in used.user},  # type: ignore[misc]
        target=target,
        context={
            name: _column(of_impressions(lambda window, name=name: window.of_impression[name]))  # type: ignore[misc]
            for name in used.context
        },
        history=history,
        mask_GL=torch.from_numpy(np.arange(L) < length_G[:, None]),
        age_GL=torch.from_numpy(age_GL),
        target_key_N=target_key_N,
        history_key_GL=history_key_GL,
        label_N=_tensor(of_impressions(lambda window: window.label), torch.float32),
        weight_N=_tensor(of_impressions(lambda window: window.weight), torch.float32),
        user_id_N=torch.from_numpy(user_G.astype(np.int64, copy=False)[group_N]),
        item_N=torch.from_numpy(item_N),
    )


def empty_batch(dataset: Dataset, used: ColumnsUsed) -> Batch:
    """Returns a batch of no impressions, with all columns: what a rank gets whose data has ended."""

    def columns(names: Sequence[str], infos: dict[str, ColumnInfo], shape: tuple[int, ...]) -> Columns:
        return {name: _empty_column(infos[name], shape) for name in names}

    none, no_history = torch.zeros(0, dtype=torch.int64), torch.zeros(0, 1, dtype=torch.int64)
    return Batch(
        group_N=none,
        user=columns(used.user, dataset.user, (0,)),
        target=columns(used.target, dataset.item, (0,)),
        context=columns(used.context, dataset.context, (0,)),
        history=columns(used.history, dataset.item, (0, 1)),
        mask_GL=no_history.bool(),
        age_GL=no_history.float(),
        target_key_N=none,
        history_key_GL=no_history,
        label_N=none.float(),
        weight_N=none.float(),
        user_id_N=none,
        item_N=none,
    )


def shuffled(keys_S: np.ndarray, seed: int) -> np.ndarray:
    """Returns picture keys in a random order by `seed`, dealt to the same rows; 0 (no picture) stays where it is."""
    rows = np.flatnonzero(keys_S)
    dealt = keys_S.copy()
    dealt[rows] = keys_S[rows[permutation(len(rows), PICTURES, seed)]]
    return dealt


def _with_empty(column: "pa.ChunkedArray", info: ColumnInfo) -> Array:
    """Returns a column of the items table with the row of empty history slots behind it."""
    array = column.combine_chunks()
    if info.kind == "ids":
        import pyarrow as pa

        array = array if isinstance(array, pa.Array) else pa.concat_arrays(array.chunks)
        offsets = array.offsets.to_numpy().astype(np.int64)
        return Ragged(array.values.to_numpy().astype(np.int64), np.append(offsets, offsets[-1]))
    values = array.to_numpy().astype(np.float32 if info.kind == "number" else np.int64, copy=False)
    return np.append(values, values.dtype.type(0))


def _joined(parts: list[Array]) -> Array:
    if isinstance(parts[0], Ragged):
        return Ragged.joined(parts)  # type: ignore[arg-type]
    return np.concatenate(parts)  # type: ignore[arg-type]


def _wide(parts: list[np.ndarray], kind: type) -> np.ndarray:
    """Returns the parts as one array of `kind`, in one pass."""
    return np.concatenate(parts, dtype=kind, casting="same_kind")


def _groups_of_impressions(slices: Sequence[Slice], groups: list[slice]) -> np.ndarray:
    out = np.empty(sum(each.stop - each.start for each in slices), np.int64)
    done = first = 0
    for each, rows in zip(slices, groups, strict=True):
        stop = done + each.stop - each.start
        np.add(each.window.group_of[each.start : each.stop], first - rows.start, out=out[done:stop])
        done, first = stop, first + rows.stop - rows.start
    return out


def _key(found: Columns, rows: np.ndarray) -> Tensor:
    """Takes the picture keys out of what was looked up; zeros where they are not used."""
    keys = found.pop(_KEY, None)
    if keys is None:
        return torch.zeros(rows.shape, dtype=torch.int64)
    assert isinstance(keys, Tensor)
    return keys


def _column(array: Array) -> Column:
    if isinstance(array, Ragged):
        values, offsets = array.values.astype(np.int64, copy=False), array.offsets.astype(np.int64, copy=False)
        return Bag(torch.from_numpy(values), torch.from_numpy(offsets), (len(array),))
    return _tensor(array, torch.float32 if array.dtype.kind == "f" else torch.int64)


def _tensor(array: Array, kind: torch.dtype) -> Tensor:
    assert isinstance(array, np.ndarray)
    return torch.from_numpy(array).to(kind)


def _empty_column(info: ColumnInfo, shape: tuple[int, ...]) -> Column:
    if info.kind == "ids":
        return Bag(torch.zeros(0, dtype=torch.int64), torch.zeros(1, dtype=torch.int64), shape)
    return torch.zeros(shape, dtype=torch.float32 if info.kind == "number" else torch.int64)
