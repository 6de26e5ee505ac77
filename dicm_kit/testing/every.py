"""Checks of every kind of component: it builds, and its config is what a recipe can be explained from."""

import copy
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from dicm_kit.recipe.keys import docs_of, keys_of, without_null
from dicm_kit.testing.check import EVERY, Failed, check


@check(*EVERY, compares=False, calls=False)
def builds(setting: Any) -> None:
    """It builds from the config and is what its interface says, with every attribute set."""
    built = setting.build()
    width = getattr(built, "out_dim", 1)
    if not isinstance(width, int) or width < 1:
        raise Failed(f"`out_dim` is {width!r}; set it to the width of the vectors, a whole number of at least 1")
    for name in ("uses_target", "uses_order", "frozen", "requires_untargeted", "uses_batch"):
        value = getattr(built, name, False)
        if not isinstance(value, bool):
            raise Failed(f"`{name}` is {value!r}; set it to True or False")


@check(*EVERY, compares=False, calls=False)
def build_leaves_the_config_alone(setting: Any) -> None:
    """`build` changes nothing in the config: a recipe's component is built more than once from it."""
    config = copy.deepcopy(setting.subject.config)
    before = copy.deepcopy(config)
    setting.subject.component.build(config, setting.shapes)
    for each in fields(config):
        if getattr(config, each.name) != getattr(before, each.name):
            raise Failed(
                f"`build` changed the config's `{each.name}` from {getattr(before, each.name)!r} to"
                f" {getattr(config, each.name)!r}; work on a copy"
            )


@check(*EVERY, once=True, compares=False, calls=False)
def config_is_documented(setting: Any) -> None:
    """The config is a dataclass with a docstring, and has one under each field: `dicm explain` prints them."""
    missing = list(_undocumented(setting.subject.component.config))
    if missing:
        raise Failed(f"no docstring: {', '.join(missing)}; write it under the line, it is what `dicm explain` prints")


def _undocumented(config: type, path: str = "") -> Iterator[str]:
    docs = docs_of(config)
    if not docs[""] or docs[""].startswith(f"{config.__name__}("):  # the one that `dataclass` makes
        yield f"class `{config.__name__}`"
    for key in keys_of(config).values():
        here = f"{path}.{key.name}".removeprefix(".")
        if not docs.get(key.name):
            yield f"`{here}`"
        inner = without_null(key.type)[0]
        if is_dataclass(inner) and isinstance(inner, type):
            yield from _undocumented(inner, here)
