"""Errors a user can act on: where it is, what is wrong, what to do.

`DicmError` is for users and is shown without a traceback; our own mistakes are `assert`.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class DicmError(Exception):
    """A problem the user can mend.

    Reads "where: what", then what to do. `exit_code` is what the command line ends with: 1 for a failed run, 2 for a
    wrong recipe or command line.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str | None = None, todo: str | None = None):
        """`what`: what is wrong; `where`: a file with its line, a key, a rank; `todo`: what the user should do."""
        self.what, self.where, self.todo = what, where, todo
        head = f"{where}: {what}" if where else what
        super().__init__(f"{head}\n\n  {todo}" if todo else head)


class RecipeError(DicmError):
    """A recipe or a command line that cannot be run; holds every problem found."""

    exit_code = 2


class PluginError(DicmError):
    """A plugin that cannot be loaded, or that takes a name which is taken."""

    exit_code = 2


class FieldError(DicmError):
    """A component refuses the value of one of its recipe keys; `field` names the key (`queries`, `hidden`).

    Raise it in a component's `build`; the recipe's file and line are added on the way up.
    """

    exit_code = 2

    def __init__(self, field: str, what: str, *, todo: str | None = None):
        """`field`: the key; `what`: what is wrong with its value ("must be above 0, got -1"); `todo`: the way out."""
        self.field = field
        super().__init__(what, where=f"`{field}`", todo=todo)


class FieldsError(FieldError):
    """Several refused values at once; `errors` holds them, `field` names the first one's key."""

    def __init__(self, errors: Iterable[FieldError]):
        self.errors = tuple(errors)
        self.field = self.errors[0].field
        DicmError.__init__(self, "\n\n".join(str(error) for error in self.errors))


class DataError(DicmError):
    """Logs, tables or a dataset folder that cannot be used."""


class ImageError(DicmError):
    """Pictures, shards or a feature store that cannot be used."""


class TrainingError(DicmError):
    """A training that cannot go on."""


class RankError(DicmError):
    """A rank of the run that is gone, or that cannot be reached."""


class RunError(DicmError):
    """A run folder or checkpoint that cannot be used."""


def some(values: Iterable[object], limit: int = 5) -> str:
    """Returns at most `limit` values as text, with how many were left out: "1, 2, 3, 4, 5 and 807 more"."""
    listed = list(values)
    text = ", ".join(str(value) for value in listed[:limit])
    return f"{text} and {len(listed) - limit} more" if len(listed) > limit else text


def some_lines(values: Iterable[str], limit: int = 5) -> str:
    """Returns at most `limit` values, each in a line of its own below the first, with how many were left out."""
    listed = list(values)
    return "\n  ".join(listed[:limit] + ([f"and {len(listed) - limit} more"] if len(listed) > limit else []))


def did_you_mean(name: str, known: Iterable[str]) -> str | None:
    """Returns "Did you mean `hidden`?" for the nearest known names, or None when nothing is near."""
    near = get_close_matches(name, list(known), n=2, cutoff=0.6)
    return f"Did you mean {' or '.join(f'`{each}`' for each in near)}?" if near else None
