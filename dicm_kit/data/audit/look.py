"""The audit of a dataset folder: everything that is looked at, in order."""

from dicm_kit.data.audit import checks
from dicm_kit.data.audit.advice import warnings_of
from dicm_kit.data.audit.examples import pick_examples
from dicm_kit.data.audit.forgotten import count_forgotten
from dicm_kit.data.audit.format import PAGE, check_description, check_items, check_vocabularies
from dicm_kit.data.audit.histories import look_at_histories
from dicm_kit.data.audit.joins import Joins
from dicm_kit.data.audit.made import negatives_drawn, split_by
from dicm_kit.data.audit.photos import look_at_pictures
from dicm_kit.data.audit.result import Audit, Check, Findings, PictureCounts, Problem, SplitCounts, Warned
from dicm_kit.data.audit.scan import PartTally, Scan, Scanner
from dicm_kit.data.audit.users import Repeats, Users, look_at_users, look_for_repeats
from dicm_kit.data.dataset import DATASET_FILE, SPLITS, Dataset, Split
from dicm_kit.data.grouping import DAY
from dicm_kit.data.state import STATE, State


def audit(dataset: Dataset) -> Audit:
    """Returns what the folder holds and what is wrong with it, whoever wrote it.

    Errors of format come first: where there are any, what needs sound files is not looked at.
    """
    from rich.console import Console

    findings = Findings()
    pictures: PictureCounts | None = None
    scan = Scan({part: PartTally() for part in dataset.parts})
    with Console(stderr=True).status(f"audit of {dataset.folder}"), Joins(dataset) as joins:
        check_description(dataset, findings)
        vocabs = check_vocabularies(dataset, joins.database, findings)
        if check_items(dataset, vocabs, joins.database, findings):
            pictures = look_at_pictures(dataset, findings)
            scan = Scanner(dataset, vocabs, findings).run()
        if findings:
            users, repeats, found, examples = Users(), Repeats(), list[Check](), []
        else:
            users, repeats, found = _look_closer(dataset, joins, scan, vocabs)
            _compare(dataset, scan, users, joins.one_user_in, findings)
            examples = pick_examples(dataset)
        one_user_in = joins.one_user_in
    pieces = _pieces(dataset, findings)
    splits = {split: _split_counts(dataset, split, scan, users, repeats) for split in SPLITS}
    failed = [Problem(each.name, _with_examples(each), each.todo) for each in found if each.outcome == "fail"]
    odd = [Warned(f"{each.name}: {_with_examples(each)}", each.todo) for each in found if each.outcome == "look"]
    return Audit(
        folder=dataset.folder,
        fingerprint=dataset.fingerprint,
        made=dataset.made,
        pieces=pieces,
        made_up=dataset.has_truth,
        clock=scan.clock,
        one_user_in=one_user_in,
        splits=splits,
        pictures=pictures,
        forgotten=count_forgotten(dataset, vocabs),
        checks=found,
        examples=examples,
        problems=findings.problems() + failed,
        warnings=odd + ([] if findings else warnings_of(dataset, scan, splits, pictures)),
    )


def _pieces(dataset: Dataset, findings: Findings) -> tuple[str, ...]:
    """Returns the names of the log's pieces, where the folder has a state."""
    try:
        state = State.read(dataset.folder / STATE)
        return tuple(state.pieces) if state else ()
    except (ValueError, TypeError) as error:
        todo = "No day can be added to the folder; training needs no state. Prepare again to have one."
        findings.add(f"{STATE}/log.json", f"cannot be read: {type(error).__name__} {error}", todo)
        return ()


def _look_closer(dataset: Dataset, joins: Joins, scan: Scan, vocabs: set[str]) -> tuple[Users, Repeats, list[Check]]:
    tallies = scan.parts.values()
    joins.open(*(sum(getattr(tally, name) for tally in tallies) for name in ("impressions", "positives", "entries")))
    users = look_at_users(joins)
    repeats = look_for_repeats(joins, negatives_drawn(dataset.made), scan.clock)
    order = checks.order_of(dataset, scan, users)
    # without ties, or where it is said, the later split is later even within a second
    in_order = order.by_time or (order.by_user and (not users.ties or split_by(dataset.made) == "user_order"))
    begin = min((tally.first for tally in tallies if tally.first is not None), default=0)
    origins = look_at_histories(joins, begin, in_order)
    return (
        users,
        repeats,
        [
            checks.check_ages(scan),
            checks.check_splits(dataset, scan, users, joins),
            *checks.check_histories(origins, order),
            checks.check_repeats(repeats, users.impressions[2], order),
            checks.check_counts(dataset, scan, vocabs),
        ],
    )


def _compare(dataset: Dataset, scan: Scan, users: Users, one_user_in: int, findings: Findings) -> None:
    """Compares the counts in dataset.yaml with the samples."""

    def same(of: str, says: object, counted: dict[str, int]) -> None:
        for name, count in counted.items():
            said = getattr(says, name)
            if said is not None and said != count:
                what = f"{of} says {name} {said:,}; the samples have {count:,}"
                findings.add(DATASET_FILE, what, f"Write what the samples have. {PAGE}.")

    for name, info in dataset.parts.items():
        counts = _counted(scan, [name], ("impressions", "groups", "positives", "with_history"))
        same(f"part {name}", info, counts | ({"users": users.of_part[name]} if one_user_in == 1 else {}))
    optional = ("with_picture", "with_history", "unseen_items")
    for rank, split in enumerate(SPLITS):
        parts = dataset.splits[split].parts
        counts = _counted(scan, parts, ("impressions", "groups", "positives", *optional))
        counts |= {"users": users.users[rank]} if one_user_in == 1 else {}
        same(f"split {split}", dataset.splits[split], counts)


def _counted(scan: Scan, parts: list[str] | tuple[str, ...], names: tuple[str, ...]) -> dict[str, int]:
    return {name: sum(getattr(scan.parts[part], name) for part in parts) for name in names}


def _split_counts(dataset: Dataset, split: Split, scan: Scan, users: Users, repeats: Repeats) -> SplitCounts:
    parts, rank = dataset.splits[split].parts, SPLITS.index(split)
    names = ("impressions", "groups", "positives", "with_picture", "with_history", "unknown_user", "unseen_items")
    times = [time for part in parts for time in (scan.parts[part].first, scan.parts[part].last) if time is not None]
    days = (min(times) // DAY, max(times) // DAY) if times and scan.clock != "none" else (None, None)
    return SplitCounts(
        parts=len(parts),
        **_counted(scan, parts, names),
        history_entries=sum(scan.parts[part].entries for part in parts),
        users=users.users[rank],
        first_day=days[0],
        last_day=days[1],
        looked_at=users.impressions[rank],
        repeated=repeats.repeated[rank],
        both_labels=users.both_labels[rank],
        users_with_both=users.users_with_both[rank],
    )


def _with_examples(check: Check) -> str:
    return f"{check.said} ({'; '.join(check.examples)})" if check.examples else check.said
