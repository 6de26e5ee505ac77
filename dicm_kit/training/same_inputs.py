"""Whether a part of two models means the same: which component it is, and what it reads, in the same order.

Weights of the same shapes fit a net whose inputs are other columns, or the same ones in another order, and are worth
nothing there. Both recipes say it.
"""

from typing import Any

Plain = dict[str, Any]
"""A recipe as plain values, every key written out."""


def section_of(recipe: Plain, name: str) -> Plain | None:
    """Returns the section of a part (`images`, `interest.ids`, `net`) or of a column (`user.city`); None if none."""
    top, _, below = name.partition(".")
    if not below:
        return recipe.get(top)
    sections = recipe["interest"] if top == "interest" else recipe["features"].get(top)
    return (sections or {}).get(below)


def other_inputs(here: Plain, there: Plain, name: str) -> str | None:
    """Returns in what the part's meaning differs; None where it is the same."""
    ours, theirs = section_of(here, name), section_of(there, name)
    assert ours is not None, "a part of this model"
    assert theirs is not None, "the caller has seen to it"
    if ours.get("name") != theirs.get("name"):
        return f"it is `{theirs.get('name')}` there, `{ours.get('name')}` here"
    return _difference(_read_by(here, name), _read_by(there, name))


def _read_by(recipe: Plain, name: str) -> list[str]:
    """Returns what a part reads, in order."""
    features = recipe["features"]
    if name == "net":
        images = recipe.get("images") or {}
        columns = [f"{side}.{column}" for side in ("user", "target", "context") for column in features.get(side) or {}]
        slots = [f"interest.{slot}" for slot, section in recipe["interest"].items() if section]
        return [*columns, *(["image"] if images.get("target") else []), *slots]
    if name.startswith("interest."):
        queries = (section_of(recipe, name) or {}).get("queries") or []
        return [
            *(f"history.{column}" for column in features.get("history") or {}),
            *(f"query {each}" for each in queries),
        ]
    return []


def _difference(here: list[str], there: list[str]) -> str | None:
    added = [each for each in here if each not in there]
    gone = [each for each in there if each not in here]
    words = [f"it reads {', '.join(added)} here and not there"] if added else []
    words += [f"it read {', '.join(gone)} there and does not here"] if gone else []
    if not words and here != there:
        words = [f"it read the same in another order there: {', '.join(there)}"]
    return "; ".join(words) or None
