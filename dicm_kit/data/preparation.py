"""The steps of a preparation, each done once: from the source's streams to all that the folder lacks."""

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np

from dicm_kit.data.dataset import DATASET_FILE, SPLITS, Dataset, Split
from dicm_kit.data.description import Asked, Description
from dicm_kit.data.ingest import ingest
from dicm_kit.data.lanes import Written, sorted_runs, write_lanes
from dicm_kit.data.negatives import Alive, Negatives
from dicm_kit.data.options import PrepareOptions
from dicm_kit.data.pictures import KnownNames, fingerprint_of, store_pictures
from dicm_kit.data.progress import Shown
from dicm_kit.data.state import STATE, Part, State, day_number, day_text, parts_by_time
from dicm_kit.data.steps import Steps, publish
from dicm_kit.data.tables import Tables
from dicm_kit.errors import DataError
from dicm_kit.interfaces import DataSource
from dicm_kit.whole_file import write_whole

_RUN = 131_072  # impressions that are grouped at once


class Preparation:
    """Gathers in `work/new` what the folder lacks."""

    def __init__(
        self,
        source: DataSource,
        options: PrepareOptions,
        out: Path,
        work: Path,
        asked: Asked,
        memory_mb: int,
        show: Shown,
        code: str | None,
    ):
        self.source, self.options, self.out, self.asked, self.show = source, options, out, asked, show
        self.work = work
        self.new = work / "new"
        self.before = Dataset.open(out) if (out / DATASET_FILE).exists() else None
        state = State.read(out / STATE) if self.before else None
        self.pieces = list(source.pieces) if state is None else state.added(source, options, out)
        self.state = state or State({}, "", 0, None)
        self._rows: list[int] = []
        self.steps = Steps(self.work, asked.how, asked.fingerprint, code)
        self.tables = Tables(source, options, self.work, out, memory_mb)

    def run(self) -> Path:
        """Does what is not done yet; returns the folder of what is new, dataset.yaml among it."""
        tables = self.tables
        self._step("items", self._ingest_items)
        self._step("users", self._ingest_users)
        for number, piece in enumerate(self.pieces):
            name = "impressions" if len(self.pieces) == 1 else f"impressions {piece}"
            self._step(name, partial(self._ingest, number, piece))
        self._step("pictures", self._store_pictures)
        new_rows = self._new_rows() > 0
        if not new_rows and self.before is None:
            raise DataError("the data source yields none", where="impressions", todo="Look at the files it reads.")
        with tables:
            tables.open([self._piece(number) for number in range(len(self.pieces))])
            if new_rows:
                self._step("checks", tables.check)
                self._step("filters", self._filter)
            self._step("parts", lambda: self._plan_parts(new_rows))
            parts = self._parts()
            if new_rows:
                tables.open_log(parts, self._filtered())
                self._step("splits", lambda: self._check_splits(parts))
                self._step("counts", lambda: tables.write_counts(parts, clicks=self.options.split.by == "time"))
                if self.options.negatives is not None:
                    self._step("what is alive", lambda: tables.write_alive(self.work / "alive.parquet"))
            tables.open_counts(parts)
            self._step("vocabularies", lambda: tables.write_vocabularies(parts))
            self._step("item table", tables.write_items)
            if new_rows:
                self._step("sorting", lambda: tables.write_sorted(parts))
            self._step("samples", lambda: self._write_samples(parts, new_rows))
            description = Description(parts, self.before, self.out, self.work, tables)
            dataset = description.dataset(self.options, self.asked, new_rows=new_rows)
        self._state(parts).save(self.new / STATE)
        dataset.save()
        return self.new

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
        ingest(
            self.source.impressions(piece),
            "impressions",
            self.source.columns.context,
            self._piece(number),
            self.show.advance,
            first=self.state.rows + self._new_rows(number),
            like=self._piece(0) if number else None,
            items=self.new / STATE / "items.parquet",
            needed=("split",) if self.options.split.by == "column" else (),
            piece=piece if len(self.source.pieces) > 1 else None,
        )

    def _new_rows(self, pieces: int | None = None) -> int:
        """Returns how many rows came in, or did so in the first `pieces`; each file is asked once."""
        import pyarrow.parquet as pq

        wanted = len(self.pieces) if pieces is None else pieces
        for number in range(len(self._rows), wanted):
            self._rows.append(pq.read_metadata(self._piece(number)).num_rows)
        return sum(self._rows[:wanted])

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

    def _plan_parts(self, new_rows: bool) -> None:
        by_time = self.options.split.by == "time"
        parts = self._parts_by_time(new_rows) if by_time else self._parts_by_split(new_rows)
        content = [asdict(part) for part in parts]
        write_whole(self.work / "parts.json", json.dumps(content).encode())

    def _parts(self) -> list[Part]:
        content = json.loads((self.work / "parts.json").read_text())
        return [Part(**each | {"days": each["days"] and tuple(each["days"])}) for each in content]

    def _parts_by_time(self, new_rows: bool) -> list[Part]:
        days = self.tables.days() if new_rows else []
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
            old.append((name, (day_number(info.first_day), day_number(info.last_day))))
        return parts_by_time(old, days, self.options)

    def _parts_by_split(self, new_rows: bool) -> list[Part]:
        return [Part(split, split, None, new=new_rows) for split in SPLITS]

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

    def _write_samples(self, parts: list[Part], new_rows: bool) -> None:
        import pyarrow.parquet as pq

        written: dict[str, Written] = {}
        missing = 0
        if new_rows:
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

    def _state(self, parts: list[Part]) -> State:
        new = {piece: self.source.pieces[piece] for piece in self.pieces}
        last_day = parts[-1].days[1] if parts and parts[-1].days else None
        code = self.steps.code if self.before is None else self.state.code
        return State(self.state.pieces | new, self.source.snapshot, self.state.rows + self._new_rows(), last_day, code)


def _write_targets(file: Path, targets: np.ndarray) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    item = np.flatnonzero(targets)
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"item": item, "impressions": targets[item]}), file)
