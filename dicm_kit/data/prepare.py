"""A data source -> the dataset folder, in steps that are not done twice. The format: docs/reference/dataset_folder.md.

```
source.items, impressions, users  -> .prepare/*.parquet    types and values checked            ingest
source.pictures                   -> images/               shards by partition                 pictures
new rows of the log               -> .prepare/new/state/   their part, counts, clicks          parts, state, tables
counts of all parts               -> .prepare/new/         vocab/, items.parquet               tables, vocabulary
new rows                          -> .prepare/sorted.parquet   by user and time, encoded       tables
                                  -> .prepare/new/samples/ groups with histories, in lanes    negatives, grouping, lanes
.prepare/new                      -> the folder, when all of it is there; dataset.yaml comes last
```

A folder that is there already gets the days that are new: parts that are written stay as they are.
"""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from dicm_kit.data.dataset import DATASET_FILE, SPLITS, VERSION, ColumnInfo, Dataset, PartInfo, Split, SplitInfo
from dicm_kit.data.ingest import ingest
from dicm_kit.data.lanes import Written, sorted_runs, write_lanes
from dicm_kit.data.negatives import Alive, Negatives
from dicm_kit.data.options import (
    GroupOptions,
    HistoryOptions,
    NegativeOptions,
    PrepareOptions,
    SplitOptions,
    check_options,
)
from dicm_kit.data.pictures import KnownNames, fingerprint_of, store_pictures
from dicm_kit.data.progress import Shown, shown
from dicm_kit.data.state import STATE, Part, State, day_text, parts_by_time
from dicm_kit.data.steps import Steps, full_disk_explained, locked, move_in, publish
from dicm_kit.data.tables import Tables
from dicm_kit.errors import DataError
from dicm_kit.interfaces import DataSource
from dicm_kit.whole_file import write_whole

__all__ = ["GroupOptions", "HistoryOptions", "NegativeOptions", "PrepareOptions", "SplitOptions", "prepare"]

_RUN = 131_072  # impressions that are grouped at once
_WORK = ".prepare"
_LOCK = ".prepare.lock"
_NEW, _READY = "new", "ready"


def prepare(
    source: DataSource,
    options: PrepareOptions,
    out: Path | str,
    *,
    progress: bool = True,
    memory_mb: int = 192,
) -> Dataset:
    """Returns the dataset folder `out` of the source: made, gone on with where a run was cut off, grown by the days
    that are new, or as it is.

    A folder of another source, of other options, of another version or of a log that changed is left alone: DataError.
    One process prepares a folder, others wait for it. `memory_mb`: what sorting and joining may take, in MB, before
    they go to disk under `out`.
    """
    check_options(options)
    out = Path(out)
    asked = _Asked.of(source, options)
    if done := _complete(out, asked):
        return done
    _check_free(out)
    with full_disk_explained(out, lambda: "the folder"):
        (out / _WORK).mkdir(parents=True, exist_ok=True)
    with shown(progress) as show, locked(out / _LOCK, lambda: show.waiting(out)):
        with full_disk_explained(out, lambda: show.step):
            if (out / _WORK / _READY).is_dir():  # a run was cut off while it moved its files in
                _finish(out)
        if done := _complete(out, asked):  # another process was faster
            return done
        (out / _WORK).mkdir(exist_ok=True)
        with full_disk_explained(out, lambda: show.step):
            return _Preparation(source, options, out, asked, memory_mb, show).run()


@dataclass(frozen=True)
class _Asked:
    """What a folder is asked to hold."""

    made: dict[str, Any]
    """Source and options: a folder with others is left alone."""
    content: dict[str, Any]
    """Pieces and snapshot: a folder with others is brought up to date."""

    @classmethod
    def of(cls, source: DataSource, options: PrepareOptions) -> "_Asked":
        made = {"source": source.fingerprint, **asdict(options)}
        columns = {"columns": asdict(source.columns)}
        return cls(made, {**columns, "pieces": source.pieces, "snapshot": source.snapshot})

    @property
    def how(self) -> str:
        """Fingerprint of source and options."""
        return _hash({"version": VERSION, "columns": self.content["columns"], **self.made})

    @property
    def fingerprint(self) -> str:
        """Fingerprint of everything."""
        return _hash({"version": VERSION, **self.made, **self.content})


