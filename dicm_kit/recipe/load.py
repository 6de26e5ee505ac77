"""A recipe file and the command line's overrides -> a typed `Recipe`, or one error with every problem; and back."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from dicm_kit import __version__
from dicm_kit.errors import PluginError, RecipeError
from dicm_kit.plugin_modules import is_file
from dicm_kit.recipe import checks, typed
from dicm_kit.recipe.problems import Problem, report
from dicm_kit.recipe.schema import FORMAT, Recipe
from dicm_kit.recipe.tree import Items, Scalar, Section, described, override, parse
from dicm_kit.registry import Registry


@dataclass(frozen=True)
class LoadedRecipe:
    """A recipe without problems, with what it takes to build it and to point at its lines."""

    recipe: Recipe
    registry: Registry
    path: Path
    text: str
    """The file as it is written."""
    overrides: tuple[str, ...]
    notes: tuple[str, ...]
    """What is no mistake, but worth knowing: keys that an override of `name` made void."""
    _tree: Section

    def error(self, path: str, what: str, todo: str | None = None) -> RecipeError:
        """Returns the error for something found later at a key (`data.out`), with its file and line."""
        return self.errors([(tuple(path.split(".")), what, todo)])

    def errors(self, problems: Sequence[tuple[typed.Path, str, str | None]]) -> RecipeError:
        """Returns one error for several problems: path, what is wrong, what to do."""
        found = [Problem(typed.mark_of(self._tree, path), what, todo) for path, what, todo in problems]
        return report(str(self.path), self.text, self.overrides, found)


def load(path: Path | str, overrides: Sequence[str] = ()) -> LoadedRecipe:
    """Returns the recipe at `path` with `key=value` overrides put in and its plugins loaded.

    Raises:
        RecipeError: it cannot be read, or has problems; it then shows all of them.
    """
    path = Path(path)
    text = read_text(path)
    problems: list[Problem] = []
    tree = parse(text, problems)
    if tree is None:
        raise report(str(path), text, overrides, problems)
    for index, argument in enumerate(overrides):
        override(tree, argument, index, problems)
    if "compare" in tree.entries and "dicm" not in tree.entries:
        raise RecipeError("is a comparison, not a recipe", where=str(path), todo=f"Run it with `dicm compare {path}`.")
    _check_format(tree, str(path), text, overrides)
    registry, unloaded = _registry(tree, path.parent, problems)
    reader = typed.Reader(registry, problems, unloaded)
    recipe = reader.recipe(tree)
    for found in checks.findings(recipe, reader.bad):
        problems.append(Problem(typed.mark_of(tree, found.path), found.what, found.todo))
    if problems:
        raise report(str(path), text, overrides, problems)
    _fill_shared(recipe)
    return LoadedRecipe(recipe, registry, path, text, tuple(overrides), tuple(reader.notes), tree)


def dump(recipe: Recipe, base: Path | None = None) -> str:
    """Returns the recipe as YAML with every key written out; it loads to the same recipe.

    Plugin files that are relative to `base`, the recipe's folder, are written absolute: the text may go elsewhere.
    """
    plain = _plain(recipe)
    if base is not None:
        plain["plugins"] = [str((base / each).resolve()) if is_file(each) else each for each in recipe.plugins]
    body = yaml.safe_dump(plain, sort_keys=False, default_flow_style=None, width=110, allow_unicode=True)
    return f"# Every key of the recipe, written by dicm_kit {__version__}.\n{body}"


def read_text(path: Path) -> str:
    """Returns a recipe's text; RecipeError with the nearest name when there is none."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        folder = path.parent
        beside = [each.name for each in folder.glob("*.y*ml")] if folder.is_dir() else []
        near = get_close_matches(path.name, beside, n=1)
        todo = f"Did you mean `{folder / near[0]}`?" if near else "Paths are looked up from the current folder."
        raise RecipeError("there is no such recipe", where=str(path), todo=todo) from None
    except UnicodeDecodeError as error:
        raise RecipeError(f"not a text file in UTF-8: {error.reason} at byte {error.start}", where=str(path)) from error
    except OSError as error:
        raise RecipeError(f"cannot be read: {error.strerror}", where=str(path)) from error


def _check_format(tree: Section, name: str, text: str, overrides: Sequence[str]) -> None:
    """Of another format nothing else can be judged, so this problem is reported alone."""
    entry = tree.entries.get("dicm")
    if entry is None or (isinstance(entry.value, Scalar) and entry.value.value == FORMAT):
        return
    if isinstance(entry.value, Scalar) and isinstance(entry.value.value, int):
        what = f"the recipe is written in format {entry.value.value}, this dicm_kit reads {FORMAT}"
        todo = "Use the dicm_kit it was written for, or compare it with docs/reference/recipe.md."
    else:
        what, todo = f"`dicm` must be {FORMAT}, the recipe format, got {described(entry.value)}", None
    raise report(name, text, overrides, [Problem(entry.mark, what, todo)])


def _registry(tree: Section, base: Path, problems: list[Problem]) -> tuple[Registry, list[str]]:
    """Returns a registry with the listed plugins that load, and the names of the others: problems at their lines."""
    registry = Registry(base)
    unloaded = []
    entry = tree.entries.get("plugins")
    for item in entry.value.items if entry and isinstance(entry.value, Items) else []:
        if isinstance(item, Scalar) and item.value is not None:
            try:
                registry.add(item.raw)
            except PluginError as error:
                unloaded.append(item.raw)
                problems.append(Problem(item.mark, error.what, error.todo))
    return registry, unloaded


def _fill_shared(recipe: Recipe) -> None:
    """Gives features that share another's encoder its name and config."""
    for section in recipe.features.history.values():
        if section.share is not None:
            side, column = section.share.split(".")
            other = getattr(recipe.features, side)[column]
            section.name, section.config = other.name, other.config


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        plain: dict[str, Any] = {}
        shared = getattr(value, "share", None) is not None
        for each in fields(value):
            inner = getattr(value, each.name)
            if each.name == "config" and hasattr(value, "kind"):
                plain.update({} if shared or inner is None else _plain(inner))
            elif not (each.name == "share" and not shared):
                plain[each.name] = _plain(inner)
        return plain
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return str(value) if isinstance(value, Path) else value


def find_recipe(name: str) -> Path:
    """Returns the file of a recipe that is given by its path, or by its name below `recipes/`."""
    for candidate in (Path(name), Path("recipes", name), Path("recipes", f"{name}.yaml")):
        if candidate.is_file():
            return candidate
    here = sorted([*Path("recipes").rglob("*.yaml"), *Path(name).parent.glob("*.yaml")])
    known = {str(each): each for each in here} | {each.stem: each for each in here}
    near = get_close_matches(name, known, n=1, cutoff=0.6)
    todo = f"Did you mean `{known[near[0]]}`?" if near else "Paths are looked up from the current folder."
    raise RecipeError("there is no such recipe", where=name, todo=todo)
