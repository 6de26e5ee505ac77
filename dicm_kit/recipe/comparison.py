"""A comparison file -> its rows: which recipe, with which overrides; or one error with every problem."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from dicm_kit.errors import RecipeError, did_you_mean
from dicm_kit.recipe import typed
from dicm_kit.recipe.load import LoadedRecipe, load, read_text
from dicm_kit.recipe.problems import Override, Problem, report
from dicm_kit.recipe.tree import Entry, Items, Scalar, Section, parse
from dicm_kit.registry import Registry

FORMAT = 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


@dataclass
class RowSection:
    """A row: the base recipe, or another one, with overrides. A list alone is the overrides."""

    recipe: str | None = None
    """A recipe in place of `base`, relative to this file."""
    overrides: list[str] = field(default_factory=list)
    """`key=value`, as on the command line."""
    after: str | None = None
    """A name in `before`: `warm_start.run` is that run, the one with the same seed."""


@dataclass
class ComparisonSection:
    """A comparison file, whole: a table of runs, each a recipe with overrides."""

    compare: int
    """Format of the file: 1."""
    base: str
    """The recipe of every row that names no other, relative to this file."""
    rows: dict[str, RowSection]
    """The rows by name, in the order of the table. A name is also the folder of the row's runs."""
    before: dict[str, RowSection] = field(default_factory=dict)
    """Runs that are trained first and are no rows of the table: what rows with `after` start from."""
    against: str | None = None
    """The row that differences are to; null: the first."""


@dataclass(frozen=True)
class ComparisonRow:
    """One row, loaded and checked."""

    name: str
    loaded: LoadedRecipe
    """With the row's overrides and the command line's, which win."""
    own_folder: bool
    """Whether the row itself says `run_dir`; else its runs lie in a folder of its name below the recipe's."""
    after: str | None = None
    """Which of `Comparison.before` it starts from."""

    @property
    def folder(self) -> Path:
        """What its runs lie in, each in a folder of its seed."""
        folder = Path(self.loaded.recipe.run_dir)
        return folder if self.own_folder else folder / self.name


@dataclass(frozen=True)
class Comparison:
    """A comparison file without problems."""

    path: Path
    rows: list[ComparisonRow]
    against: str
    before: list[ComparisonRow] = field(default_factory=list)

    def __str__(self) -> str:
        """A line for each row: its recipe and its overrides."""
        width = max(len(row.name) for row in (*self.rows, *self.before))

        def line(row: ComparisonRow) -> str:
            after = f" (after {row.after})" if row.after else ""
            return f"{row.name:{width}}  {row.loaded.path} {' '.join(row.loaded.overrides)}".rstrip() + after

        lines = [f"{len(self.rows)} rows, differences to {self.against}:", *map(line, self.rows)]
        if self.before:
            lines += ["before them:", *map(line, self.before)]
        return "\n".join(lines)


def is_comparison(path: Path) -> bool:
    """Returns whether a file says of itself that it is a comparison, by its key `compare`."""
    return re.search(r"^compare\s*:", read_text(path), re.MULTILINE) is not None


def load_comparison(path: Path, overrides: Sequence[str] = ()) -> Comparison:
    """Returns the comparison at `path`, every row loaded with its own overrides and then `overrides`.

    `base=FILE` among them, looked up from the current folder, puts another recipe in the place of `base`, and recipes
    of the same names beside it in the place of those beside `base`. A row without pictures does not get overrides
    inside `images`.

    Raises:
        RecipeError: the file or a row has problems; it then shows all of them.
    """
    text = read_text(path)
    problems: list[Problem] = []
    tree = parse(text, problems)
    if tree is None:
        todo = "Quote an override that holds brackets or braces: `'interest.images.queries=[image]'`."
        raise report(str(path), text, (), [replace(each, todo=each.todo or todo) for each in problems])
    section = _section(tree, problems)
    for part in ("rows", "before"):
        for name, row in (getattr(section, part) or {}).items():
            if row.recipe is not None:
                _check_is_there(path, row.recipe, (part, name, "recipe"), tree, problems)
            if row.after is not None and row.after not in (section.before if part == "rows" else {}):
                names = ", ".join(section.before) or "none"
                near = did_you_mean(row.after, section.before) or f"There: {names}; only rows can start from one."
                mark = typed.mark_of(tree, (part, name, "after"))
                problems.append(Problem(mark, f"there is no run `{row.after}` in `before`", near))
    if isinstance(section.base, str):
        _check_is_there(path, section.base, ("base",), tree, problems)
    if problems:
        raise report(str(path), text, (), problems)
    bases = [text.removeprefix("base=") for text in overrides if text.startswith("base=")]
    if bases and not Path(bases[-1]).is_file():
        raise RecipeError(
            f"there is no recipe `{bases[-1]}`", where=f"base={bases[-1]}", todo="It is looked up from here."
        )
    recipes = _Recipes(path.parent, section.base, Path(bases[-1]) if bases else None)
    overrides = [text for text in overrides if not text.startswith("base=")]
    before = _loaded(path, recipes, section.before, "before", tree, overrides, {})
    folders = {row.name: row.folder for row in before}
    rows = _loaded(path, recipes, section.rows, "rows", tree, overrides, folders)
    return Comparison(path, rows, section.against or rows[0].name, before)


