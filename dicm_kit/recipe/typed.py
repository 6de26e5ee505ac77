"""A recipe's tree -> typed dataclasses; collects every problem instead of stopping at the first.

Values are converted by OmegaConf's structured configs; here are the lines, the choice of a component by `name:`, and
the texts.
"""

import types
from collections.abc import Sequence
from dataclasses import MISSING, fields, is_dataclass, make_dataclass
from functools import cache
from typing import Any, Union, get_args, get_origin

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from dicm_kit.errors import FieldError, PluginError, did_you_mean, some
from dicm_kit.interfaces import Component, NestedAggregator
from dicm_kit.recipe.keys import Key, docs_of, is_text, keys_of, type_text, without_null
from dicm_kit.recipe.problems import Mark, Problem
from dicm_kit.recipe.schema import Recipe
from dicm_kit.recipe.tree import Entry, Items, Scalar, Section, Tree, described, scalars
from dicm_kit.registry import KINDS, Registry

Path = tuple[str | int, ...]
"""Keys and list positions from the top of the recipe: ("net", "hidden", 1)."""

_BAD: Any = object()
"""Stands for a value that has a problem."""


def dotted(path: Path) -> str:
    """Returns `net.hidden[1]`."""
    text = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path)
    return text.removeprefix(".")


def mark_of(root: Section, path: Path) -> Mark:
    """Returns where the value stands, or the nearest section above it that is written out."""
    tree: Tree = root
    mark = root.mark
    for step in path:
        if isinstance(tree, Section) and step in tree.entries:
            entry = tree.entries[str(step)]
            tree, mark = entry.value, entry.mark
        elif isinstance(tree, Items) and isinstance(step, int) and step < len(tree.items):
            tree = tree.items[step]
            mark = tree.mark
        else:
            break
    return mark


