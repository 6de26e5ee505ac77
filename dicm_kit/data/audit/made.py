"""What dataset.yaml says of how the folder was made: free in form, so nothing in it is counted on."""

import re
from collections.abc import Sequence
from typing import Any

from dicm_kit.errors import some


def option(made: dict[str, Any], *names: str) -> Any:
    """Returns what stands under the names, one inside the other; None where there is no such thing."""
    value: Any = made
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def split_by(made: dict[str, Any]) -> str | None:
    """Returns time, user_order or column; None where it is not said."""
    by = option(made, "split", "by")
    return by if by in ("time", "user_order", "column") else None


def negatives_drawn(made: dict[str, Any]) -> bool:
    """Returns whether impressions were drawn that the log does not have."""
    return bool(option(made, "negatives"))


def count(made: dict[str, Any], name: str) -> int:
    """Returns one of `counts`, 0 where it is not said."""
    value = option(made, "counts", name)
    return value if isinstance(value, int) else 0


def said(made: dict[str, Any], pieces: Sequence[str] = ()) -> dict[str, str]:
    """Returns in words where the samples come from, and how groups, histories, splits and negatives were made.

    `pieces`: of the log, as the folder's state names them.
    """
    found = {"source": _source(_text(option(made, "source")), pieces)}
    words = {"group": _group, "history": _history, "split": _split, "negatives": _negatives}
    for name, say in words.items():
        value = option(made, name)
        known = say(value) if isinstance(value, dict) else None
        found[name] = known or _text(value) or "not said"
    if "negatives" in made and not made["negatives"]:
        found["negatives"] = "none drawn: the log's own"
    if rows := count(made, "rows_left_out"):
        filters = {"drop_repeats": made.get("drop_repeats"), "unlisted: drop": made.get("unlisted") == "drop"}
        by = ", ".join(name for name, on in filters.items() if on)
        found["left out"] = f"rows: {rows:,}{f' by {by}' if by else ''}"
    return found


def _source(source: str, pieces: Sequence[str]) -> str:
    words = f"fingerprint {source}" if re.fullmatch("[0-9a-f]{16}", source) else source or "not said"
    if not pieces or list(pieces) == ["log"]:  # what a source without pieces calls all of it
        return words
    return f"log of {len(pieces):,} piece{'s' if len(pieces) > 1 else ''}: {some(pieces)}; {words}"


def _group(options: dict[str, Any]) -> str | None:
    match options.get("by"):
        case "event":
            return "event: what a user is shown at one moment"
        case "session":
            return f"session: what a user is shown without a pause of {options.get('session_minutes')} minutes"
        case "day":
            return "day: what a user is shown on a UTC day"
    return None


def _history(options: dict[str, Any]) -> str | None:
    length, days = options.get("max_length"), options.get("max_age_days")
    if length is None:
        return None
    return f"the last {length} clicks before the group{f', at most {days} days old' if days else ''}"


def _split(options: dict[str, Any]) -> str | None:
    by = options.get("by")
    if by == "column":
        return "column: as the source says"
    if by not in ("time", "user_order") or not {"test", "validation"} <= options.keys():
        return None
    test, val = (_many(options[name], "UTC day" if by == "time" else "group") for name in ("test", "validation"))
    of = "the" if by == "time" else "each user's"
    return f"{by}: {of} last {test} for test, the {val} before for val"


def _negatives(options: dict[str, Any]) -> str | None:
    if not {"per_positive", "by", "alive"} <= options.keys():
        return None
    alive = "items clicked on the same day" if options["alive"] == "same_day" else "all items that are ever clicked"
    power = f"^{options.get('power')}" if options["by"] == "popularity" else ""
    return f"DRAWN: {options['per_positive']} per positive, by {options['by']}{power}, among {alive}"


def _many(value: Any, what: str) -> str:
    """Returns "2 groups", or "10 % of the groups" for a share."""
    if not isinstance(value, int | float):
        return f"{value} {what}s"
    if 0 < value < 1:
        return f"{100 * value:g} % of {what}s"
    return f"{value:g} {what}{'' if value == 1 else 's'}"


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_text(each)}" for name, each in value.items())
    return "" if value is None else str(value)