class _Preparation:
    def __init__(
        self,
        source: DataSource,
        options: PrepareOptions,
        out: Path,
        asked: _Asked,
        memory_mb: int,
        show: Shown,
    ):
        self.source, self.options, self.out, self.asked, self.show = source, options, out, asked, show
        self.work = out / _WORK
        self.new = self.work / _NEW
        self.before = Dataset.open(out) if (out / DATASET_FILE).exists() else None
        state = State.read(out / STATE) if self.before else None
        self.pieces = list(source.pieces) if state is None else state.added(source, options, out)
        self.state = state or State({}, "", 0, None)
        self.steps = Steps(self.work, asked.how, asked.fingerprint)
        self.tables = Tables(source, options, self.work, out, memory_mb)

    def run(self) -> Dataset:
        """Does what is not done yet."""
        tables = self.tables
        self._step("items", self._ingest_items)
        self._step("users", self._ingest_users)
        for number, piece in enumerate(self.pieces):
            name = "impressions" if len(self.pieces) == 1 else f"impressions {piece}"
            self._step(name, partial(self._ingest, number, piece))
        self._step("pictures", self._store_pictures)
        with tables:
            tables.open([self._piece(number) for number in range(len(self.pieces))])
            if self.pieces:
                self._step("checks", tables.check)
                self._step("filters", self._filter)
            self._step("parts", self._plan_parts)
            parts = self._parts()
            if self.pieces:
                tables.open_log(parts, self._filtered())
                self._step("splits", lambda: self._check_splits(parts))
                self._step("counts", lambda: tables.write_counts(parts, clicks=self.options.split.by == "time"))
                if self.options.negatives is not None:
                    self._step("what is alive", lambda: tables.write_alive(self.work / "alive.parquet"))
            tables.open_counts(parts)
            self._step("vocabularies", tables.write_vocabularies)
            self._step("item table", tables.write_items)
            if self.pieces:
                self._step("sorting", lambda: tables.write_sorted(parts))
            self._step("samples", lambda: self._write_samples(parts))
            dataset = self._dataset(parts)
        self._state(parts).save(self.new / STATE)
        dataset.save()
        publish(self.new, self.work / _READY)
        _finish(self.out)
        return Dataset.open(self.out)

    def _step(self, name: str, step: Callable[[], None]) -> None:
        self.show.begin(name)
        self.steps.run(name, step)

    # --- what comes in ---

    def _ingest_items(self) -> None:
        columns = self.source.columns.item
        ingest(self.source.items(), "items", columns, self.work / "items.parquet", self.show.advance)
        with self.tables:
            self.tables.merge_items()

    def _ingest_users(self) -> None:
        if columns := self.source.columns.user:
            ingest(self.source.users(), "users", columns, self.work / "users.parquet", self.show.advance)

    def _ingest(self, number: int, piece: str) -> None:
        import pyarrow.parquet as pq

        before = [self._piece(each) for each in range(number)]
        first = self.state.rows + sum(pq.read_metadata(path).num_rows for path in before)
        ingest(
            self.source.impressions(piece),
            "impressions",
            self.source.columns.context,
            self._piece(number),
            self.show.advance,
            first=first,
            like=before[0] if before else None,
            items=self.new / STATE / "items.parquet",
            needed=("split",) if self.options.split.by == "column" else (),
            piece=piece if len(self.source.pieces) > 1 else None,
        )

    def _piece(self, number: int) -> Path:
        return self.work / f"impressions-{number:05d}.parquet"

    def _store_pictures(self) -> None:
        import pyarrow.parquet as pq

        names, images = self.work / "names.parquet", self.out / "images"
        have = KnownNames.read(self.out / STATE / "pictures.parquet")
        store_pictures(self.source.pictures(have), images, names, self.options.partitions, self.show.advance)
        with self.tables:
            self.tables.merge_names()
        keys = pq.read_table(self.new / STATE / "pictures.parquet", columns=["key"])["key"]
        count, fingerprint = fingerprint_of(keys)
        content = json.dumps({"num_pictures": count, "pictures_fingerprint": fingerprint})
        write_whole(self.work / "pictures.json", content.encode())

    # --- parts ---

    def _filtered(self) -> bool:
        """Returns whether the new rows are written once more, after filters and with their splits."""
        return self.options.split.by != "time" or self.options.drop_repeats or self.options.unlisted == "drop"

    def _filter(self) -> None:
        left_out = self.tables.write_log() if self._filtered() else 0
        write_whole(self.work / "left_out.json", json.dumps({"left_out": left_out}).encode())

    def _plan_parts(self) -> None:
        parts = self._parts_by_time() if self.options.split.by == "time" else self._parts_by_split()
        content = [asdict(part) for part in parts]
        write_whole(self.work / "parts.json", json.dumps(content).encode())

    def _parts(self) -> list[Part]:
        content = json.loads((self.work / "parts.json").read_text())
        return [Part(**each | {"days": each["days"] and tuple(each["days"])}) for each in content]

    def _parts_by_time(self) -> list[Part]:
        days = self.tables.days() if self.pieces else []
        last = self.state.last_day
        if last is not None and days and days[0] <= last:
            count, first = self.tables.first_rows_before(last)
            raise DataError(
                f"{count:,} new rows are of {day_text(first)} or later, but {day_text(last)} and the days before it "
                "are prepared",
                where=", ".join(self.pieces[:5]),
                todo="Only later days can be added. To take these rows in, choose another folder for `data.out`, or "
                "delete this one, and prepare anew.",
            )
        old = []
        for name, info in self.before.parts.items() if self.before else ():
            assert info.first_day, "the split is by time"
            assert info.last_day, "the split is by time"
            old.append((name, (_day_number(info.first_day), _day_number(info.last_day))))
        return parts_by_time(old, days, self.options)

    def _parts_by_split(self) -> list[Part]:
        return [Part(split, split, None, new=bool(self.pieces)) for split in SPLITS]

    def _check_splits(self, parts: list[Part]) -> None:
        """Raises DataError for splits without rows, without positives, or without negatives."""
        count, words = self.tables.strange_splits()
        if count:
            raise DataError(
                f"`split` of {count:,} rows is none of {', '.join(SPLITS)}: {', '.join(words)}",
                where="impressions",
                todo="Mend the data source.",
            )
        of_part = self.tables.rows_and_positives()
        drawn = self.options.negatives is not None
        for split in self._wanted_splits():
            counts = [
                of_part.get(number, (0, 0)) if part.new else self._old_counts(part.name)
                for number, part in enumerate(parts)
                if part.split == split
            ]
            rows, positives = (sum(each[index] for each in counts) for index in (0, 1))
            if not rows:
                raise DataError(f"the {split} split has no rows", where="impressions", todo=self._split_hint())
            if not positives or (positives == rows and not drawn):
                what = "no positives" if not positives else "no negatives"
                todo = self._split_hint()
                if positives:
                    todo += " A log of positives only needs `negatives`: they are drawn then."
                raise DataError(f"the {split} split has {what} in {rows:,} rows", where="impressions", todo=todo)
        if drawn and (passed := sum(rows - positives for rows, positives in of_part.values())):
            raise DataError(
                f"{passed:,} rows are no positives, and `negatives` are for a log that has positives only",
                where="impressions",
                todo="Leave `negatives` out, or leave these rows out.",
            )

    def _old_counts(self, part: str) -> tuple[int, int]:
        assert self.before is not None
        info = self.before.parts[part]
        return info.impressions, info.positives

    def _wanted_splits(self) -> list[Split]:
        split = self.options.split
        return ["train", *(["val"] if split.validation else []), *(["test"] if split.test else [])]  # type: ignore[list-item]

    def _split_hint(self) -> str:
        match self.options.split.by:
            case "column":
                return (
                    "Look at the source's column `split`; `split.validation: 0` or `split.test: 0` say there is none."
                )
            case "user_order":
                return "Look at `split.test` and `split.validation`: they take each user's last groups."
        return "Look at `split.test` and `split.validation` (whole UTC days at the end of the log), and at the labels."

    # --- what comes out ---

    def _write_samples(self, parts: list[Part]) -> None:
        import pyarrow.parquet as pq

        written: dict[str, Written] = {}
        missing = 0
        if self.pieces:
            aside = self.work / "samples"
            shutil.rmtree(aside, ignore_errors=True)
            negatives = self._negatives(parts)
            with pq.ParquetFile(self.work / "sorted.parquet") as file:
                runs = self.show.counted(sorted_runs(file, _RUN))
                written = write_lanes(
                    runs if negatives is None else map(negatives.added_to, runs),
                    aside,
                    {number: part.name for number, part in enumerate(parts) if part.new},
                    grouping=self.options.group,
                    history=self.options.history,
                    lanes=self.options.lanes,
                    seed=self.options.seed,
                    num_items=pq.read_metadata(self.new / "items.parquet").num_rows,
                )
            missing = negatives.missing if negatives else 0
            publish(aside, self.new / "samples")
        for name, each in written.items():
            _write_targets(self.new / STATE / "parts" / name / "targets.parquet", each.targets)
        counts = {
            name: {key: value for key, value in asdict(each).items() if key != "targets"}
            for name, each in written.items()
        }
        content = json.dumps({"parts": counts, "negatives_missing": missing})
        write_whole(self.work / "written.json", content.encode())

    def _negatives(self, parts: list[Part]) -> Negatives | None:
        options = self.options.negatives
        if options is None:
            return None
        seeds = {number: options.seed if part.split == "train" else 0 for number, part in enumerate(parts)}
        return Negatives(options, Alive.read(self.work / "alive.parquet", options), seeds)

    def _dataset(self, parts: list[Part]) -> Dataset:
        import pyarrow.parquet as pq

        columns: dict[str, Any] = {"user": {}, "item": {}, "context": {}}
        for side, encodings in self.tables.encodings.items():
            for each in encodings:
                count = None
                if each.vocab is not None:
                    file = self.new / "vocab" / f"{each.vocab}.parquet"
                    count = int(pq.read_table(file, columns=["index"])["index"].to_numpy().max()) + 1
                columns[side][each.name] = ColumnInfo(each.kind, each.vocab, count)
        infos = self._part_infos(parts)
        has_truth = self.before.has_truth if self.before else False
        if self.pieces:
            has_truth = "click_probability" in pq.read_schema(self.work / "sorted.parquet").names
        return Dataset(
            folder=self.new,
            fingerprint=self.asked.fingerprint,
            **columns,
            lanes=self.options.lanes,
            partitions=self.options.partitions,
            parts=infos,
            splits={split: self._split_info(split, parts, infos) for split in SPLITS},
            num_items=pq.read_metadata(self.new / "items.parquet").num_rows,
            history_max_length=self.options.history.max_length,
            has_truth=has_truth,
            made=self.asked.made | {"counts": self._made_counts()},
            **json.loads((self.work / "pictures.json").read_text()),
        )

    def _made_counts(self) -> dict[str, int]:
        """Returns what was left out and could not be drawn, over all preparations of the folder."""
        before = self.before.made["counts"] if self.before else {}
        left_out = json.loads((self.work / "left_out.json").read_text())["left_out"] if self.pieces else 0
        missing = json.loads((self.work / "written.json").read_text())["negatives_missing"]
        return {
            "rows_left_out": before.get("rows_left_out", 0) + left_out,
            "negatives_missing": before.get("negatives_missing", 0) + missing,
        }

    def _part_infos(self, parts: list[Part]) -> dict[str, PartInfo]:
        written = json.loads((self.work / "written.json").read_text())["parts"]
        infos = {}
        for part in parts:
            if not part.new:
                assert self.before is not None
                infos[part.name] = self.before.parts[part.name]
                continue
            days = [day_text(day) for day in part.days] if part.days else [None, None]
            infos[part.name] = PartInfo(**written[part.name], first_day=days[0], last_day=days[1])
        return infos

    def _split_info(self, split: Split, parts: list[Part], infos: dict[str, PartInfo]) -> SplitInfo:
        import pyarrow.parquet as pq

        mine = [part for part in parts if part.split == split]
        items = pq.read_table(self.new / "items.parquet", columns=["picture_key", "train_count"], partitioning=None)
        key, train_count = items["picture_key"].to_numpy(), items["train_count"].to_numpy()
        with_picture = unseen = 0
        for part in mine:
            folder = (self.new if part.new else self.out) / STATE / "parts" / part.name
            targets = pq.read_table(folder / "targets.parquet", partitioning=None)
            item, count = targets["item"].to_numpy(), targets["impressions"].to_numpy()
            with_picture += int(count[key[item] != 0].sum())
            unseen += int(count[train_count[item] == 0].sum())
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

    def _state(self, parts: list[Part]) -> State:
        import pyarrow.parquet as pq

        rows = sum(pq.read_metadata(self._piece(number)).num_rows for number in range(len(self.pieces)))
        new = {piece: self.source.pieces[piece] for piece in self.pieces}
        last_day = parts[-1].days[1] if parts and parts[-1].days else None
        return State(self.state.pieces | new, self.source.snapshot, self.state.rows + rows, last_day)