class Reader:
    """Reads sections; `problems` holds what is wrong, `bad` the paths that have no usable value, `notes` what a
    person should know though it is no mistake."""

    def __init__(self, registry: Registry, problems: list[Problem], unloaded: Sequence[str] = ()):
        self.problems = problems
        self.bad: set[Path] = set()
        self.notes: list[str] = []
        self._registry = registry
        self._unloaded = unloaded

    def recipe(self, tree: Section) -> Recipe:
        """Returns the recipe; where `problems` has grown, with None or defaults in the places at fault."""
        recipe = self.top(Recipe, tree)
        assert isinstance(recipe, Recipe)
        return recipe

    def top(self, section: type, tree: Section) -> Any:
        """Returns what the whole file holds, as this dataclass; with problems as `recipe` has them."""
        return self._section(section, tree, (), tree.mark)

    def config(self, component: Component[Any], tree: Section) -> Any:
        """Returns a component's config, whose keys alone stand in the section; with problems as `recipe` has them."""
        keys = self._config_keys(component, (), tree.mark)
        self._unknown_keys(component.config, None, {}, keys, tree, ())
        return self._made(
            component.config, self._fields(component.config, keys, tree, (), tree.mark), tree, (), tree.mark
        )

    def _problem(self, mark: Mark, path: Path, what: str, todo: str | None = None) -> Any:
        self.problems.append(Problem(mark, what, todo))
        self.bad.add(path)
        return _BAD

    # --- values ---

    def _value(self, key: Key, annotation: Any, tree: Tree, path: Path, mark: Mark) -> Any:
        inner, optional = without_null(annotation)
        if any(each.broken for each in scalars(tree)) and not is_dataclass(inner) and get_origin(inner) is not dict:
            self.bad.add(path)
            return _BAD
        if isinstance(tree, Scalar) and tree.raw == "???":
            todo = f"Write it into the recipe, or give it on the command line: `{dotted(path)}=...`."
            return self._problem(mark, path, f"`{dotted(path)}` must be given", todo)
        if optional and isinstance(tree, Scalar) and tree.value is None:
            return None
        origin, arguments = get_origin(inner), get_args(inner)
        if is_dataclass(inner):
            assert isinstance(inner, type)
            return self._section(inner, tree, path, mark)
        if origin is dict and isinstance(tree, Section):
            return self._mapping(key, arguments[1], tree, path)
        if origin in (list, tuple) and isinstance(tree, Items):
            return self._list(key, inner, tree, path)
        if isinstance(tree, Items) and (lists := _lists(inner)):  # `time: stamp` may be `time: [stamp, order]`
            return self._list(key, lists[0], tree, path)
        return self._leaf(key, annotation, tree, path, mark)

    def _mapping(self, key: Key, annotation: Any, tree: Section, path: Path) -> dict[str, Any]:
        values = {}
        for name, entry in tree.entries.items():
            if "." in name:  # `target.item_id` names a column, and overrides go by dots
                self._problem(entry.mark, (*path, name), f"`{name}` holds a dot", "Names here have none.")
                continue
            value = self._value(key, annotation, entry.value, (*path, name), entry.mark)
            if value is not _BAD:
                values[name] = value
        return values

    def _list(self, key: Key, annotation: Any, tree: Items, path: Path) -> Any:
        arguments = get_args(annotation)
        if get_origin(annotation) is tuple and Ellipsis not in arguments:
            if len(arguments) != len(tree.items):
                what = f"`{dotted(path)}` must be {type_text(annotation)}, got {len(tree.items)}"
                return self._problem(tree.mark, path, what, self._help(key))
            each = arguments
        else:
            each = (arguments[0],) * len(tree.items)
        pairs = enumerate(zip(each, tree.items, strict=True))
        values = [self._value(key, kind, item, (*path, index), item.mark) for index, (kind, item) in pairs]
        good = [value for value in values if value is not _BAD]
        return tuple(good) if get_origin(annotation) is tuple else good

    def _leaf(self, key: Key, annotation: Any, tree: Tree, path: Path, mark: Mark) -> Any:
        if any(each.raw == "???" for each in scalars(tree)):
            return self._problem(mark, path, f"`{dotted(path)}` must be given whole", "A part of it is `???`.")
        try:
            schema = _schema(_without_lists(annotation))
        except OmegaConfBaseException:
            text = type_text(annotation)
            return self._problem(mark, path, f"`{dotted(path)}` is of a type no recipe can give: {text}")
        try:
            value = OmegaConf.create({"value": _plain(tree, is_text(annotation))})
            return OmegaConf.to_object(OmegaConf.merge(schema, value)).value  # type: ignore[union-attr]
        except (OmegaConfBaseException, TypeError, ValueError, OverflowError):
            what = f"`{dotted(path)}` must be {type_text(annotation)}, got {described(tree)}"
            return self._problem(mark, path, what, self._help(key, annotation, tree))

    def _help(self, key: Key, annotation: Any = None, tree: Tree | None = None) -> str | None:
        words = []
        if isinstance(tree, Scalar) and isinstance(tree.value, str):
            allowed = [each for each in get_args(without_null(annotation)[0]) if isinstance(each, str)]
            words.append(did_you_mean(tree.value, allowed))
        if not key.required and not is_dataclass(key.default):
            words.append(f"Default: {'null' if key.default is None else repr(key.default)}.")
        return " ".join(word for word in words if word) or None

    # --- sections ---

    def _section(self, section: type, tree: Tree, path: Path, mark: Mark) -> Any:
        kind: str | None = getattr(section, "kind", None)
        if not isinstance(tree, Section):
            todo = "Leave it out, or write its keys."
            if kind:
                todo = f"Write it like `{path[-1]}: {{name: {tree.raw if isinstance(tree, Scalar) else '...'}}}`."
            return self._problem(mark, path, f"`{dotted(path)}` must be a section, got {described(tree)}", todo)
        own = keys_of(section)
        component = self._component(kind, own, tree, path, mark) if kind else None
        theirs = self._config_keys(component, path, mark) if component else {}
        for name in sorted(own.keys() & theirs.keys()):
            what = f"`{name}` is a key of `{dotted(path)}` itself and of the chosen component"
            self._problem(mark, (*path, name), what, "Its plugin must rename it.")
        self._unknown_keys(section, component, own, theirs, tree, path)
        if _shares(own, tree):
            own["name"] = Key("name", str, None)
        values = self._fields(section, own, tree, path, mark)
        if component is not None:
            config = self._fields(component.config, theirs, tree, path, mark)
            values["config"] = self._made(component.config, config, tree, path, mark)
        made = self._made(section, values, tree, path, mark)
        if isinstance(made, NestedAggregator) and component is not None:
            build, name = self._registry.build, component.name
            # No `partial`: a function is copied as it is where a config is copied, a bound method with its registry.
            made.bind(str(path[-1]), lambda shapes: build(made.kind, name, made.config, shapes))
        return made

    def _component(
        self, kind: str, own: dict[str, Key], tree: Section, path: Path, mark: Mark
    ) -> Component[Any] | None:
        entry = tree.entries.get("name")
        if _shares(own, tree):
            return None  # the other feature's encoder is used
        if entry is None or not isinstance(entry.value, Scalar) or entry.value.value is None or entry.value.broken:
            return None  # reported where it is read
        try:
            return self._registry.find(kind, entry.value.raw)
        except PluginError as error:
            maybe = f" Or it comes from {some(self._unloaded)}, which did not load." if self._unloaded else ""
            self._problem(entry.mark, (*path, "name"), error.what, f"{error.todo}{maybe}")
            return None

    def _config_keys(self, component: Component[Any], path: Path, mark: Mark) -> dict[str, Key]:
        try:
            return keys_of(component.config)
        except (NameError, TypeError) as error:  # annotations that mean nothing
            what = f"the config of `{component.name}` has a type that cannot be resolved: {error}"
            self._problem(mark, path, what, "Its plugin must be mended.")
            return {}

    def _unknown_keys(
        self,
        section: type,
        component: Component[Any] | None,
        own: dict[str, Key],
        theirs: dict[str, Key],
        tree: Section,
        path: Path,
    ) -> None:
        kind = getattr(section, "kind", None)
        shared = _shares(own, tree)
        if kind and component is None and not shared:
            return  # nobody knows its keys
        left_over = self._left_over(kind, tree) if kind else set()
        known = {**own, **theirs}
        for name, entry in tree.entries.items():
            if name in known:
                continue
            if name in left_over and entry.mark.line is not None:
                self.notes.append(f"`{dotted((*path, name))}` is left out: {component.name} has no such key")  # type: ignore[union-attr]
                continue
            if shared:
                todo = "The feature it shares with says it."
                self._problem(entry.mark, (*path, name), f"`{name}` has no effect beside `share`", todo)
                continue
            place = f" in `{dotted(path)}`" if path else ""
            if component is not None:
                place = f" in {KINDS[str(kind)].noun} `{component.name}`"
            self._unknown_key(name, entry, place, known, path)

    def _left_over(self, kind: str, tree: Section) -> set[str]:
        """Returns the keys of the component that an override of `name` replaced."""
        replaced = [each.component for each in self._registry.provided(kind) if each.component.name == tree.was]
        return set(keys_of(replaced[0].config)) if replaced else set()

    def _unknown_key(self, name: str, entry: Entry, place: str, known: dict[str, Key], path: Path) -> None:
        names = sorted(known.keys() - {"name"})
        near = did_you_mean(name, names)
        keys = f"Keys here: {some(names, 25)}." if names else "It has no keys."
        self._problem(
            entry.mark, (*path, name), f"unknown key `{name}`{place}", " ".join(word for word in (near, keys) if word)
        )

    def _fields(self, section: type, keys: dict[str, Key], tree: Section, path: Path, mark: Mark) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for name, key in keys.items():
            here = (*path, name)
            entry = tree.entries.get(name)
            if entry is None:
                value = key.default
                if key.required:
                    doc = docs_of(section).get(name, "")
                    value = self._problem(mark, here, f"`{dotted(here)}` is missing", doc or None)
            else:
                value = self._value(key, key.type, entry.value, here, entry.mark)
            if value is _BAD:
                value = None if key.required else key.default
            values[name] = value
        return values

    def _made(self, cls: type, values: dict[str, Any], tree: Section, path: Path, mark: Mark) -> Any:
        """Returns the dataclass; without running its checks where a value of it is bad already."""
        if not any(bad[: len(path)] == path for bad in self.bad):
            try:
                return cls(**values)
            except FieldError as error:
                place = tree.entries.get(error.field)
                name = dotted((*path, error.field))
                self._problem(
                    place.mark if place else mark, (*path, error.field), f"`{name}`: {error.what}", error.todo
                )
            except ValueError as error:
                self._problem(mark, path, f"`{dotted(path)}`: {error}")
        partial: Any = object.__new__(cls)
        for each in fields(cls):
            default = None if each.default is MISSING else each.default
            object.__setattr__(partial, each.name, values.get(each.name, default))
        return partial


