"""A data source -> the dataset folder, in steps that are not done twice. The format: docs/reference/dataset_folder.md.

```
source.impressions, items, users  -> .prepare/*.parquet   types and values checked             (ingest)
source.pictures                   -> images/              shards by partition                  (pictures)
.prepare/*.parquet                -> vocab/, items.parquet  over the training split            (tables, vocabulary)
                                  -> .prepare/sorted.parquet  by user and time, encoded        (tables)
                                  -> samples/             groups with histories, in lanes      (grouping, lanes)
dataset.yaml comes last
```
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dicm_kit.data.dataset import DATASET_FILE, VERSION, ColumnInfo, Dataset, SplitInfo
from dicm_kit.data.ingest import ingest
from dicm_kit.data.lanes import ItemFacts, sorted_runs, write_lanes
from dicm_kit.data.options import GroupOptions, HistoryOptions, PrepareOptions, SplitOptions, check_options
from dicm_kit.data.pictures import REJECTED, fingerprint_of, store_pictures
from dicm_kit.data.progress import Shown, shown
from dicm_kit.data.steps import Steps, full_disk_explained, locked, publish
from dicm_kit.data.tables import Tables
from dicm_kit.errors import DataError
from dicm_kit.interfaces import DataSource
from dicm_kit.whole_file import write_whole

__all__ = ["GroupOptions", "HistoryOptions", "PrepareOptions", "SplitOptions", "prepare"]

_RUN = 131_072  # impressions that are grouped at once
_WORK = ".prepare"
_LOCK = ".prepare.lock"


def prepare(
    source: DataSource,
    options: PrepareOptions,
    out: Path | str,
    *,
    progress: bool = True,
    memory: str = "2GB",
) -> Dataset:
    """Returns the dataset folder `out` of the source: made, gone on with where a run was cut off, or as it is.

    A folder of another source, of other options or of another version is left alone: DataError. One process prepares a
    folder, others wait for it. `memory`: what sorting and joining may take before they go to disk under `out`.
    """
    check_options(options)
    out = Path(out)
    made = {"source": source.fingerprint, **asdict(options)}
    fingerprint = _fingerprint(source, made)
    if done := _complete(out, fingerprint, made):
        return done
    _check_free(out)
    with full_disk_explained(out, lambda: "the folder"):
        (out / _WORK).mkdir(parents=True, exist_ok=True)
    with shown(progress) as show, locked(out / _LOCK, lambda: show.waiting(out)):
        if done := _complete(out, fingerprint, made):  # another process was faster
            return done
        (out / _WORK).mkdir(exist_ok=True)
        with full_disk_explained(out, lambda: show.step):
            return _Preparation(source, options, out, fingerprint, made, memory, show).run()


class _Preparation:
    def __init__(
        self,
        source: DataSource,
        options: PrepareOptions,
        out: Path,
        fingerprint: str,
        made: dict[str, Any],
        memory: str,
        show: Shown,
    ):
        self.source, self.options, self.out, self.made, self.show = source, options, out, made, show
        self.work = out / _WORK
        self.fingerprint = fingerprint
        self.steps = Steps(self.work, fingerprint)
        self.tables = Tables(source, self.work, out, memory)

    def run(self) -> Dataset:
        """Does what is not done yet."""
        self._step("impressions", self._ingest_impressions)
        self._step("items", self._ingest_items)
        self._step("users", self._ingest_users)
        self._step("pictures", self._store_pictures)
        with self.tables:
            self.tables.open(self._split_expression())
            self._step("checks", lambda: self.tables.check(self._wanted_splits(), self._split_hint()))
            self._step("vocabularies", lambda: self.tables.write_vocabularies(self.options.min_count))
            self._step("item table", self.tables.write_items)
            self._step("sorting", self.tables.write_sorted)
        self._step("samples", self._write_samples)
        dataset = self._dataset()
        dataset.save()
        shutil.rmtree(self.work)
        return Dataset.open(self.out)

    def _step(self, name: str, step: Callable[[], None]) -> None:
        self.show.begin(name)
        self.steps.run(name, step)

    def _ingest_impressions(self) -> None:
        ingest(
            self.source.impressions(),
            "impressions",
            self.source.columns.context,
            self.work / "impressions.parquet",
            self.show.advance,
            needed=("split",) if self.options.split.by == "column" else (),
        )

    def _ingest_items(self) -> None:
        columns = self.source.columns.item
        ingest(self.source.items(), "items", columns, self.work / "items.parquet", self.show.advance)

    def _ingest_users(self) -> None:
        if columns := self.source.columns.user:
            ingest(self.source.users(), "users", columns, self.work / "users.parquet", self.show.advance)

    def _store_pictures(self) -> None:
        import pyarrow.parquet as pq

        names = self.work / "names.parquet"
        images = self.out / "images"
        store_pictures(self.source.pictures(), images, names, self.options.partitions, self.show.advance)
        with self.tables:
            self.tables.write_rejected(images / REJECTED)
        count, fingerprint = fingerprint_of(pq.read_table(names, columns=["key"])["key"])
        content = json.dumps({"num_pictures": count, "pictures_fingerprint": fingerprint})
        write_whole(self.work / "pictures.json", content.encode())

    def _write_samples(self) -> None:
        import pyarrow.parquet as pq

        items = pq.read_table(self.out / "items.parquet", columns=["picture_key", "train_count"], partitioning=None)
        facts = ItemFacts(items["picture_key"].to_numpy() != 0, items["train_count"].to_numpy())
        aside = self.work / "samples"
        shutil.rmtree(aside, ignore_errors=True)
        with pq.ParquetFile(self.work / "sorted.parquet") as file:
            splits = write_lanes(
                self.show.counted(sorted_runs(file, _RUN)),
                aside,
                grouping=self.options.group,
                history=self.options.history,
                lanes=self.options.lanes,
                seed=self.options.seed,
                items=facts,
            )
        counts = {split: asdict(info) for split, info in splits.items()}
        write_whole(self.work / "splits.json", json.dumps(counts).encode())
        publish(aside, self.out / "samples")

    def _dataset(self) -> Dataset:
        import pyarrow.parquet as pq

        columns: dict[str, Any] = {"user": {}, "item": {}, "context": {}}
        for side, encodings in self.tables.encodings.items():
            for each in encodings:
                count = None
                if each.vocab is not None:
                    count = pq.read_metadata(self.out / "vocab" / f"{each.vocab}.parquet").num_rows + 1
                columns[side][each.name] = ColumnInfo(each.kind, each.vocab, count)
        splits = json.loads((self.work / "splits.json").read_text())
        return Dataset(
            folder=self.out,
            fingerprint=self.fingerprint,
            **columns,
            lanes=self.options.lanes,
            partitions=self.options.partitions,
            splits={split: SplitInfo(**info) for split, info in splits.items()},
            num_items=pq.read_metadata(self.out / "items.parquet").num_rows,
            history_max_length=self.options.history.max_length,
            has_truth="click_probability" in pq.read_schema(self.work / "sorted.parquet").names,
            made=self.made,
            **json.loads((self.work / "pictures.json").read_text()),
        )

    def _split_expression(self) -> str:
        """SQL: the index in SPLITS of an impression."""
        split = self.options.split
        if split.by == "column":
            return "CASE split WHEN 'train' THEN 0 WHEN 'val' THEN 1 WHEN 'test' THEN 2 END"
        day, last = "floor(time / 86400.0)", "(SELECT floor(max(time) / 86400.0) FROM impressions)"
        return f"""CASE WHEN {day} > {last} - {split.test} THEN 2
            WHEN {day} > {last} - {split.test + split.validation} THEN 1 ELSE 0 END"""

    def _split_hint(self) -> str:
        if self.options.split.by == "column":
            return (
                "Look at the source's column `split`; `split.validation: 0` or `split.test: 0` say that there is none."
            )
        return "Look at `split.test` and `split.validation` (whole UTC days at the end of the log), and at the labels."

    def _wanted_splits(self) -> dict[int, str]:
        split = self.options.split
        return {0: "train"} | ({1: "val"} if split.validation else {}) | ({2: "test"} if split.test else {})


def _fingerprint(source: DataSource, made: dict[str, Any]) -> str:
    content = {"version": VERSION, "columns": asdict(source.columns), **made}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _complete(out: Path, fingerprint: str, made: dict[str, Any]) -> Dataset | None:
    """Returns the dataset when the folder holds it, None when it holds none; DataError when it holds another."""
    if not (out / DATASET_FILE).exists():
        return None
    dataset = Dataset.open(out)
    if dataset.fingerprint == fingerprint:
        shutil.rmtree(out / _WORK, ignore_errors=True)  # a run was cut off at its very end
        return dataset
    before, now = _flat(dataset.made), _flat(made)
    changes = [f"{name} was {before.get(name)}, now {now.get(name)}" for name in now if before.get(name) != now[name]]
    raise DataError(
        f"was prepared from another source or with other options ({'; '.join(changes) or 'columns differ'})",
        where=str(out),
        todo="Choose another folder for `data.out`, or delete this one to prepare it anew.",
    )


def _check_free(out: Path) -> None:
    """Raises DataError when the folder holds something that is no preparation of ours."""
    if out.exists() and not out.is_dir():
        raise DataError("is a file, not a folder", where=str(out), todo="Choose another `data.out`.")
    if out.is_dir() and not (out / _WORK).is_dir() and any(path.name != _LOCK for path in out.iterdir()):
        raise DataError(
            "is not empty and not a dataset folder: nothing was written",
            where=str(out),
            todo="Choose another folder for `data.out`.",
        )


def _flat(options: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in options.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat
