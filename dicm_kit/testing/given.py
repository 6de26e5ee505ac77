"""A config as a recipe would write it -> the component's dataclass, by the rules of recipes."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from dicm_kit.interfaces import Component
from dicm_kit.recipe.problems import Problem, report
from dicm_kit.recipe.tree import override, parse
from dicm_kit.recipe.typed import Reader
from dicm_kit.registry import Registry


def config_of(component: Component[Any], given: Mapping[str, Any], overrides: Sequence[str] = ()) -> Any:
    """Returns the config of keys as a recipe would write them beside `name:`, with `key=value` overrides put in.

    Raises:
        RecipeError: a key that the config has not, one that is missing, or a value of another type; all at once.
    """
    problems: list[Problem] = []
    text = yaml.safe_dump(_plain(given), sort_keys=False)
    tree = parse(text, problems)
    assert tree is not None
    for index, argument in enumerate(overrides):
        override(tree, argument, index, problems)
    config = Reader(Registry(), problems).config(component, tree)
    if problems:
        raise report(f"config of `{component.name}`", text, overrides, problems)
    return config


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return str(value) if isinstance(value, Path) else value
