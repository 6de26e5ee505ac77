"""Which impressions a rank gets at which step: no impression twice, none lost, whatever the number of ranks.

Global batch t of an epoch is slice t (batch_size / lanes impressions) of every lane; rank r of R reads the lanes with
lane % R == r. So the global batch does not depend on R, and the step is all that a resume needs.
"""

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import numpy as np

from dicm_kit.data.collate import ColumnsUsed, ItemTables, Slice, collate, empty_batch
from dicm_kit.data.dataset import Dataset, Split
from dicm_kit.data.windows import LaneFile, Window, WindowColumns
from dicm_kit.errors import DataError
from dicm_kit.types import Batch


def num_steps(dataset: Dataset, split: Split, batch_size: int) -> int:
    """Returns how many batches every rank gets in one epoch."""
    size = slice_size(dataset, batch_size)
    return max((-(-file.num_impressions // size) for file in lane_files(dataset, split)), default=0)


def slice_size(dataset: Dataset, batch_size: int) -> int:
    """Returns how many impressions of each lane make a batch; DataError when the lanes do not divide it."""
    lanes = dataset.lanes
    if batch_size < 1 or batch_size % lanes:
        low = max(lanes, batch_size // lanes * lanes)
        raise DataError(
            f"batch_size {batch_size} is not a multiple of the dataset's {lanes} lanes",
            where=str(dataset.folder),
            todo=f"Take {low} or {low + lanes}, or prepare the dataset with another number of lanes.",
        )
    return batch_size // lanes


def check_ranks(dataset: Dataset, num_ranks: int) -> None:
    """Raises DataError when there are more ranks than lanes."""
    if num_ranks > dataset.lanes:
        raise DataError(
            f"{num_ranks} ranks cannot share the dataset's {dataset.lanes} lanes",
            where=str(dataset.folder),
            todo="Use fewer ranks, or prepare the dataset with as many lanes as ranks or more.",
        )


def read_batches(
    dataset: Dataset,
    split: Split,
    *,
    columns: ColumnsUsed,
    batch_size: int,
    max_history: int,
    rank: int = 0,
    num_ranks: int = 1,
    shuffle: bool = False,
    seed: int = 0,
    epoch: int = 0,
    start_step: int = 0,
    every: int = 1,
    tables: ItemTables | None = None,
) -> Iterator[Batch]:
    """Yields this rank's part of the global batches `start_step`, `start_step + every`, ... of an epoch.

    Every rank gets the same number of batches, at the end some with N = 0. Not shuffled, the whole split comes in the
    order of the lane files; shuffled, the order depends on `seed` and `epoch` only
    (docs/reference/dataset_folder.md says how).
    `tables`: the item columns, where the caller has read them already.
    """
    size = slice_size(dataset, batch_size)
    check_ranks(dataset, num_ranks)
    assert 0 <= rank < num_ranks
    columns.check(dataset)
    tables = tables or ItemTables.read(dataset, columns)
    width = max(1, min(max_history, dataset.history_max_length))
    wanted = window_columns(dataset, columns, width)
    files = lane_files(dataset, split)
    lanes = [
        _Lane(files[lane], wanted, (seed, epoch, lane) if shuffle else None)
        for lane in range(rank, dataset.lanes, num_ranks)
    ]
    for step in range(start_step, num_steps(dataset, split, batch_size), every):
        slices = [each for lane in lanes for each in lane.slices(step * size, (step + 1) * size)]
        yield collate(slices, tables, columns, width) if slices else empty_batch(dataset, columns)


class _Lane:
    """A lane read forwards: any impressions behind those that were asked for before."""

    def __init__(self, file: LaneFile, columns: WindowColumns, order: tuple[int, ...] | None):
        self._file, self._columns = file, columns
        self._plan = iter(file.plan(order))
        self._next = next(self._plan, None)
        self._window: Window | None = None  # what _next plans, once it is read

    def slices(self, start: int, stop: int) -> Iterator[Slice]:
        """Yields impressions `start` to `stop` of the lane, as far as it has them, window by window."""
        while (plan := self._next) is not None and plan.first < stop:
            if plan.stop > start:
                if self._window is None:
                    self._window = self._file.read(plan, self._columns)
                yield Slice(self._window, max(start, plan.first) - plan.first, min(stop, plan.stop) - plan.first)
            if plan.stop > stop:
                return
            self._next, self._window = next(self._plan, None), None


@lru_cache(4096)
def _lane_file(files: tuple[tuple[str, int, int], ...]) -> LaneFile:
    return LaneFile([Path(path) for path, *_ in files])


def lane_files(dataset: Dataset, split: Split) -> list[LaneFile]:
    """Returns the lanes of a split; what is known of a file is kept until it changes."""
    lanes = []
    for lane in range(dataset.lanes):
        stats = [(path, path.stat()) for path in dataset.lane_files(split, lane)]
        lanes.append(_lane_file(tuple((str(path), stat.st_size, stat.st_mtime_ns) for path, stat in stats)))
    return lanes


def window_columns(dataset: Dataset, columns: ColumnsUsed, width: int) -> WindowColumns:
    """Returns what is read of a lane file; `width`: slots of the history."""
    return WindowColumns(columns.user, columns.context, width, dataset.num_items, _indices(dataset, columns))


def _indices(dataset: Dataset, columns: ColumnsUsed) -> dict[str, np.ndarray]:
    """Returns code -> index of the columns that hold codes."""
    infos = {f"user_{name}": dataset.user[name] for name in columns.user}
    infos |= {f"context_{name}": dataset.context[name] for name in columns.context}
    return {name: dataset.index_of(info.vocab) for name, info in infos.items() if info.vocab is not None}
