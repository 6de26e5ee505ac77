"""A lane's row groups -> windows: dense arrays of some sample groups, in the order of the epoch."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dicm_kit.data.order import GROUPS, ROW_GROUPS, permutation
from dicm_kit.data.ragged import Ragged, taken
from dicm_kit.errors import DataError, some

if TYPE_CHECKING:
    import pyarrow as pa

WINDOW_GROUPS = 16_384  # sample groups that are shuffled among each other, and in memory, per lane

Array = np.ndarray | Ragged


@dataclass(frozen=True)
class Window:
    """Some sample groups (g) and their impressions (n)."""

    group_of: np.ndarray
    """[n] which group each impression belongs to, ascending"""
    user: np.ndarray
    """[g]"""
    history_length: np.ndarray
    """[g] at most `width`"""
    history_item: np.ndarray
    """[g, width] rows of the items table; empty slots hold `empty_item`"""
    history_age: np.ndarray
    """[g, width]"""
    of_group: dict[str, Array]
    """user columns [g]"""
    item: np.ndarray
    """[n]"""
    label: np.ndarray
    weight: np.ndarray
    of_impression: dict[str, Array]
    """context columns [n]"""


@dataclass(frozen=True)
class WindowColumns:
    """What is read of a lane file, and how."""

    user: tuple[str, ...]
    context: tuple[str, ...]
    width: int
    """Slots of the history."""
    num_items: int
    indices: dict[str, np.ndarray] = field(default_factory=dict)
    """Column of the file -> code -> index, for those that hold codes of a vocabulary."""

    @property
    def empty_item(self) -> int:
        """What empty history slots hold: the row after the last item."""
        return self.num_items

    @property
    def names(self) -> list[str]:
        """Columns of the file."""
        fixed = ["user", "history_item", "history_age", "item", "label", "weight"]
        return fixed + [f"user_{name}" for name in self.user] + [f"context_{name}" for name in self.context]


@dataclass(frozen=True)
class WindowPlan:
    """A window that can be read: its row groups, what its shuffling depends on, and which impressions of the lane,
    `first` to `stop`, it holds."""

    row_groups: list[int]
    shuffle: tuple[int, ...] | None
    first: int
    stop: int


class LaneFile:
    """One lane of a split, in one file per part: how many impressions each row group holds, and windows of them.

    Row groups are numbered through all files.
    """

    def __init__(self, paths: Sequence[Path]):
        self._files = [_PartFile(path) for path in paths]
        sizes = [len(file.groups) for file in self._files]
        self._file_of = np.repeat(np.arange(len(sizes)), sizes)
        self._first = np.cumsum([0, *sizes])
        none = np.zeros(0, np.int64)
        self.impressions = np.concatenate([none, *(file.impressions for file in self._files)])
        self.groups = np.concatenate([none, *(file.groups for file in self._files)])

    @property
    def num_impressions(self) -> int:
        """Impressions of the lane."""
        return int(self.impressions.sum())

    def plan(self, order: tuple[int, ...] | None) -> list[WindowPlan]:
        """Returns which row groups make each window, in order, without reading them.

        `order`: None for the order of the files, a window per row group; else (seed, epoch, lane): row groups in a
        random order, joined to windows of about WINDOW_GROUPS groups, in each of which groups come in a random order.
        """
        plan, first = [], 0
        for number, row_groups in enumerate(self._row_groups(order)):
            stop = first + int(self.impressions[row_groups].sum())
            plan.append(WindowPlan(row_groups, None if order is None else (GROUPS, *order, number), first, stop))
            first = stop
        return plan

    def users(self, plan: WindowPlan) -> np.ndarray:
        """Returns the users of a window's groups, in the order of the files; reads nothing else."""
        return np.concatenate(
            [
                self._files[self._file_of[each]].users(each - int(self._first[self._file_of[each]]))
                for each in plan.row_groups
            ]
        )

    def read(self, plan: WindowPlan, columns: WindowColumns) -> Window:
        """Returns a window; DataError when a file does not hold what it should."""
        parts = []
        for file, row_groups in groupby(plan.row_groups, key=lambda row_group: self._file_of[row_group]):
            numbers = [row_group - int(self._first[file]) for row_group in row_groups]
            parts.append(self._files[file].read(numbers, columns))
        window = parts[0] if len(parts) == 1 else _joined(parts)
        return window if plan.shuffle is None else _shuffled(window, permutation(len(window.user), *plan.shuffle))

    def _row_groups(self, order: tuple[int, ...] | None) -> list[list[int]]:
        if order is None:
            return [[index] for index in range(len(self.groups))]
        plan: list[list[int]] = []
        size = WINDOW_GROUPS
        for index in permutation(len(self.groups), ROW_GROUPS, *order).tolist():
            if size + self.groups[index] > WINDOW_GROUPS:
                plan.append([])
                size = 0
            plan[-1].append(index)
            size += self.groups[index]
        return plan