def _shares(own: dict[str, Key], tree: Section) -> bool:
    """Returns whether a feature uses another one's encoder; `share: null` is as good as nothing."""
    entry = tree.entries.get("share")
    return "share" in own and entry is not None and not (isinstance(entry.value, Scalar) and entry.value.value is None)


def _lists(annotation: Any) -> list[Any]:
    """Returns the lists among the types that a value may be of."""
    is_choice = get_origin(annotation) in (Union, types.UnionType)
    return [each for each in get_args(annotation) if get_origin(each) is list] if is_choice else []


def _without_lists(annotation: Any) -> Any:
    lists = _lists(annotation)
    return Union[tuple(each for each in get_args(annotation) if each not in lists)] if lists else annotation  # noqa: UP007


@cache
def _schema(annotation: Any) -> Any:
    """Returns OmegaConf's schema of one value of this type."""
    return OmegaConf.structured(make_dataclass("Leaf", [("value", annotation)]))


def _plain(tree: Tree, as_text: bool) -> Any:
    if isinstance(tree, Scalar):
        return tree.raw if as_text and tree.value is not None else tree.value
    if isinstance(tree, Items):
        return [_plain(item, as_text) for item in tree.items]
    return {name: _plain(entry.value, as_text) for name, entry in tree.entries.items()}
