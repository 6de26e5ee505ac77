"""Five impressions in raw values, the same in every audit of a folder."""

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from dicm_kit.data.audit.result import Example
from dicm_kit.data.dataset import ColumnInfo, Dataset, Split
from dicm_kit.errors import some

if TYPE_CHECKING:
    import pyarrow as pa

_WANTED = 5
_GROUPS = 4096
_COLUMNS = {"item": 2, "context": 1, "user": 1}
_UNKNOWN = "unknown"


@dataclass(frozen=True)
class _Pick:
    """An impression of a table of groups."""

    group: int
    place: int


def pick_examples(dataset: Dataset) -> list[Example]:
    """Returns five impressions of test, or of training where there is no test: clicked ones and others, and one of a
    group with a long history."""
    split: Split = "test" if dataset.splits["test"].impressions else "train"
    groups = _first_groups(dataset, split)
    return _Raw(dataset, split, groups).examples() if len(groups) else []


def _first_groups(dataset: Dataset, split: Split) -> "pa.RecordBatch":
    """Returns the first groups of a split: some thousand, or what there is."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    found: list[pa.RecordBatch] = []
    for file in (file for lane in range(dataset.lanes) for file in dataset.lane_files(split, lane)):
        with pq.ParquetFile(file) as table:
            found += islice(table.iter_batches(_GROUPS, use_threads=False), 1)
        if sum(map(len, found)) >= _GROUPS:
            break
    return pa.concat_batches(found)


class _Raw:
    """Turns rows of a lane file into raw values."""

    def __init__(self, dataset: Dataset, split: Split, batch: "pa.RecordBatch"):
        self._dataset, self._split, self._batch = dataset, split, batch

    def examples(self) -> list[Example]:
        """Returns five of the batch."""
        picks = self._picks()
        rows = {pick.group: self._batch.slice(pick.group, 1).to_pylist()[0] for pick in picks}
        # the values are looked up together: a vocabulary may be long
        wanted = [self._columns(rows[pick.group], pick.place) for pick in picks]
        names = self._names(wanted)
        return [
            self._example(rows[pick.group], pick.place, columns, names)
            for pick, columns in zip(picks, wanted, strict=True)
        ]

    def _picks(self) -> list[_Pick]:
        lengths = self._batch["item"].value_lengths().to_numpy()
        label = self._batch["label"].flatten().to_numpy()
        history = self._batch["history_item"].value_lengths().to_numpy()
        first = np.cumsum(lengths) - lengths
        longest = int(np.argmax(history))
        # one of the longest history; two clicked ones and two others, spread over the batch, with a history if possible
        chosen = [int(first[longest])]
        has_history = np.repeat(history > 0, lengths)
        for clicked in (True, False):
            rows = np.flatnonzero((label == 1) == clicked)
            with_history = rows[has_history[rows]]
            rows = with_history if len(with_history) >= _WANTED else rows
            chosen += rows[np.linspace(0, len(rows) - 1, 2 if clicked else 4).astype(int)].tolist() if len(rows) else []
        kept = sorted(list(dict.fromkeys(chosen))[:_WANTED])
        groups = np.searchsorted(first, kept, side="right") - 1
        return [_Pick(int(group), row - int(first[group])) for group, row in zip(groups, kept, strict=True)]

    def _columns(self, row: dict[str, Any], place: int) -> dict[str, tuple[ColumnInfo, Any, str]]:
        """Returns column -> (what it is, its value, whether that is a code or an index) of an impression."""
        item = self._dataset.items.slice(row["item"][place], 1).to_pylist()[0]
        sides = (
            ("item", self._dataset.item, ("item_id", "picture"), lambda name: item[name], "index"),
            ("context", self._dataset.context, (), lambda name: row[f"context_{name}"][place], "code"),
            ("user", self._dataset.user, ("user_id",), lambda name: row[f"user_{name}"], "code"),
        )
        found: dict[str, tuple[ColumnInfo, Any, str]] = {}
        for side, columns, left_out, value, number in sides:
            shown = [name for name, info in columns.items() if name not in left_out and info.kind != "hash"]
            found |= {name: (columns[name], value(name), number) for name in shown[: _COLUMNS[side]]}
        return found | {"": (self._dataset.user["user_id"], row["user_user_id"], "code")}

    def _names(self, wanted: list[dict[str, tuple[ColumnInfo, Any, str]]]) -> dict[tuple[str, str, int], str]:
        """Returns (vocabulary, code or index, number) -> raw value."""
        numbers: dict[tuple[str, str], set[int]] = {}
        for columns in wanted:
            for info, value, number in columns.values():
                if info.vocab is not None:
                    values = value if isinstance(value, list) else [value]
                    numbers.setdefault((info.vocab, number), set()).update(values)
        return {
            (vocab, number, each): name
            for (vocab, number), those in numbers.items()
            for each, name in _raw_values(self._dataset, vocab, number, those).items()
        }

    def _example(
        self,
        row: dict[str, Any],
        place: int,
        columns: dict[str, tuple[ColumnInfo, Any, str]],
        names: dict[tuple[str, str, int], str],
    ) -> Example:
        def raw(info: ColumnInfo, value: Any, number: str) -> str:
            if info.vocab is None:
                return f"{value:.6g}"
            if isinstance(value, list):
                return some(names[info.vocab, number, each] for each in value) or "none"
            return names[info.vocab, number, value]

        items, user = self._dataset.items, raw(*columns[""])
        return Example(
            split=self._split,
            time=row["time"][place],
            user=user if user != _UNKNOWN else str(row["user"]),
            item=str(items["item"][row["item"][place]]),
            values={name: raw(*column) for name, column in columns.items() if name},
            has_picture=items["picture_key"][row["item"][place]].as_py() != 0,
            clicked=row["label"][place] == 1,
            history=tuple(
                (str(items["item"][item]), age)
                for item, age in zip(row["history_item"], row["history_age"], strict=True)
            ),
        )


def _raw_values(dataset: Dataset, vocab: str, number: str, wanted: set[int]) -> dict[int, str]:
    """Returns the values of some codes or indices, without holding the vocabulary."""
    import pyarrow.parquet as pq

    found = dict.fromkeys(wanted, _UNKNOWN)
    first = 0
    with pq.ParquetFile(dataset.vocab_file(vocab)) as table:
        for batch in table.iter_batches(columns=["value", "index"], use_threads=False):
            index = batch["index"].to_numpy()
            numbers = np.arange(first, first + len(batch)) if number == "code" else index
            for row in np.flatnonzero(np.isin(numbers, list(wanted - {0}))).tolist():
                found[int(numbers[row])] = str(batch["value"][row])
            first += len(batch)
    return found
