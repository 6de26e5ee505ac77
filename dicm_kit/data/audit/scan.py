"""The sample files, read once from the first to the last: their format, and what they hold. Memory stays flat."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from dicm_kit.data.audit.batch import Layout, SampleBatch
from dicm_kit.data.audit.format import PAGE, has_columns
from dicm_kit.data.audit.result import Clock, Findings
from dicm_kit.data.dataset import SPLITS, Dataset, lane_file
from dicm_kit.data.grouping import DAY, LATEST

if TYPE_CHECKING:
    import pyarrow as pa

_GROUPS = 8_192  # read at once
_TODO = f"{PAGE}, on samples/."
CLOCK = 315_532_800
"""1980: logs whose times are all earlier have no clock, but numbers that say what came first."""
_COUNTABLE = 50_000_000  # values: counts of a larger vocabulary are not looked at


@dataclass
class PartTally:
    """What the files of a part hold."""

    impressions: int = 0
    groups: int = 0
    positives: int = 0
    with_history: int = 0
    with_picture: int = 0
    unseen_items: int = 0
    unknown_user: int = 0
    entries: int = 0
    one_impression: int = 0
    """Groups of one impression."""
    tied: int = 0
    """Impressions whose group has a history entry of its own second."""
    first: int | None = None
    """Time of the first impression."""
    last: int | None = None


@dataclass
class Ages:
    """What the ages of history entries are like."""

    negative: int = 0
    unsorted: int = 0
    zero: int = 0
    examples: list[str] = field(default_factory=list)


@dataclass
class Scan:
    """What one pass over the samples finds."""

    parts: dict[str, PartTally]
    days: Counter[int] = field(default_factory=Counter)
    """Impressions of each UTC day."""
    ages: Ages = field(default_factory=Ages)
    targets: np.ndarray = field(default_factory=lambda: np.zeros((2, 0), np.int64))
    """[all or positive, items] training impressions of each item."""
    values: dict[str, np.ndarray] = field(default_factory=dict)
    """Vocabulary -> [all or positive, indices] training impressions that have the value, of users and context."""
    lanes: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """Training impressions of each lane."""

    whole_days: bool = True
    """Every time is a midnight."""

    @property
    def clock(self) -> Clock:
        """What times say."""
        last = max((tally.last for tally in self.parts.values() if tally.last is not None), default=0)
        return "none" if last < CLOCK else "days" if self.whole_days else "seconds"


class Scanner:
    """Reads all lane files of a dataset; errors of format go to `findings`."""

    def __init__(self, dataset: Dataset, usable_vocabs: set[str], findings: Findings):
        self.dataset, self.findings = dataset, findings
        self._has_picture = dataset.items["picture_key"].to_numpy() != 0
        self._in_training = dataset.items["train_count"].to_numpy() > 0
        self._layout = Layout.of(dataset, usable_vocabs)
        self.scan = Scan({part: PartTally() for part in dataset.parts})
        self.scan.targets = np.zeros((2, dataset.num_items), np.int64)
        self.scan.lanes = np.zeros(dataset.lanes, np.int64)
        for vocab in {self._vocab(name) for name in self._layout.codes}:
            size = int(dataset.index_of(vocab).max()) + 1
            if size <= _COUNTABLE:
                self.scan.values[vocab] = np.zeros((2, size), np.int64)

    def run(self) -> Scan:
        """Reads everything."""
        for split in SPLITS:
            for part in self.dataset.splits[split].parts:
                for lane in range(self.dataset.lanes):
                    file = lane_file(self.dataset.folder, part, lane)
                    impressions = self._file(file, part, split == "train")
                    if split == "train":
                        self.scan.lanes[lane] += impressions
        return self.scan

    def _file(self, file: Path, part: str, train: bool) -> int:
        import pyarrow as pa
        import pyarrow.parquet as pq

        where = f"samples/{part}/{file.name}"
        if not has_columns(file, where, self._layout.types, self.findings):
            return 0
        impressions = 0
        try:
            with pq.ParquetFile(file, pre_buffer=False) as table:
                for batch in table.iter_batches(_GROUPS, columns=list(self._layout.types), use_threads=False):
                    impressions += self._batch(batch, where, part, train)
        except (OSError, pa.ArrowInvalid) as error:
            self.findings.add(where, f"cannot be read: {str(error).splitlines()[0]}", "Write or copy it again.")
        return impressions

    def _batch(self, record_batch: "pa.RecordBatch", where: str, part: str, train: bool) -> int:
        batch = SampleBatch(record_batch, self._layout)
        for what, count in batch.wrong().items():
            self.findings.add(where, what, _TODO, count=count)
        if batch.broken or not len(batch.item):
            return 0
        self._check_values(batch, where)
        self._count(batch, part, train)
        self._look_at_ages(batch)
        return len(batch.item)

    def _check_values(self, batch: SampleBatch, where: str) -> None:
        found = {
            "labels that are neither 0 nor 1": (batch.label != 0) & (batch.label != 1),
            "weights that are below 0 or not finite": ~((batch.weight >= 0) & np.isfinite(batch.weight)),
            "ages that are not finite": ~np.isfinite(batch.history_age),
            "impressions that are earlier than the one before in their group": batch.steps_back(batch.time),
            f"histories longer than history_max_length {self.dataset.history_max_length}": (
                batch.history_lengths > self.dataset.history_max_length
            ),
        }
        if self.dataset.has_truth:
            truth = batch.values("click_probability")
            found["click probabilities that are not between 0 and 1"] = ~((truth >= 0) & (truth <= 1))
        for what, wrong in found.items():
            self.findings.add(where, what, _TODO, count=int(np.count_nonzero(wrong)))
        late = int(np.count_nonzero(np.abs(batch.time) >= LATEST))
        todo = "Write seconds since 1970 in UTC: are these milliseconds or microseconds?"
        self.findings.add(where, "times beyond the year 2242", todo, count=late, example=f"{batch.time.max()}")

    def _count(self, batch: SampleBatch, part: str, train: bool) -> None:
        tally, item, positive = self.scan.parts[part], batch.item, batch.label == 1
        tally.impressions += len(item)
        tally.groups += len(batch.lengths)
        tally.positives += int(positive.sum())
        tally.with_history += int(batch.lengths[batch.history_lengths > 0].sum())
        tally.with_picture += int(self._has_picture[item].sum())
        tally.unseen_items += int((~self._in_training[item]).sum())
        tally.entries += len(batch.history_item)
        tally.one_impression += int((batch.lengths == 1).sum())
        known = batch.history_lengths > 0
        newest = batch.history_age[batch.history_offsets[:-1][known]]
        tally.tied += int(batch.lengths[known][newest == 0].sum())
        if len(item):
            first, last = int(batch.time.min()), int(batch.time.max())
            tally.first = first if tally.first is None else min(tally.first, first)
            tally.last = last if tally.last is None else max(tally.last, last)
            self.scan.whole_days &= not (batch.time % DAY).any()
            days, counts = np.unique(batch.time // DAY, return_counts=True)
            self.scan.days.update(dict(zip(days.tolist(), counts.tolist(), strict=True)))
        if train:
            np.add.at(self.scan.targets[0], item, 1)
            np.add.at(self.scan.targets[1], item[positive], 1)
        for name in self._layout.codes:
            vocab = self._vocab(name)
            codes, weights, positives = batch.coded(name)
            index = self.dataset.index_of(vocab)[codes]
            if name == "user_user_id":
                tally.unknown_user += int(weights[index == 0].sum())
            if train and vocab in self.scan.values:
                np.add.at(self.scan.values[vocab][0], index, weights)
                np.add.at(self.scan.values[vocab][1], index, positives)

    def _vocab(self, column: str) -> str:
        vocab = self._layout.infos[column].vocab
        assert vocab is not None, "it has codes"
        return vocab

    def _look_at_ages(self, batch: SampleBatch) -> None:
        ages, age = self.scan.ages, batch.history_age
        negative = np.flatnonzero(age < 0)
        ages.negative += len(negative)
        ages.zero += int((age == 0).sum())
        ages.unsorted += int(np.count_nonzero(batch.steps_back(age, batch.history_offsets)))
        items = self.dataset.items["item"]
        for entry in negative[: 3 - len(ages.examples)].tolist():
            group = int(np.searchsorted(batch.history_offsets, entry, side="right")) - 1
            ages.examples.append(
                f"user {batch.user[group]}: item {items[int(batch.history_item[entry])]}, "
                f"{-age[entry] * DAY:,.0f} s after the group"
            )
