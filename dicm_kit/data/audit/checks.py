"""Questions about leakage, and the answers that samples, vocabularies and joins give."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from dicm_kit.data.audit.format import ITEMS, flat
from dicm_kit.data.audit.histories import Origins
from dicm_kit.data.audit.joins import Joins
from dicm_kit.data.audit.made import negatives_drawn, split_by
from dicm_kit.data.audit.result import Check, Outcome
from dicm_kit.data.audit.scan import PartTally, Scan
from dicm_kit.data.audit.users import Repeats, Users, earlier_split_after
from dicm_kit.data.dataset import SPLITS, Dataset
from dicm_kit.errors import some

_TIED = 0.1
"""Of impressions with a history, those with a click of their own second, to all that are clicked. Where each impression
of a page of n is a group of its own, about (n - 1) / 2: at least a half. Where pages are groups, next to none: nobody
clicks and is shown the next page within one second."""
_MOST = 0.5  # share of groups with a positive whose history may hold it, where histories come from elsewhere


@dataclass(frozen=True)
class Order:
    """What holds between the splits."""

    by_time: bool
    """Every impression of a split is before all of the later splits."""
    by_user: bool
    """The same for each user's; the same time is allowed."""

    @property
    def any(self) -> bool:
        """Whether a later split is later for each user."""
        return self.by_time or self.by_user


def order_of(dataset: Dataset, scan: Scan, users: Users) -> Order:
    """Returns what holds between the splits."""
    spans = [span for _, span in _spans(dataset, scan)]
    by_time = all(before[1] < after[0] for before, after in pairwise(spans))
    return Order(by_time, not users.out_of_order)


def _spans(dataset: Dataset, scan: Scan) -> list[tuple[int, tuple[int, int]]]:
    """Returns (number of the split, its first and last time) of the splits that are not empty."""
    found = []
    for rank, split in enumerate(SPLITS):
        tallies: list[PartTally] = [scan.parts[part] for part in dataset.splits[split].parts]
        times = [time for tally in tallies for time in (tally.first, tally.last) if time is not None]
        if times:
            found.append((rank, (min(times), max(times))))
    return found


def check_ages(scan: Scan) -> Check:
    """No history entry is after its group, newest first."""
    ages, entries = scan.ages, sum(tally.entries for tally in scan.parts.values())
    name, todo = "histories end before their group", "Histories hold what came before the group, newest first."
    if ages.negative:
        said = f"{ages.negative:,} of {entries:,} entries are after their group"
        return Check(name, "fail", said, ages.negative, tuple(ages.examples), todo)
    if ages.unsorted:
        return Check(
            name,
            "fail",
            f"{ages.unsorted:,} of {entries:,} entries are newer than the one before them",
            ages.unsorted,
            todo=todo,
        )
    if entries and ages.zero == entries:
        said = "cannot be told: all ages are 0, so the samples do not say when histories happened"
        return Check(name, "unknown", said)
    moment = {"days": "day", "seconds": "second", "none": "time"}[scan.clock]
    said = f"{entries:,} entries"
    if ages.zero:
        said += f"; {ages.zero:,} are of the same {moment}, and only the log's order says which came first"
    tied, known, clicked = _shares(scan)
    if scan.clock != "seconds" or tied <= _TIED * clicked:  # a day, or a turn in the order, has many pages
        return Check(name, "ok", said)
    return Check(
        name,
        "look",
        f"{said}: {tied:.1%} of the {known:,} impressions with a history have a click of their own second in it, and "
        f"{clicked:.1%} of all are clicked",
        ages.zero,
        todo="Is it a click of the same page? The impressions of a page must have the same `time` and `order`: else "
        "each is a group of its own, and the page's clicks leak into its own histories.",
    )


def _shares(scan: Scan) -> tuple[float, int, float]:
    """Returns the share of impressions that have a click of their own second in their history, of those with one, how
    many these are, and the share of all impressions that are clicked."""
    tallies = scan.parts.values()
    tied, known, positives, whole = (
        sum(getattr(tally, name) for tally in tallies) for name in ("tied", "with_history", "positives", "impressions")
    )
    return tied / max(1, known), known, positives / max(1, whole)


def check_splits(dataset: Dataset, scan: Scan, users: Users, joins: Joins) -> Check:
    """A split is later than those before it."""
    declared, order = split_by(dataset.made), order_of(dataset, scan, users)
    spans = _spans(dataset, scan)
    if len(spans) < 2:
        return Check("splits follow time", "ok", "there is one split")
    if declared == "time" or (declared != "user_order" and order.by_time):
        name = "splits follow time"
        if order.by_time:
            return Check(name, "ok", "each is before the next")
        for (_, before), (rank, after) in pairwise(spans):
            if before[1] >= after[0]:
                count, examples = earlier_split_after(joins, rank, after[0])
                said = (
                    f"{count:,} impressions of earlier splits are not before the first of {SPLITS[rank]} ({after[0]})"
                )
                return Check(name, "fail", said, count, tuple(examples), "Split by whole days: each before the next.")
    name = "splits follow each user's order"
    if users.out_of_order:
        said = f"{users.out_of_order:,} users have an impression in an earlier split that is after one in a later split"
        outcome: Outcome = "fail" if declared == "user_order" else "look"
        todo = "Split by `time` or `user_order`, or know that training sees the future of test."
        return Check(name, outcome, said, users.out_of_order, tuple(users.examples), todo)
    tied = f"; {users.ties:,} have the same time in two, and only the log's order says which came first"
    return Check(name, "ok", f"no user goes back{tied if users.ties else ''}")


