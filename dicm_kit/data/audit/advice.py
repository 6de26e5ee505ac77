"""Warnings: what a person should know before training on a dataset, and what to do about it."""

from collections.abc import Iterator
from statistics import median

from dicm_kit.data.audit import made
from dicm_kit.data.audit.result import PictureCounts, SplitCounts, Warned
from dicm_kit.data.audit.scan import Scan
from dicm_kit.data.dataset import Dataset, Split
from dicm_kit.data.state import day_text
from dicm_kit.errors import some

RARE, OFTEN = 0.001, 0.5
"""Rates of positives that are odd for a log with negatives of its own."""
PICTURED, KNOWN_HISTORY = 0.5, 0.3
"""Shares of impressions: with a picture, with a history."""
TESTED, COMPARED = 1000, 100
"""Impressions of test, and users with both labels in it."""
UNKNOWN_USERS, REPEATED, SHARED, REJECTED, ABSENT = 0.2, 0.01, 0.01, 0.01, 0.1
SHARED_ITEMS = 20
INCOMPLETE = 0.5
"""The last day has less than this share of the median day."""
UNEVEN = 1.2
"""The fullest lane has this many times the mean."""
_UNEVEN_FROM = 1000  # training impressions a lane: fewer lie unevenly by chance


def warnings_of(
    dataset: Dataset, scan: Scan, splits: dict[Split, SplitCounts], pictures: PictureCounts | None
) -> list[Warned]:
    """Returns those that the dataset deserves."""
    drawn = made.negatives_drawn(dataset.made)
    found = [Warned(*each) for each in _of_impressions(splits, drawn)]
    found += [Warned(*each) for each in _of_users(splits)]
    found += [Warned(*each) for each in _of_days(scan)] if scan.clock != "none" else []
    found += [Warned(*each) for each in _of_pictures(pictures)] if pictures else []
    found += [Warned(*each) for each in _of_making(dataset, scan, splits)]
    return found


def _of_impressions(splits: dict[Split, SplitCounts], drawn: bool) -> Iterator[tuple[str, str]]:
    rates = {name: split.positives / split.impressions for name, split in splits.items() if split.impressions}
    if not drawn and (rare := [f"{rate:.3%} of {name}" for name, rate in rates.items() if rate < RARE]):
        yield (
            f"{', '.join(rare)} is positive: there is little to learn from",
            "Is the label right? Down-sample negatives, with `weight` for those that stay.",
        )
    if not drawn and (often := [f"{rate:.0%} of {name}" for name, rate in rates.items() if rate > OFTEN]):
        yield (
            f"{', '.join(often)} is positive",
            "Is the label right? A log that lacks what was not clicked needs `data.negatives`.",
        )
    train = splits["train"]
    whole = max(1, train.impressions)
    if train.with_picture / whole < PICTURED:
        yield (
            f"{train.with_picture / whole:.1%} of training impressions have a picture",
            "Look at the pictures that are missing (images/rejected.parquet), and at the item's picture column.",
        )
    if train.with_history / whole < KNOWN_HISTORY:
        yield (
            f"{train.with_history / whole:.1%} of training impressions have a history",
            "A longer log, a larger `history.max_age_days` or coarser users help; else train on targets only.",
        )
    repeated = sum(split.repeated for split in splits.values())
    looked_at = sum(split.looked_at for split in splits.values())
    if repeated > REPEATED * max(1, looked_at):
        yield (
            f"{repeated / looked_at:.1%} of impressions repeat a user, item and UTC day",
            "Retries of the log or real repeats? `data.drop_repeats: true` keeps one of each.",
        )


