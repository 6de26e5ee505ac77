"""The dataset folder, opened: what is in it, checked. The format is in docs/reference/dataset_folder.md."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import yaml

from dicm_kit.errors import DataError, did_you_mean, some
from dicm_kit.interfaces import ColumnShape, Kind
from dicm_kit.whole_file import write_whole

if TYPE_CHECKING:
    import pyarrow as pa

VERSION = 2
DATASET_FILE = "dataset.yaml"
Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
_PER_GROUP = ("user",)


@dataclass(frozen=True)
class ColumnInfo:
    """What a column of the dataset holds."""

    kind: Kind
    vocab: str | None = None
    """The vocabulary its indices come from; None for `hash` and `number`."""
    num_ids: int | None = None
    """Indices of the vocabulary, 0 (unknown) included; None for `hash` and `number`."""

    @property
    def shape(self) -> ColumnShape:
        """What a feature encoder must know of it."""
        return ColumnShape(self.kind, self.num_ids)


@dataclass(frozen=True)
class PartInfo:
    """A run of days, or a whole split: sample files that are written once and never changed."""

    impressions: int
    groups: int
    positives: int
    users: int
    with_history: int | None = None
    """Impressions whose group has a history; None: whoever wrote the folder did not count it."""
    first_day: str | None = None
    """Its first UTC day; None where the split is not by time."""
    last_day: str | None = None


@dataclass(frozen=True)
class SplitInfo:
    """How much a split holds, and in which parts. None: whoever wrote the folder did not count it."""

    parts: tuple[str, ...]
    impressions: int
    groups: int
    positives: int
    users: int
    with_picture: int | None = None
    """Impressions whose target has a picture."""
    with_history: int | None = None
    """Impressions whose group has a history."""
    unseen_items: int | None = None
    """Impressions whose target is no target in training."""


@dataclass(frozen=True)
class Dataset:
    """A prepared dataset. Opening reads `dataset.yaml` and looks for the files; tables are read when asked for."""

    folder: Path
    fingerprint: str
    user: dict[str, ColumnInfo]
    item: dict[str, ColumnInfo]
    context: dict[str, ColumnInfo]
    lanes: int
    partitions: int
    parts: dict[str, PartInfo]
    splits: dict[Split, SplitInfo]
    num_items: int
    num_pictures: int
    history_max_length: int
    has_truth: bool
    """True when the samples hold `click_probability`, the truth of made-up data."""
    pictures_fingerprint: str
    """Changes whenever the set of pictures does."""
    made: dict[str, Any] = field(default_factory=dict)
    """How groups, histories and splits were made, and of what source; for reports."""

    @classmethod
    def open(cls, folder: Path | str) -> "Dataset":
        """Returns the dataset of a folder; DataError when it is none, incomplete, or of another version."""
        folder = Path(folder)
        content = _read_description(folder)
        try:
            values: dict[str, Any] = {name: content[name] for name in _PLAIN}
            for side in ("user", "item", "context"):
                values[side] = {name: ColumnInfo(**info) for name, info in content["columns"][side].items()}
            values["parts"] = {name: PartInfo(**info) for name, info in content["parts"].items()}
            values["splits"] = {
                name: SplitInfo(**(info | {"parts": tuple(info["parts"])}))
                for name, info in ((name, content["splits"][name]) for name in SPLITS)
            }
            unknown = {part for info in values["splits"].values() for part in info.parts} - set(values["parts"])
            if unknown:
                raise KeyError(f"no part is called {some(sorted(unknown))}")
            dataset = cls(folder=folder, **values)
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"cannot be read: {type(error).__name__} {error}",
                where=str(folder / DATASET_FILE),
                todo="It does not follow docs/reference/dataset_folder.md: prepare the folder again.",
            ) from error
        dataset._check_files()
        return dataset

    def save(self) -> None:
        """Writes dataset.yaml, whole or not at all. It comes last: a folder without it is not a dataset."""
        content = {
            "dicm_dataset": VERSION,
            **{name: getattr(self, name) for name in _PLAIN},
            "columns": {
                side: {name: _plain(info) for name, info in getattr(self, side).items()}
                for side in ("user", "item", "context")
            },
            "parts": {name: _plain(info) for name, info in self.parts.items()},
            "splits": {name: _plain(info) | {"parts": list(info.parts)} for name, info in self.splits.items()},
        }
        write_whole(self.folder / DATASET_FILE, yaml.safe_dump(content, sort_keys=False).encode())

    @property
    def images_folder(self) -> Path:
        """Where the picture shards are."""
        return self.folder / "images"

    @property
    def features_folder(self) -> Path:
        """Where `extract` puts backbone vectors."""
        return self.folder / "features"

    def vocab_file(self, name: str) -> Path:
        """Raw value -> index and count."""
        return self.folder / "vocab" / f"{name}.parquet"

    def lane_files(self, split: Split, lane: int) -> list[Path]:
        """The sample groups of a lane, in one file per part."""
        return [lane_file(self.folder, part, lane) for part in self.splits[split].parts]

    def index_of(self, vocab: str) -> np.ndarray:
        """Returns code -> index of a vocabulary: samples hold codes, models hold a row for each index."""
        import pyarrow.parquet as pq

        if vocab not in self._indices:
            index = pq.read_table(self.vocab_file(vocab), columns=["index"], partitioning=None)["index"].to_numpy()
            small = len(index) < 2**31
            self._indices[vocab] = index.astype(np.int32 if small else np.int64)
        return self._indices[vocab]

    @cached_property
    def _indices(self) -> dict[str, np.ndarray]:
        return {}

    @cached_property
    def items(self) -> "pa.Table":
        """items.parquet: `item` (raw), `picture_key`, `train_count`, then the item columns, encoded."""
        import pyarrow.parquet as pq

        return pq.read_table(self.folder / "items.parquet", partitioning=None)

    def impressions(self, split: Split, columns: Sequence[str]) -> dict[str, np.ndarray]:
        """Returns flat arrays, one entry per impression, lane after lane in the order of the files.

        `columns`: any of user, item, label, weight, time, click_probability, context_<name> (of one value each);
        `user` is repeated for the impressions of its group. Id columns come as indices.
        """
        import pyarrow.parquet as pq

        names = list(dict.fromkeys(columns))
        read = names + (["item"] if "item" not in names else [])
        found: list[dict[str, np.ndarray]] = []
        for file in (file for lane in range(self.lanes) for file in self.lane_files(split, lane)):
            known = pq.read_schema(file).names
            if unknown := [name for name in names if name not in known]:
                raise DataError(f"has no column {some(unknown)}", where=str(file), todo=did_you_mean(unknown[0], known))
            found.append(self._flat(pq.read_table(file, columns=read, partitioning=None).combine_chunks(), names))
        return {name: np.concatenate([each[name] for each in found] or [np.zeros(0)]) for name in names}

    def _flat(self, table: "pa.Table", names: list[str]) -> dict[str, np.ndarray]:
        import pyarrow as pa

        lengths = pa.compute.list_value_length(table["item"]).to_numpy()
        flat: dict[str, np.ndarray] = {}
        for name in names:
            if name in _PER_GROUP:
                flat[name] = np.repeat(table[name].to_numpy(), lengths)
                continue
            flat[name] = pa.compute.list_flatten(table[name]).to_numpy()
            info = self.context.get(name.removeprefix("context_")) if name.startswith("context_") else None
            if info is not None and info.vocab is not None:
                flat[name] = self.index_of(info.vocab)[flat[name]]
        return flat

    def describe(self) -> str:
        """Returns a small table: what each split holds."""
        rows = [["", "impressions", "groups", "users", "positive", "with picture", "with history", "unseen item"]]
        for name, info in self.splits.items():
            shares = (info.positives, info.with_picture, info.with_history, info.unseen_items)
            counts = [f"{count:,}" for count in (info.impressions, info.groups, info.users)]
            rows.append([name, *counts, *(_share(part, info.impressions) for part in shares)])
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
        return "\n".join([f"{self.num_items:,} items, {self.num_pictures:,} pictures", *lines])

    def _check_files(self) -> None:
        wanted = [self.folder / "items.parquet", self.images_folder]
        vocabs = {info.vocab for side in (self.user, self.item, self.context) for info in side.values() if info.vocab}
        wanted += [self.vocab_file(name) for name in sorted(vocabs)]
        wanted += [lane_file(self.folder, part, lane) for part in self.parts for lane in range(self.lanes)]
        if missing := [str(path.relative_to(self.folder)) for path in wanted if not path.exists()]:
            raise DataError(
                f"{len(missing)} of {len(wanted)} parts are missing: {some(missing)}",
                where=str(self.folder),
                todo="Copy them again, or delete the folder and prepare it again.",
            )


_PLAIN = tuple(
    each.name for each in fields(Dataset) if each.name not in ("folder", "user", "item", "context", "parts", "splits")
)


def lane_file(folder: Path, part: str, lane: int) -> Path:
    """The sample groups of a part in a lane."""
    return folder / "samples" / part / f"lane-{lane:03d}.parquet"


def _read_description(folder: Path) -> dict[str, Any]:
    """Returns dataset.yaml, when it is one of this version."""
    file = folder / DATASET_FILE
    try:
        content = yaml.safe_load(file.read_text())
    except FileNotFoundError as error:
        begun = (folder / ".prepare").is_dir()
        raise DataError(
            "its preparation was not finished" if begun else f"is not a dataset folder: it has no {DATASET_FILE}",
            where=str(folder),
            todo="Run `dicm prepare RECIPE` again: it goes on where it stopped."
            if begun
            else "Make it with `dicm prepare RECIPE`, or look at `data.out` of the recipe.",
        ) from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"cannot be read: {error}", where=str(file), todo="Prepare the folder again.") from error
    version = content.get("dicm_dataset") if isinstance(content, dict) else None
    if version != VERSION:
        raise DataError(
            f"is a dataset folder of version {version}; this program reads version {VERSION}",
            where=str(file),
            todo="Prepare it again into another folder, or use the program that made it.",
        )
    return content


def _plain(info: ColumnInfo | PartInfo | SplitInfo) -> dict[str, Any]:
    values = {each.name: getattr(info, each.name) for each in fields(info)}
    return {name: value for name, value in values.items() if value is not None}


def _share(part: int | None, whole: int) -> str:
    return "-" if part is None or not whole else f"{100 * part / whole:.1f} %"
