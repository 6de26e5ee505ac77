"""What is wrong with a recipe: one `Problem` each, all of them reported at once, in file order."""

from collections.abc import Sequence
from dataclasses import dataclass

from dicm_kit.errors import RecipeError


@dataclass(frozen=True)
class Mark:
    """Where a piece of a recipe stands: a line of the file, from 1, or an argument of the command line, from 0."""

    line: int | None = None
    override: int | None = None

    @property
    def order(self) -> tuple[bool, int]:
        """The file comes before the command line."""
        return (self.line is None, self.line or self.override or 0)


@dataclass(frozen=True)
class Problem:
    """One thing to mend."""

    mark: Mark
    what: str
    todo: str | None = None


class Override(str):
    """`key=value` that stands in a file, and where; a plain string is one of the command line."""

    def __new__(cls, text: str, where: str) -> "Override":
        """Takes `FILE:LINE` beside the text."""
        made = super().__new__(cls, text)
        made.where = where
        return made

    where: str


def report(name: str, text: str, overrides: Sequence[str], problems: Sequence[Problem]) -> RecipeError:
    """Returns the error that shows every problem with its place and source line; `name` is the recipe's path."""
    lines = text.splitlines()
    ordered = sorted(problems, key=lambda problem: problem.mark.order)
    shown = dict.fromkeys(_shown(name, lines, overrides, problem) for problem in ordered)
    count = f"{len(shown)} problem{'s' if len(shown) != 1 else ''} in {name}"
    return RecipeError("\n\n".join([count, *shown]))


def _shown(name: str, lines: list[str], overrides: Sequence[str], problem: Problem) -> str:
    mark = problem.mark
    if mark.line is None:
        source = overrides[mark.override] if mark.override is not None else None
        where = source.where if isinstance(source, Override) else "command line"
        frame = f"  > {source}" if source is not None else None
    else:
        where = f"{name}:{mark.line}"
        frame = f"  > {mark.line:3} | {lines[mark.line - 1]}" if mark.line <= len(lines) else None
    parts = [f"{where}: {problem.what}", frame, f"  {problem.todo}" if problem.todo else None]
    return "\n".join(part for part in parts if part is not None)
