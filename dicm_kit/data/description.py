"""What a folder is asked to hold, and what it holds when a preparation is done: the content of dataset.yaml."""

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from dicm_kit.data.dataset import SPLITS, VERSION, ColumnInfo, Dataset, PartInfo, Split, SplitInfo
from dicm_kit.data.options import PrepareOptions
from dicm_kit.data.state import STATE, Part, day_text
from dicm_kit.data.tables import Tables
from dicm_kit.interfaces import DataSource


@dataclass(frozen=True)
class Asked:
    """What a folder is asked to hold."""

    made: dict[str, Any]
    """Source and options: a folder with others is left alone."""
    content: dict[str, Any]
    """Pieces and snapshot: a folder with others is brought up to date."""

    @classmethod
    def of(cls, source: DataSource, options: PrepareOptions, read: dict[str, str]) -> "Asked":
        """Returns what a source and options ask for. `read`: pieces that the folder has read; those whose files are
        gone since, into an archive, say, are asked for still."""
        made = {"source": source.fingerprint, **asdict(options)}
        columns = {"columns": asdict(source.columns)}
        return cls(made, {**columns, "pieces": read | source.pieces, "snapshot": source.snapshot})

    @property
    def how(self) -> str:
        """Fingerprint of source and options."""
        return _hash({"version": VERSION, "columns": self.content["columns"], **self._chosen})

    @property
    def fingerprint(self) -> str:
        """Fingerprint of everything."""
        return _hash({"version": VERSION, **self._chosen, **self.content})

    @property
    def _chosen(self) -> dict[str, Any]:
        """`made` without options that are younger than folders that are there, where they change nothing: these keep
        their fingerprint."""
        return {name: value for name, value in self.made.items() if name != "forget_after_days" or value is not None}


class Description:
    """Counts what the parts hold, those that are there and those that are new."""

    def __init__(self, parts: list[Part], before: Dataset | None, out: Path, work: Path, tables: Tables):
        """Takes the dataset that is added to, if there is one, and the open tables."""
        self.parts, self.before, self.out, self.work, self.tables = parts, before, out, work, tables
        self.new = work / "new"

    def dataset(self, options: PrepareOptions, asked: Asked, *, new_rows: bool) -> Dataset:
        """Returns the dataset that the folder becomes; `new_rows`: the log has grown."""
        import pyarrow.parquet as pq

        columns: dict[str, Any] = {"user": {}, "item": {}, "context": {}}
        for side, encodings in self.tables.encodings.items():
            for each in encodings:
                count = None
                if each.vocab is not None:
                    count = self.tables.num_ids(each.vocab)
                columns[side][each.name] = ColumnInfo(each.kind, each.vocab, count)
        infos = self._part_infos()
        has_truth = self.before.has_truth if self.before else False
        if new_rows:
            has_truth = "click_probability" in pq.read_schema(self.work / "sorted.parquet").names
        return Dataset(
            folder=self.new,
            fingerprint=asked.fingerprint,
            **columns,
            lanes=options.lanes,
            partitions=options.partitions,
            parts=infos,
            splits={split: self._split_info(split, infos) for split in SPLITS},
            num_items=pq.read_metadata(self.new / "items.parquet").num_rows,
            history_max_length=options.history.max_length,
            has_truth=has_truth,
            made=asked.made | {"counts": self._made_counts(new_rows)},
            **json.loads((self.work / "pictures.json").read_text()),
        )

    @cached_property
    def _items(self) -> tuple[np.ndarray, np.ndarray]:
        """Which items have a picture, and which are targets in training."""
        import pyarrow.parquet as pq

        items = pq.read_table(self.new / "items.parquet", columns=["picture_key", "train_count"], partitioning=None)
        return items["picture_key"].to_numpy() != 0, items["train_count"].to_numpy() > 0

    def _made_counts(self, new_rows: bool) -> dict[str, int]:
        """Returns what was left out and could not be drawn, over all preparations of the folder."""
        before = self.before.made["counts"] if self.before else {}
        left_out = json.loads((self.work / "left_out.json").read_text())["left_out"] if new_rows else 0
        missing = json.loads((self.work / "written.json").read_text())["negatives_missing"]
        return {
            "rows_left_out": before.get("rows_left_out", 0) + left_out,
            "negatives_missing": before.get("negatives_missing", 0) + missing,
        }

    def _part_infos(self) -> dict[str, PartInfo]:
        written = json.loads((self.work / "written.json").read_text())["parts"]
        infos = {}
        for part in self.parts:
            if not part.new:
                assert self.before is not None
                infos[part.name] = self.before.parts[part.name]
                continue
            days = [day_text(day) for day in part.days] if part.days else [None, None]
            infos[part.name] = PartInfo(**written[part.name], first_day=days[0], last_day=days[1])
        return infos

    def _split_info(self, split: Split, infos: dict[str, PartInfo]) -> SplitInfo:
        import pyarrow.parquet as pq

        mine = [part for part in self.parts if part.split == split]
        has_picture, is_seen = self._items
        with_picture = unseen = 0
        for part in mine:
            folder = (self.new if part.new else self.out) / STATE / "parts" / part.name
            targets = pq.read_table(folder / "targets.parquet", partitioning=None)
            item, count = targets["item"].to_numpy(), targets["impressions"].to_numpy()
            with_picture += int(count[has_picture[item]].sum())
            unseen += int(count[~is_seen[item]].sum())
        sums = {
            name: sum(getattr(infos[part.name], name) for part in mine)
            for name in ("impressions", "groups", "positives", "with_history")
        }
        return SplitInfo(
            parts=tuple(part.name for part in mine),
            users=self.tables.users_of(mine),
            with_picture=with_picture,
            unseen_items=unseen,
            **sums,
        )


def _hash(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
