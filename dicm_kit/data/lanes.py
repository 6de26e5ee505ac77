"""Sample groups -> lane files, dealt at random, and the counts of each part."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dicm_kit.data.grouping import Groups, LogRun, group
from dicm_kit.data.options import GroupOptions, HistoryOptions
from dicm_kit.data.order import LANES, random_lanes
from dicm_kit.data.ragged import Ragged, offsets_of, taken
from dicm_kit.data.steps import parquet_file
from dicm_kit.data.windows import Array

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

ROW_GROUP = 4_096  # sample groups per row group


@dataclass(frozen=True)
class Written:
    """What was written of a part."""

    impressions: int
    groups: int
    positives: int
    users: int
    with_history: int
    targets: np.ndarray
    """Impressions of each item, as target."""


def write_lanes(
    runs: Iterable[LogRun],
    samples: Path,
    parts: Mapping[int, str],
    *,
    grouping: GroupOptions,
    history: HistoryOptions,
    lanes: int,
    seed: int,
    num_items: int,
) -> dict[str, Written]:
    """Writes `samples/<part>/lane-*.parquet`; every lane gets a file, and one group more or less than the others.

    `parts`: number of the part in the runs -> its name.
    """
    counts = {part: np.zeros(5, np.int64) for part in parts.values()}
    targets = {part: np.zeros(num_items, np.int64) for part in parts.values()}
    with ExitStack() as stack:
        writers: dict[str, list[_LaneWriter]] = {}
        for run in runs:
            groups = group(run, grouping, history)
            for number, part in parts.items():
                mine = np.flatnonzero(groups.part == number)
                lane = random_lanes(int(counts[part][1]), len(mine), lanes, LANES, seed, number)
                by_lane = np.argsort(lane, kind="stable")
                table = _table(run, groups, mine[by_lane])
                if part not in writers:
                    paths = [samples / part / f"lane-{each:03d}.parquet" for each in range(lanes)]
                    writers[part] = [stack.enter_context(_lane_file(path, table.schema)) for path in paths]
                ends = np.cumsum(np.bincount(lane, minlength=lanes)).tolist()
                for writer, begin, end in zip(writers[part], [0, *ends], ends, strict=False):
                    writer.add(table.slice(begin, end - begin))
                rows = groups.impressions.take(mine)
                counts[part] += _counts(run, groups, mine, rows)
                np.add.at(targets[part], run.item[rows.values], 1)
    names = ("impressions", "groups", "positives", "users", "with_history")
    return {
        part: Written(**dict(zip(names, counts[part].tolist(), strict=True)), targets=targets[part])
        for part in parts.values()
    }


def _table(run: LogRun, groups: Groups, wanted: np.ndarray) -> "pa.Table":
    """Returns the wanted groups as rows of a lane file."""
    import pyarrow as pa

    impressions = groups.impressions.take(wanted)
    history = groups.history.take(wanted)
    ages = Ragged(groups.ages, groups.history.offsets).take(wanted)
    first = impressions.values[impressions.offsets[:-1]]

    def listed(values: Array, offsets: np.ndarray) -> pa.Array:
        return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), _arrow(values))

    columns = {"user": pa.array(run.user[first])}
    columns |= {f"user_{name}": _arrow(taken(values, first)) for name, values in run.user_values.items()}
    columns["history_item"] = listed(history.values, history.offsets)
    columns["history_age"] = listed(ages.values, ages.offsets)
    of_impressions: dict[str, Array] = {"item": run.item, "label": run.label, "time": run.time, **run.values}
    for name, values in of_impressions.items():
        columns[name] = listed(taken(values, impressions.values), impressions.offsets)
    return pa.table(columns)


def _arrow(values: Array) -> "pa.Array":
    import pyarrow as pa

    if isinstance(values, Ragged):
        return pa.ListArray.from_arrays(pa.array(values.offsets, pa.int32()), pa.array(values.values))
    return pa.array(values)


def _counts(run: LogRun, groups: Groups, wanted: np.ndarray, impressions: Ragged) -> np.ndarray:
    """Returns impressions, groups, positives, users, and impressions with a history, of the wanted groups."""
    rows = impressions.values
    users = np.count_nonzero(np.diff(run.user[rows])) + 1 if len(rows) else 0  # groups come user after user
    with_history = impressions.lengths[groups.history.lengths[wanted] > 0].sum()
    return np.array([len(rows), len(wanted), np.count_nonzero(run.label[rows]), users, with_history], np.int64)


@contextmanager
def _lane_file(path: Path, schema: "pa.Schema") -> "Iterator[_LaneWriter]":
    path.parent.mkdir(parents=True, exist_ok=True)
    # plain lists of numbers are read fastest as they are; lz4 takes what it can at the speed of memory
    with parquet_file(path, schema, compression="lz4", use_dictionary=False, write_statistics=False) as file:
        writer = _LaneWriter(file)
        yield writer
        writer.finish()


class _LaneWriter:
    """Writes a lane file in row groups of equal size, however the groups come."""

    def __init__(self, file: "pq.ParquetWriter"):
        self._file = file
        self._waiting: list[pa.Table] = []
        self._rows = 0

    def add(self, table: "pa.Table") -> None:
        """Takes the next groups of the lane."""
        self._waiting.append(table)
        self._rows += len(table)
        if self._rows >= ROW_GROUP:
            self._write(self._rows // ROW_GROUP * ROW_GROUP)

    def finish(self) -> None:
        """Writes what is left."""
        if self._rows:
            self._write(self._rows)

    def _write(self, rows: int) -> None:
        import pyarrow as pa

        table = pa.concat_tables(self._waiting)
        self._file.write_table(table.slice(0, rows), row_group_size=ROW_GROUP)
        # copied, so that the rest does not keep the whole table alive
        rest = table.slice(rows)
        self._waiting = [rest.take(np.arange(len(rest)))] if len(rest) else []
        self._rows -= rows


def sorted_runs(file: "pq.ParquetFile", impressions: int) -> Iterator[LogRun]:
    """Yields the sorted log in runs of whole users, of about `impressions` each (more where one user has more)."""
    import pyarrow as pa

    table: pa.Table | None = None
    for batch in file.iter_batches(impressions, use_threads=False):
        more = pa.Table.from_batches([batch])
        table = more if table is None else pa.concat_tables([table, more])
        user = table["user"].to_numpy()
        cut = len(user) - int(np.argmax(user[::-1] != user[-1]))  # the last user may go on
        if cut < len(user):
            yield _run(table.slice(0, cut))
            table = table.slice(cut)
    if table is not None:
        yield _run(table)


def _run(table: "pa.Table") -> LogRun:
    def array(name: str) -> Array:
        import pyarrow as pa

        column = table[name].combine_chunks()
        column = pa.concat_arrays(column.chunks) if isinstance(column, pa.ChunkedArray) else column
        if pa.types.is_list(column.type):
            return Ragged(column.flatten().to_numpy(), offsets_of(np.diff(column.offsets.to_numpy())))
        return column.to_numpy()

    fixed = {name: array(name) for name in ("user", "time", "item", "label", "part")}
    given = set(table.column_names)
    history, times = (array(name) if name in given else None for name in ("history", "history_time"))
    values = [name for name in table.column_names if name in ("weight", "click_probability")]
    values += [name for name in table.column_names if name.startswith("context_")]
    users = [name for name in table.column_names if name.startswith("user_")]
    return LogRun(
        **fixed,  # type: ignore[arg-type]
        order=array("order") if "order" in given else None,  # type: ignore[arg-type]
        history=history,  # type: ignore[arg-type]
        history_time=times.values if isinstance(times, Ragged) else None,
        values={name: array(name) for name in values},
        user_values={name.removeprefix("user_"): array(name) for name in users},
    )