def _finish(out: Path) -> None:
    """Moves what is ready into the folder; a run that is cut off here is gone on with here."""
    ready = out / _WORK / _READY
    if (ready / DATASET_FILE).exists():
        (out / DATASET_FILE).unlink(missing_ok=True)  # from here on, until the new one is there, it is not a dataset
        for name in ("samples", "vocab", "items.parquet", "images", STATE, DATASET_FILE):
            move_in(ready / name, out / name, merge=name in ("samples", "images", STATE, f"{STATE}/parts"))
    shutil.rmtree(out / _WORK)


def _write_targets(file: Path, targets: np.ndarray) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    item = np.flatnonzero(targets)
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"item": item, "impressions": targets[item]}), file)


def _day_number(text: str) -> int:
    from datetime import date

    return (date.fromisoformat(text) - date(1970, 1, 1)).days


def _hash(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def _complete(out: Path, asked: _Asked) -> Dataset | None:
    """Returns the dataset when the folder holds it, None when it holds none or one that can grow to it; DataError when
    it holds another."""
    if not (out / DATASET_FILE).exists():
        return None
    dataset = Dataset.open(out)
    if dataset.fingerprint == asked.fingerprint:
        shutil.rmtree(out / _WORK, ignore_errors=True)  # a run was cut off at its very end
        return dataset
    before, now = _flat(dataset.made), _flat(asked.made)
    changes = [f"{name} was {before.get(name)}, now {now.get(name)}" for name in now if before.get(name) != now[name]]
    if not changes and State.read(out / STATE) is not None:
        return None
    raise DataError(
        f"was prepared from another source or with other options ({'; '.join(changes) or 'columns differ'})",
        where=str(out),
        todo="Choose another folder for `data.out`, or delete this one to prepare it anew.",
    )


def _check_free(out: Path) -> None:
    """Raises DataError when the folder holds something that is no preparation of ours."""
    if out.exists() and not out.is_dir():
        raise DataError("is a file, not a folder", where=str(out), todo="Choose another `data.out`.")
    ours = (out / _WORK).is_dir() or (out / DATASET_FILE).exists()
    if out.is_dir() and not ours and any(path.name != _LOCK for path in out.iterdir()):
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
