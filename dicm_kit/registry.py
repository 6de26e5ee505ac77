"""The components of plugins, and who is called X? Our own components come through the same door.

Each hook is called by itself, so that an error is attributed to its plugin.
"""

import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy

from dicm_kit import __version__, hookspecs
from dicm_kit.errors import DicmError, PluginError, did_you_mean, some
from dicm_kit.interfaces import BaseNet, Component, DataSource, FeatureEncoder, ImageBackbone, InterestAggregator
from dicm_kit.plugin_modules import Plugin, installed, load_modules, normalised, reason


@dataclass(frozen=True)
class Kind:
    """One extension point."""

    name: str
    """As the command line and `find` call it."""
    noun: str
    """As messages call it."""
    hook: str
    interface: type


KINDS = {
    kind.name: kind
    for kind in (
        Kind("feature_encoder", "encoder", "dicm_feature_encoders", FeatureEncoder),
        Kind("image_backbone", "backbone", "dicm_image_backbones", ImageBackbone),
        Kind("interest_aggregator", "aggregator", "dicm_interest_aggregators", InterestAggregator),
        Kind("base_net", "base net", "dicm_base_nets", BaseNet),
        Kind("data_source", "data source", "dicm_data_sources", DataSource),
    )
}
HOOKS = {kind.hook: kind for kind in KINDS.values()}


@dataclass(frozen=True)
class Provided:
    """A component and the plugin it comes from."""

    kind: Kind
    component: Component[Any]
    plugin: Plugin


BUILTIN = Plugin("dicm_kit", __version__)


class Registry:
    """The components of one run: the built-in ones and those of the plugins its recipe lists."""

    def __init__(self, base: Path = Path()):
        self.plugins: list[Plugin] = []
        self._base = base
        self._provided: dict[tuple[str, str], Provided] = {}
        self._manager = pluggy.PluginManager(hookspecs.hookspec.project_name)
        self._manager.add_hookspecs(hookspecs)
        # By its name: import contracts keep this file from knowing the components.
        self._register(BUILTIN, [importlib.import_module("dicm_kit.builtin")])

    @classmethod
    def load(cls, plugins: list[str], base: Path) -> "Registry":
        """Returns the built-in components and those of `plugins`; files are relative to `base`, the recipe's folder.

        Raises:
            PluginError: the first plugin that cannot be loaded, or takes a name that is taken.
        """
        registry = cls(base)
        for listed in plugins:
            registry.add(listed)
        return registry

    def add(self, listed: str) -> None:
        """Loads one plugin, an installed distribution by name or a Python file.

        Raises:
            PluginError: it is not there, fails, breaks a rule, or provides a name that is taken; nothing is added.
        """
        plugin, modules = load_modules(listed, self._base)
        if plugin in self.plugins:
            raise PluginError(f"plugin {plugin.told} is listed twice", todo="List it once.")
        self._register(plugin, modules)

    def find(self, kind: str, name: str) -> Component[Any]:
        """Returns the component of this kind and name.

        Raises:
            PluginError: nothing is called so; it names an installed plugin that would provide it, or near names.
        """
        if (kind, name) in self._provided:
            return self._provided[kind, name].component
        raise PluginError(f"no {KINDS[kind].noun} is called `{name}`", todo=self._suggestion(kind, name))

    def provided(self, kind: str | None = None) -> list[Provided]:
        """Returns everything known, or everything of one kind, by kind and name."""
        order = list(KINDS)
        listed = [each for each in self._provided.values() if kind in (None, each.kind.name)]
        return sorted(listed, key=lambda each: (order.index(each.kind.name), each.component.name))

    def owner(self, kind: str, name: str) -> Provided:
        """Returns a component that was found before, with its plugin."""
        return self._provided[kind, name]

    def build(self, kind: str, name: str, config: Any, shapes: Any) -> Any:
        """Returns the built component, after a look whether it is what its interface promises.

        Raises:
            FieldError: the component refuses a value of its config.
            PluginError: a plugin's component failed, or is something else.
        """
        provided = self._provided[kind, name]
        noun, interface, plugin = provided.kind.noun, provided.kind.interface, provided.plugin
        try:
            built = provided.component.build(config, shapes)
        except (DicmError, MemoryError):
            raise
        except Exception as error:
            if plugin == BUILTIN:
                raise  # our mistake: its traceback is wanted
            raise PluginError(
                f"{noun} `{name}` of plugin {plugin.told} could not be built: {reason(error)}",
                todo=f"Its `build` is to be mended; `dicm check {plugin.name}` shows where it fails.",
            ) from error
        if not isinstance(built, interface):
            raise PluginError(
                f"{noun} `{name}` of plugin {plugin.told} built a {type(built).__name__}, no {interface.__name__}",
                todo=f"Subclass `dicm_kit.{interface.__name__}`.",
            )
        made = type(built)  # asked first: a property may be costly
        unset = [each for each in interface.__annotations__ if not (hasattr(made, each) or hasattr(built, each))]
        if unset:
            raise PluginError(
                f"{noun} `{name}` of plugin {plugin.told} does not set {some(f'`{each}`' for each in unset)}",
                todo=f"`{interface.__name__}` in dicm_kit/interfaces.py says what they are.",
            )
        return built

    def _suggestion(self, kind: str, name: str) -> str:
        for registry in unlisted(self.plugins):
            if (kind, name) in registry._provided:
                owner = registry._provided[kind, name].plugin
                return (
                    f"`{name}` comes from the installed plugin `{owner.name}`. Add `- {owner.name}` under `plugins:`."
                )
        known = [each.component.name for each in self.provided(kind)]
        near = did_you_mean(name, known)
        return (
            f"{f'{near} ' if near else ''}Known: {some(known, 20)}. See `dicm ls {kind}`. "
            "That of a plugin is found where the recipe lists the plugin, by file or name, under `plugins:`."
        )

    def _register(self, plugin: Plugin, modules: list[ModuleType]) -> None:
        found: dict[tuple[str, str], Provided] = {}
        for module in modules:
            _check_api(plugin, module)
            for kind, component in self._components(plugin, module):
                key = (kind.name, component.name)
                if key in found:
                    raise PluginError(
                        f"plugin {plugin.told} provides the {kind.noun} `{component.name}` twice", todo="Rename one."
                    )
                if key in self._provided:
                    raise _taken(plugin, self._provided[key])
                found[key] = Provided(kind, component, plugin)
        self._provided.update(found)
        self.plugins.append(plugin)
        if os.environ.get("DICM_TRACE_PLUGINS") == "1":
            names = ", ".join(f"{kind}/{name}" for kind, name in found)
            print(f"dicm: plugin {plugin} from {modules[0].__file__} provides {names}", file=sys.stderr)

    def _components(self, plugin: Plugin, module: ModuleType) -> Iterator[tuple[Kind, Component[Any]]]:
        hooks = _hooks(self._manager, plugin, module)
        try:
            self._manager.register(module, name=f"{plugin.name}:{module.__name__}")
            self._manager.check_pending()
        except pluggy.PluginValidationError as error:
            last = str(error).strip().splitlines()[-1]
            raise PluginError(
                f"plugin {plugin.told} has a hook that cannot be called: {last}", todo="Hooks take no arguments."
            ) from error
        for hook in hooks:
            try:
                components = getattr(module, hook)()
            except Exception as error:
                raise PluginError(
                    f"`{hook}` of plugin {plugin.told} failed: {reason(error)}", todo="A hook only returns a list."
                ) from error
            yield from ((HOOKS[hook], each) for each in _checked(plugin, hook, components))


