"""An audit as a text that fits a terminal, and the file that keeps it."""

import textwrap
from datetime import UTC, datetime

from dicm_kit.data.audit.look import audit
from dicm_kit.data.audit.made import said
from dicm_kit.data.audit.result import (
    Audit,
    Check,
    Clock,
    Example,
    Forgotten,
    PictureCounts,
    Problem,
    Refused,
    SplitCounts,
)
from dicm_kit.data.dataset import VERSION, Dataset
from dicm_kit.data.grouping import DAY
from dicm_kit.data.state import day_text
from dicm_kit.errors import some
from dicm_kit.whole_file import write_whole

AUDIT_FILE = "audit.txt"
WIDTH = 100
_OUTCOMES = {"ok": "ok", "fail": "FAIL", "look": "look", "unknown": "?"}
_SHOWN_HISTORY = 3
_PROBLEMS = 10
_REASONS = 5


def text(found: Audit) -> str:
    """Returns all of it."""
    parts = [
        headline(found),
        _made(found),
        _splits(found),
        _pictures(found.pictures) if found.pictures else "",
        _forgotten(found.forgotten) if found.forgotten else "",
        _checks(found),
        _examples(found),
        complaints(found),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def write_audit(dataset: Dataset) -> Audit:
    """Audits a dataset folder and writes the text into it."""
    found = audit(dataset)
    write_whole(dataset.folder / AUDIT_FILE, text(found))
    return found


def is_audited(dataset: Dataset) -> bool:
    """Returns whether the folder has an audit of what it holds now."""
    file = dataset.folder / AUDIT_FILE
    return file.is_file() and dataset.fingerprint in file.read_text().partition("\n")[0]


def headline(found: Audit) -> str:
    """Returns the first line: which folder in which state it is about."""
    return f"{found.folder}: dataset folder, format {VERSION}, fingerprint {found.fingerprint}"


def complaints(found: Audit) -> str:
    """Returns the problems and the warnings, each with what to do."""
    lines = [_problem(each) for each in found.problems[:_PROBLEMS]]
    if len(found.problems) > _PROBLEMS:
        lines.append(f"... and {len(found.problems) - _PROBLEMS} more problems")
    lines += [_wrapped(f"warning: {each.what}. {each.todo}") for each in found.warnings]
    return "\n".join(lines) or "No problems, no warnings."


def _problem(problem: Problem) -> str:
    return _wrapped(f"PROBLEM: {problem.where}: {problem.what}. {problem.todo}")


def _wrapped(line: str, indent: str = "  ") -> str:
    return textwrap.fill(line, WIDTH, subsequent_indent=indent, break_on_hyphens=False)


def _made(found: Audit) -> str:
    words = said(found.made, found.pieces)
    if found.made_up:
        words["made up"] = "yes: the samples hold click_probability, so results say nothing of real users"
    width = max(map(len, words)) + 2
    return "\n".join(_wrapped(f"{name:{width}}{word}", " " * width) for name, word in words.items())


# --- splits ---


def _splits(found: Audit) -> str:
    rows = [["", *found.splits]]
    for name, cell in _CELLS.items():
        if name == "days" and found.clock == "none":
            continue
        rows.append([name, *(cell(each) if each.impressions else "-" for each in found.splits.values())])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    ]
    if found.one_user_in > 1:
        of = "users, repeated rows, what GAUC counts and where histories come from"
        lines.append(f"Of 1 user in {found.one_user_in}, drawn by a hash: {of}.")
    return "\n".join(line.rstrip() for line in lines)


def _days(split: SplitCounts) -> str:
    if split.first_day is None or split.last_day is None:
        return "-"
    first, last = day_text(split.first_day), day_text(split.last_day)
    return first if first == last else f"{first} to {last}"


def _share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"