@dataclass(frozen=True)
class _Recipes:
    """Where the recipes of rows are."""

    folder: Path
    base: str
    other: Path | None
    """In the place of `base`."""

    def of(self, row: RowSection) -> Path:
        """Returns the recipe of a row."""
        mine = Path(os.path.normpath(self.folder / (row.recipe or self.base)))
        if self.other is None:
            return mine
        base = Path(os.path.normpath(self.folder / self.base))
        if mine == base:
            return self.other
        return self.other.parent / mine.name if mine.parent == base.parent else mine


def _section(tree: Section, problems: list[Problem]) -> ComparisonSection:
    lists = [tree.entries[name] for name in ("rows", "before") if name in tree.entries]
    for of_rows in lists:
        for entry in of_rows.value.entries.values() if isinstance(of_rows.value, Section) else ():
            if isinstance(entry.value, Items):
                entry.value = Section(entry.mark, {"overrides": Entry(entry.mark, entry.value)})
            elif isinstance(entry.value, Scalar) and entry.value.value is None:
                entry.value = Section(entry.mark)
    section = typed.Reader(Registry(), problems).top(ComparisonSection, tree)
    if isinstance(section.compare, int) and section.compare != FORMAT:
        what = f"the comparison is written in format {section.compare}, this dicm_kit reads {FORMAT}"
        problems.append(Problem(typed.mark_of(tree, ("compare",)), what))
    if section.rows == {} and not problems:
        problems.append(Problem(typed.mark_of(tree, ("rows",)), "`rows` has no row", "Write `NAME: [KEY=VALUE, ...]`."))
    for part, names in (("rows", section.rows), ("before", section.before)):
        for name in names or {}:
            if not _NAME.fullmatch(name):
                what = f"`{name}` cannot be the name of a row: it is the name of a folder, too"
                problems.append(Problem(typed.mark_of(tree, (part, name)), what, "Use letters, digits, `-` and `_`."))
    if section.against is not None and section.rows and section.against not in section.rows:
        near = did_you_mean(section.against, section.rows) or f"Rows: {', '.join(section.rows)}."
        problems.append(Problem(typed.mark_of(tree, ("against",)), f"there is no row `{section.against}`", near))
    return section


def _check_is_there(path: Path, recipe: str, place: typed.Path, tree: Section, problems: list[Problem]) -> None:
    file = path.parent / recipe
    if not file.is_file():
        beside = [str(each.relative_to(path.parent)) for each in path.parent.rglob("*.y*ml") if each != path]
        near = did_you_mean(recipe.removeprefix("./"), beside) or "It is looked up from this file's folder."
        problems.append(Problem(typed.mark_of(tree, place), f"there is no recipe `{recipe}`", near))


def _loaded(
    path: Path,
    recipes: _Recipes,
    sections: Mapping[str, RowSection],
    part: str,
    tree: Section,
    overrides: Sequence[str],
    before: Mapping[str, Path],
) -> list[ComparisonRow]:
    """Returns the rows, or the runs before them; `before`: the folders of the latter."""
    rows, errors = [], []
    for name, row in sections.items():
        marks = [typed.mark_of(tree, (part, name, "overrides", place)) for place in range(len(row.overrides))]
        own = [Override(text, f"{path}:{mark.line}") for text, mark in zip(row.overrides, marks, strict=True)]
        start = [] if row.after is None else [f"warm_start.run={before[row.after]}"]
        try:
            loaded = _load_row(recipes.of(row), [*start, *own], overrides)
        except RecipeError as error:
            errors.append(f"row `{name}`: {error.what}")
            continue
        own_folder = any(text.startswith("run_dir=") for text in row.overrides)
        rows.append(ComparisonRow(name, loaded, own_folder, row.after))
    if errors:
        head = f"{len(errors)} of {len(sections)} rows cannot be run"
        raise RecipeError("\n\n".join([head, *errors]), where=str(path))
    return rows


def _load_row(recipe: Path, own: Sequence[str], overrides: Sequence[str]) -> LoadedRecipe:
    """Returns a row's recipe. Overrides inside `images` are left out for a row without pictures: they hold for the
    others, and would make half a section of none."""
    others = [text for text in overrides if not text.startswith("images.")]
    if len(others) < len(overrides):
        try:
            without = load(recipe, [*own, *others])
        except RecipeError:  # a value that only an override of `images` gives; the whole list says what is wrong
            pass
        else:
            if without.recipe.images is None:
                return without
    return load(recipe, [*own, *overrides])