def unlisted(listed: list[Plugin]) -> Iterator[Registry]:
    """Yields a registry for each installed plugin that is not listed and loads; those that fail are passed over.

    It imports them, so it is for suggestions once something is wrong.
    """
    known = {normalised(plugin.name) for plugin in listed}
    for name in sorted(installed().keys() - known):
        registry = Registry()
        try:
            registry.add(name)
        except PluginError:
            continue
        yield registry


def _check_api(plugin: Plugin, module: ModuleType) -> None:
    ours, theirs = hookspecs.HOOK_API, getattr(module, "dicm_api", None)
    if theirs is None:
        raise PluginError(
            f"plugin {plugin.told} does not say which plugin API it is written for",
            todo=f"Add `dicm_api = {ours}` to it; `dicm check {plugin.name}` tells whether it fits.",
        )
    if theirs != ours:
        older = isinstance(theirs, int) and theirs < ours
        raise PluginError(
            f"plugin {plugin.told} is written for plugin API {theirs}, this dicm_kit speaks {ours}",
            todo=f"Upgrade {plugin.name if older else 'dicm_kit'}; docs/plugins/api_versions.md lists what changed.",
        )


def _hooks(manager: pluggy.PluginManager, plugin: Plugin, module: ModuleType) -> list[str]:
    """Returns the hooks that the module implements; pluggy alone takes a misspelt hook or none at all in silence."""
    marked = [name for name in dir(module) if manager.parse_hookimpl_opts(module, name) is not None]
    for name in marked:
        if name not in HOOKS:
            near = did_you_mean(name, HOOKS)
            raise PluginError(
                f"plugin {plugin.told} implements `{name}`, which is not a hook",
                todo=f"{f'{near} ' if near else ''}Hooks: {', '.join(sorted(HOOKS))}.",
            )
    for name in HOOKS:
        if name not in marked and callable(getattr(module, name, None)):
            raise PluginError(
                f"plugin {plugin.told} has `{name}` without `@hookimpl`", todo=f"Put `@hookimpl` above `def {name}():`."
            )
    if not marked:
        raise PluginError(
            f"plugin {plugin.told} implements no hook",
            todo="Put `@hookimpl` above the function that returns its components.",
        )
    return marked


def _checked(plugin: Plugin, hook: str, components: object) -> list[Component[Any]]:
    if not isinstance(components, list) or not all(isinstance(each, Component) for each in components):
        wrong = components
        if isinstance(components, list):
            wrong = next(each for each in components if not isinstance(each, Component))
        raise PluginError(
            f"`{hook}` of plugin {plugin.told} must return a list of `Component`, got a {type(wrong).__name__}",
            todo="Write `return [Component(name=..., config=..., build=...)]`.",
        )
    for each in components:
        if not isinstance(each.name, str) or not re.fullmatch(r"[a-z][a-z0-9_]*", each.name):
            raise PluginError(
                f"`{hook}` of plugin {plugin.told} names a component {each.name!r}",
                todo="Names are small letters, digits and underscores, such as `two_tower`.",
            )
        if not (isinstance(each.config, type) and is_dataclass(each.config)):
            raise PluginError(
                f"the config of `{each.name}` in plugin {plugin.told} is no dataclass",
                todo="Its fields are the recipe's keys; see docs/plugins/writing_a_plugin.md.",
            )
    return components


def _taken(plugin: Plugin, first: Provided) -> PluginError:
    names = f"the {first.kind.noun} `{first.component.name}`"
    rename = (
        f"Rename it in {plugin.name}." if first.plugin == BUILTIN else "Rename one, or list only one under `plugins:`."
    )
    return PluginError(
        f"two plugins provide {names}: {first.plugin.told} and {plugin.told}",
        todo=f"Names are never overwritten. {rename}",
    )