class _PartFile:
    """A lane of a part: one file."""

    def __init__(self, path: Path):
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.path = path
        try:
            self._metadata = pq.read_metadata(path)
        except (OSError, pa.ArrowInvalid) as error:
            raise DataError(f"cannot be read: {error}", where=str(path), todo="Prepare the dataset again.") from error
        names = [self._metadata.schema.column(index).path for index in range(self._metadata.num_columns)]
        self._columns = {name.split(".")[0] for name in names}
        rows = [self._metadata.row_group(index) for index in range(self._metadata.num_row_groups)]
        if "item" not in self._columns:
            raise DataError("has no column `item`", where=str(path), todo="See docs/reference/dataset_folder.md.")
        item = next(index for index, name in enumerate(names) if name.split(".")[0] == "item")
        # groups have at least one impression each, so the leaf has no entries for empty lists
        self.impressions = np.array([row.column(item).num_values for row in rows], np.int64)
        self.groups = np.array([row.num_rows for row in rows], np.int64)

    def users(self, row_group: int) -> np.ndarray:
        """Returns the users of a row group's sample groups."""
        import pyarrow.parquet as pq

        with pq.ParquetFile(self.path, metadata=self._metadata, memory_map=True) as file:
            return file.read_row_group(row_group, columns=["user"], use_threads=False)["user"].to_numpy()

    def read(self, row_groups: list[int], columns: WindowColumns) -> Window:
        """Returns the row groups as one window."""
        import pyarrow.parquet as pq

        if missing := [name for name in columns.names if name not in self._columns]:
            raise DataError(
                f"has no column {some(missing)}", where=str(self.path), todo="See docs/reference/dataset_folder.md."
            )
        with pq.ParquetFile(self.path, metadata=self._metadata, memory_map=True) as file:
            table = file.read_row_groups(row_groups, columns=columns.names, use_threads=False)
        try:
            arrays = {name: _array(table, name) for name in columns.names}
            return _window({name: _indexed(name, array, columns) for name, array in arrays.items()}, columns)
        except _WrongError as error:
            raise DataError(f"{error}", where=str(self.path), todo="See docs/reference/dataset_folder.md.") from None


class _WrongError(Exception):
    """What is wrong with the content of a lane file."""


def _array(table: "pa.Table", name: str) -> Array:
    """Returns a column without copying its values."""
    import pyarrow as pa

    column = table.column(name).combine_chunks()
    if isinstance(column, pa.ChunkedArray):  # no row groups, or more than one chunk can hold
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    if column.null_count:
        raise _WrongError(f"{column.null_count} nulls in `{name}`")
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        values = column.values
        if values.null_count:
            raise _WrongError(f"nulls in the lists of `{name}`")
        if pa.types.is_list(values.type) or pa.types.is_large_list(values.type):  # a Bag per impression
            return _Nested(values.values.to_numpy(), values.offsets.to_numpy(), column.offsets.to_numpy())
        return Ragged(values.to_numpy(), column.offsets.to_numpy())
    return column.to_numpy()


def _indexed(name: str, column: Array, columns: WindowColumns) -> Array:
    """Returns a column with indices instead of codes, where it holds codes."""
    index = columns.indices.get(name)
    if index is None:
        return column
    codes = column.values if isinstance(column, Ragged) else column
    if len(codes) and not (codes.min() >= 0 and codes.max() < len(index)):
        raise _WrongError(f"`{name}` holds a code that is not in its vocabulary")
    found = np.take(index, codes)
    return replace(column, values=found) if isinstance(column, Ragged) else found


@dataclass(frozen=True)
class _Nested(Ragged):
    """Lists of lists: `values` and `offsets` of the inner ones, and where the outer ones start."""

    outer: np.ndarray