def check_histories(origins: Origins, order: Order) -> list[Check]:
    """No history holds its own label, or what happens later."""
    wrong = origins.own + origins.later + origins.across
    own = origins.own > _MOST * origins.positive_groups
    outcome: Outcome = "ok"
    if wrong:
        outcome = "fail" if own or wrong > origins.elsewhere else "look"
    more = "at least " if origins.capped else ""
    found = f"{origins.entries - origins.elsewhere:,} entries are clicks in the samples"
    if origins.elsewhere:
        found += f", {origins.elsewhere:,} are of elsewhere"
    todo = (
        "A history ends before its group's first impression. Where histories come from another log than the "
        "labels do, some of these may be true: look at the examples."
    )
    first = Check(
        "no history holds its own label or a later one",
        outcome,
        f"{more}{origins.own:,} hold their own, {origins.later + origins.across:,} a later one, that never came before"
        if wrong
        else found,
        wrong,
        tuple(origins.examples) if wrong else (),
        todo,
    )
    name = "no training history holds a label of val or test"
    if not order.any:
        count = origins.across_by_then
        said = f"{count:,} entries do: the splits follow no order, so they may have happened by then"
        todo = "Split by `time` or `user_order`: else training reads clicks that the test asks for."
        return [first, Check(name, "look" if count else "ok", said if count else "none does", count, todo=todo)]
    if origins.across:
        said = f"{more}{origins.across:,} entries of earlier splits are clicked in later splits only"
        return [first, Check(name, outcome, said, origins.across, tuple(origins.examples), todo)]
    return [first, Check(name, "ok", "none does")]


def check_repeats(repeats: Repeats, test: int, order: Order) -> Check:
    """The same user, item and day is not in training and in test."""
    name = "no row of test is in training"
    if not repeats.across:
        return Check(name, "ok", "no user has the same item on the same day in both")
    said = f"{repeats.across:,} ({repeats.across / test:.1%} of test) have a user, item and day that training has"
    outcome: Outcome = "fail" if order.by_time else "look"
    todo = "Real repeats, or one event twice? `data.drop_repeats: true` keeps one of each."
    return Check(name, outcome, said, repeats.across, tuple(repeats.examples), todo)


def check_counts(dataset: Dataset, scan: Scan, vocabs: set[str]) -> Check:
    """Vocabularies and `train_count` count the training split and nothing else."""
    import pyarrow.parquet as pq

    name, wrong, examples = "counts are of training only", 0, list[str]()
    found = {ITEMS: (dataset.items["train_count"].to_numpy(), scan.targets)}
    skipped = []
    for vocab in sorted(vocabs):
        table = pq.read_table(dataset.vocab_file(vocab), columns=["index", "count"], partitioning=None)
        index, count = table["index"].to_numpy(), table["count"].to_numpy()
        says = np.zeros(int(index.max()) + 1, np.int64)
        says[index] = count
        samples = _counted(dataset, scan, vocab, len(says))
        if samples is None:
            skipped.append(vocab)
            continue
        found[f"vocab/{vocab}.parquet"] = (says[1:], samples[:, 1:])  # 0 stands for many values
    for file, (says, samples) in found.items():
        # drawn negatives are in the samples, but the log that was counted has only positives
        unequal = [np.flatnonzero(says != counted) for counted in samples]
        by = min(range(2), key=lambda which: len(unequal[which]))
        zero = np.flatnonzero((says < 1) & (file != ITEMS))
        if len(unequal[by]) or len(zero):
            rows = np.union1d(unequal[by], zero).astype(np.int64)
            first = int(rows[0])
            what = f"row {first}" if file == ITEMS else f"index {first + 1}"
            examples.append(f"{file}: {len(rows):,}, as {what}: says {says[first]:,}, samples {samples[by][first]:,}")
            wrong += len(rows)
    if wrong:
        todo = "Count training impressions only; a value that training does not have gets index 0."
        return Check(
            name, "fail", f"{wrong:,} counts are not those of the training samples", wrong, tuple(examples), todo
        )
    drawn = ", drawn negatives left out" if negatives_drawn(dataset.made) else ""
    left = f"; too large to look at: {some(skipped)}" if skipped else ""
    return Check(name, "ok", f"items and {len(found) - 1} vocabularies are what the samples say{drawn}{left}")


def _counted(dataset: Dataset, scan: Scan, vocab: str, size: int) -> np.ndarray | None:
    """Returns [all or positive, indices] training impressions that have each value; None: they were not counted."""

    counts = np.zeros((2, size), np.int64)
    outside = [info for side in (dataset.user, dataset.context) for info in side.values() if info.vocab == vocab]
    if outside:
        if vocab not in scan.values:
            return None
        counts += scan.values[vocab]
    for name, info in dataset.item.items():
        if info.vocab == vocab:
            targets = scan.targets
            if info.kind == "ids":
                lengths = np.asarray(dataset.items[name].combine_chunks().value_lengths())
                targets = np.repeat(targets, lengths, axis=1)
            for which in range(2):
                np.add.at(counts[which], flat(dataset.items[name]), targets[which])
    return counts
