"""Copies a recipe's text to another place, with its plugin files still found from there."""

import os
from pathlib import Path

import yaml

from dicm_kit.errors import RecipeError
from dicm_kit.plugin_modules import is_file
from dicm_kit.recipe.problems import Problem, report
from dicm_kit.recipe.tree import parse


def copy_recipe(recipe: Path, target: Path, force: bool = False) -> Path:
    """Returns the file written: `target`, or a file of the same name in it when it is a folder.

    Comments and order stay. Of the text only relative paths under `plugins:` change.

    Raises:
        RecipeError: the recipe is no YAML, or there is a file already and no `force`.
    """
    target = target / recipe.name if target.is_dir() else target
    if target.suffix not in (".yaml", ".yml"):
        raise RecipeError("a recipe's name ends in `.yaml`", where=str(target), todo=f"Write `{target}.yaml`.")
    if target.exists() and not force:
        raise RecipeError("there is a file already", where=str(target), todo="Give another name, or --force.")
    if not target.parent.is_dir():
        raise RecipeError("its folder does not exist", where=str(target), todo=f"Make `{target.parent}` first.")
    text = recipe.read_text(encoding="utf-8")
    problems: list[Problem] = []
    if parse(text, problems) is None:
        raise report(str(recipe), text, (), problems)
    for start, end, listed in reversed(_plugin_files(text)):
        moved = os.path.relpath(recipe.parent / listed, target.parent).replace(os.sep, "/")
        text = f"{text[:start]}{moved if moved.startswith('.') else f'./{moved}'}{text[end:]}"
    target.write_text(text, encoding="utf-8")
    return target


def _plugin_files(text: str) -> list[tuple[int, int, str]]:
    """Returns start, end and path of each relative plugin file in the text."""
    root = yaml.compose(text, Loader=yaml.BaseLoader)
    assert isinstance(root, yaml.MappingNode)
    found = []
    for key, value in root.value:
        if key.value == "plugins" and isinstance(value, yaml.SequenceNode):
            for item in value.value:
                if is_file(item.value) and not Path(item.value).expanduser().is_absolute():
                    found.append((item.start_mark.index, item.end_mark.index, item.value))
    return found