def _window(arrays: dict[str, Array], columns: WindowColumns) -> Window:
    item, history = arrays["item"], arrays["history_item"]
    assert isinstance(item, Ragged)
    assert isinstance(history, Ragged)
    lengths = item.lengths
    if len(lengths) and lengths.min() < 1:
        raise _WrongError("a sample group without impressions")
    flat = {
        name: _flat(name, arrays[name], item.offsets)
        for name in ["label", "weight", *(f"context_{each}" for each in columns.context)]
    }
    label = flat["label"]
    assert isinstance(label, np.ndarray)
    if (wrong := np.count_nonzero((label != 0) & (label != 1))) > 0:
        raise _WrongError(f"{wrong} labels that are neither 0 nor 1")
    ages = arrays["history_age"]
    if not (isinstance(ages, Ragged) and np.array_equal(ages.offsets, history.offsets)):
        raise _WrongError("lists of `history_age` and `history_item` of different lengths")
    for name, rows in (("item", item.values), ("history_item", history.values)):
        if len(rows) and not (rows.min() >= 0 and rows.max() < columns.num_items):
            raise _WrongError(f"`{name}` holds a row that is not in items.parquet")
    weight = flat["weight"]
    assert isinstance(weight, np.ndarray)
    return Window(
        group_of=np.repeat(np.arange(len(lengths)), lengths),
        user=arrays["user"],  # type: ignore[arg-type]
        history_length=np.minimum(history.lengths, columns.width),
        history_item=_fitting(history, columns.num_items).padded(columns.width, columns.empty_item),
        history_age=ages.padded(columns.width, 0.0),
        of_group={name: arrays[f"user_{name}"] for name in columns.user},
        item=item.values,
        label=label,
        weight=weight,
        of_impression={name: flat[f"context_{name}"] for name in columns.context},
    )


def _flat(name: str, column: Array, offsets: np.ndarray) -> Array:
    """Returns a column of lists as one entry per impression, when its lists are as long as those of `item`."""
    if isinstance(column, _Nested) and np.array_equal(column.outer, offsets):
        return Ragged(column.values, column.offsets)
    if isinstance(column, Ragged) and not isinstance(column, _Nested) and np.array_equal(column.offsets, offsets):
        return column.values
    raise _WrongError(f"lists of `{name}` and `item` of different lengths")


def _fitting(rows: Ragged, largest: int) -> Ragged:
    """Returns rows whose type can hold `largest`, the mark of an empty slot."""
    fits = largest <= np.iinfo(rows.values.dtype).max
    return rows if fits else Ragged(rows.values.astype(np.int64), rows.offsets)


def _joined(windows: list[Window]) -> Window:
    """Returns the windows as one, their groups in the order they come."""

    def joined(pick: Callable[[Window], Array]) -> Any:
        parts = [pick(window) for window in windows]
        return Ragged.joined(parts) if isinstance(parts[0], Ragged) else np.concatenate(parts)  # type: ignore[arg-type]

    firsts = np.cumsum([0, *(len(window.user) for window in windows)])
    first = windows[0]
    return Window(
        group_of=np.concatenate([window.group_of + start for window, start in zip(windows, firsts, strict=False)]),
        of_group={name: joined(lambda window, name=name: window.of_group[name]) for name in first.of_group},  # type: ignore[misc]
        of_impression={
            name: joined(lambda window, name=name: window.of_impression[name])  # type: ignore[misc]
            for name in first.of_impression
        },
        **{
            each.name: joined(attrgetter(each.name))
            for each in fields(Window)
            if each.name not in ("group_of", "of_group", "of_impression")
        },
    )


def _shuffled(window: Window, groups: np.ndarray) -> Window:
    """Returns the window with its groups in the order of `groups`; impressions stay in order within theirs."""
    num_groups = len(groups)
    sizes = np.bincount(window.group_of, minlength=num_groups)
    if len(window.item) == num_groups:  # one impression each
        impressions, group_of = groups, window.group_of
    else:
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        impressions = Ragged(np.arange(len(window.item)), offsets).take(groups).values
        group_of = np.repeat(np.arange(num_groups), sizes[groups])

    return Window(
        group_of=group_of,
        user=window.user[groups],
        history_length=window.history_length[groups],
        history_item=np.take(window.history_item, groups, axis=0),
        history_age=np.take(window.history_age, groups, axis=0),
        of_group={name: taken(column, groups) for name, column in window.of_group.items()},
        item=window.item[impressions],
        label=window.label[impressions],
        weight=window.weight[impressions],
        of_impression={name: taken(column, impressions) for name, column in window.of_impression.items()},
    )