_CELLS = {
    "parts": lambda split: f"{split.parts:,}",
    "days": _days,
    "impressions": lambda split: f"{split.impressions:,}",
    "groups": lambda split: f"{split.groups:,}",
    "users": lambda split: f"{split.users:,}",
    "positive": lambda split: _share(split.positives, split.impressions),
    "with a picture": lambda split: _share(split.with_picture, split.impressions),
    "with a history": lambda split: _share(split.with_history, split.impressions),
    "mean history length": lambda split: f"{split.history_entries / split.groups:.1f}",
    "unknown user": lambda split: _share(split.unknown_user, split.impressions),
    "item not in training": lambda split: _share(split.unseen_items, split.impressions),
    "repeated rows": lambda split: _share(split.repeated, split.looked_at),
    "counted by GAUC": lambda split: _share(split.both_labels, split.looked_at),
}


# --- pictures ---


def _pictures(pictures: PictureCounts) -> str:
    without = pictures.items - pictures.with_picture
    lines = [
        f"{pictures.items:,} items: {pictures.with_picture:,} with a picture, {without:,} without; "
        f"{pictures.distinct:,} different pictures, {pictures.stored:,} stored"
    ]
    if pictures.shared_by > 1:
        items = ", ".join([*pictures.shared_examples[:3], *["..."] * (pictures.shared_by > 3)])
        lines.append(f"most shared picture: key {pictures.shared_key}, of {pictures.shared_by:,} items ({items})")
    if pictures.refused:
        lines.append(
            f"no pictures to the model, listed in images/rejected.parquet: {pictures.absent:,} that items name and "
            f"that are not there, {pictures.rejected:,} that cannot be used"
        )
        lines += [_refused(reason, each) for reason, each in list(pictures.refused.items())[:_REASONS]]
        if len(pictures.refused) > _REASONS:
            lines.append(f"  and {len(pictures.refused) - _REASONS} more reasons")
    return "\n".join(_wrapped(line, "    ") for line in lines)


def _refused(reason: str, pictures: Refused) -> str:
    more = f" and {pictures.count - len(pictures.names):,} more" if pictures.count > len(pictures.names) else ""
    return f"  {reason} ({pictures.count:,}): {', '.join(pictures.names)}{more}"


# --- ids ---


def _forgotten(forgotten: Forgotten) -> str:
    listed = [f"{gone:,} of {all_:,} {vocab}" for vocab, (gone, all_) in forgotten.of_vocab.items() if gone]
    days = "day" if forgotten.days == 1 else f"{forgotten.days:,} days"
    return _wrapped(f"forgotten, not in the last {days} of training: {', '.join(listed) or 'none'}", "    ")


# --- checks ---


def _checks(found: Audit) -> str:
    return "\n".join(["Leakage:", *map(_check, found.checks)]) if found.checks else ""


def _check(check: Check) -> str:
    return _wrapped(f"{_OUTCOMES[check.outcome]:5} {check.name}: {check.said}", " " * 6)


# --- examples ---


def _examples(found: Audit) -> str:
    return "\n".join(_wrapped(in_words(each, found.clock)) for each in found.examples)


def in_words(example: Example, clock: Clock) -> str:
    """Returns an impression as a person would tell it."""
    when = datetime.fromtimestamp(example.time, UTC).date().isoformat() if clock != "none" else f"time {example.time}"
    values = [f"{name} {value}" for name, value in example.values.items()]
    shown = "; ".join([", ".join(values), f"picture {'yes' if example.has_picture else 'no'}"][not values :])
    line = (
        f"{when}, user {example.user}: shown item {example.item} ({shown}), {'' if example.clicked else 'not '}clicked."
    )
    before = [f"{item} ({_ago(age, clock)})" for item, age in example.history]
    return f"{line} Clicked before: {some(before, _SHOWN_HISTORY) or 'nothing'}."


def _ago(days: float, clock: Clock) -> str:
    seconds = round(days * DAY)
    if clock == "none":
        return f"{seconds:,} before"
    for size, name in ((DAY, "day"), (3600, "hour"), (60, "minute"), (1, "second")):
        if seconds >= size:
            number = seconds // size
            return f"{number:,} {name}{'s' if number > 1 else ''} ago"
    same = "same day" if clock == "days" else "same second"
    return same if seconds == 0 else f"{-seconds} s AFTER"