def _of_users(splits: dict[Split, SplitCounts]) -> Iterator[tuple[str, str]]:
    test = splits["test"]
    if not test.impressions:
        yield ("there is no test split", "Results need one: `data.split.test`.")
        return
    if test.impressions < TESTED:
        yield (
            f"test has {test.impressions:,} impressions: its metrics are mostly chance",
            "Take more days or users into test, and look at the intervals.",
        )
    if test.users_with_both < COMPARED and test.looked_at == test.impressions:
        yield (
            f"users with both labels in test: {test.users_with_both:,}; GAUC is the mean of few",
            "Take more into test, or judge by AUC.",
        )
    if test.unknown_user / test.impressions > UNKNOWN_USERS:
        yield (
            f"{test.unknown_user / test.impressions:.1%} of test impressions have no index for their user",
            "Training has the user too rarely (`min_count`) or not lately (`forget_after_days`): `user_id` says "
            "nothing, histories and pictures must.",
        )


def _of_days(scan: Scan) -> Iterator[tuple[str, str]]:
    days = sorted(scan.days)
    *before, last = days
    if len(before) >= 2 and scan.days[last] < INCOMPLETE * median(scan.days[day] for day in before):
        usual = median(scan.days[day] for day in before)
        yield (
            f"the last day, {day_text(last)}, has {scan.days[last]:,} impressions; a usual one has {usual:,.0f}",
            "Is it whole? Leave a day that has not ended out of the log.",
        )
    gaps = [(one, other) for one, other in zip(days, before and days[1:], strict=False) if other > one + 1]
    if gaps:
        missing = sum(other - one - 1 for one, other in gaps)
        listed = some(_span(one + 1, other - 1) for one, other in gaps)
        yield (f"days without impressions: {missing:,} ({listed})", "Is a file of the log missing?")


def _span(first: int, last: int) -> str:
    return day_text(first) if first == last else f"{day_text(first)} to {day_text(last)}"


def _of_pictures(pictures: PictureCounts) -> Iterator[tuple[str, str]]:
    share = pictures.shared_by / max(1, pictures.items)
    if share > SHARED and pictures.shared_by > SHARED_ITEMS:
        yield (
            f"one picture is that of {pictures.shared_by:,} items ({share:.1%}), as {pictures.shared_examples[0]}",
            "A placeholder says nothing of the item: leave it out of the items' picture column.",
        )
    if pictures.rejected > REJECTED * (pictures.stored + pictures.rejected):
        yield (
            f"pictures that cannot be used: {pictures.rejected:,}, beside {pictures.stored:,} that are stored",
            "images/rejected.parquet says why. Mend these files and prepare again.",
        )
    if pictures.absent > ABSENT * (pictures.stored + pictures.absent):
        yield (
            f"pictures that items name and that are not there: {pictures.absent:,}, beside {pictures.stored:,} that "
            "are stored",
            "Harmless where there is no photo: the model sees that there is none. But look at some of the names in "
            "images/rejected.parquet: if there is a photo, it is called otherwise or lies elsewhere.",
        )


def _of_making(dataset: Dataset, scan: Scan, splits: dict[Split, SplitCounts]) -> Iterator[tuple[str, str]]:
    if missing := made.count(dataset.made, "negatives_missing"):
        yield (
            f"negatives that could not be drawn: {missing:,}; too few other items were alive on their day",
            "`data.negatives.alive: always`, or a smaller `per_positive`.",
        )
    if left_out := made.count(dataset.made, "rows_left_out"):
        whole = left_out + sum(split.impressions for split in splits.values())
        yield (
            f"rows of the log that were left out: {left_out:,} ({left_out / whole:.1%})",
            "Fine if it is what `drop_repeats` and `unlisted: drop` were meant for.",
        )
    groups = sum(tally.groups for tally in scan.parts.values())
    if groups > 1 and groups == sum(tally.one_impression for tally in scan.parts.values()):
        yield (
            "every group has one impression: each repeats its user's columns and history",
            "Where impressions come in pages, `data.group.by: session` or `day` makes the folder smaller and faster.",
        )
    mean = scan.lanes.mean() if len(scan.lanes) else 0
    if mean >= _UNEVEN_FROM and scan.lanes.max() > UNEVEN * mean:
        yield (
            f"the fullest lane has {scan.lanes.max() / mean:.1f} times the mean: an epoch is that much longer",
            "Deal the groups to the lanes at random, one by one.",
        )
