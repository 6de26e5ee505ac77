"""Loads plugins and answers "who is called X?". Our own components come through the same door.

Entry points are iterated here and not by pluggy, which would drop the second of two equal names in silence; each hook
is called by itself, so that an error is attributed to its plugin.
"""

import importlib
import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, field, is_dataclass, replace
from difflib import get_close_matches
from hashlib import sha256
from importlib.metadata import Distribution, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any

import pluggy

from dicm_kit import __version__, hookspecs
from dicm_kit.errors import DicmError, PluginError, did_you_mean, some
from dicm_kit.interfaces import BaseNet, Component, DataSource, FeatureEncoder, ImageBackbone, InterestAggregator

GROUP = "dicm_kit"
"""The entry-point group in which a distribution names its plugin modules."""


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
class Plugin:
    """Where components come from: an installed distribution, a file, or dicm_kit itself."""

    name: str
    """As a recipe lists it: `dicm-din` or `./my_aggregator.py`."""
    version: str | None
    file: str | None = field(default=None, compare=False)
    """Its module, as far as it is known."""
    code: str | None = field(default=None, compare=False)
    """A hash of its Python files; None for dicm_kit itself."""

    def __str__(self) -> str:
        return f"{self.name} {self.version}" if self.version else self.name

    @property
    def told(self) -> str:
        """As errors call it, so that it can be found and mended: with its file, where its name is not that already."""
        return f"{self} ({self.file})" if self.version and self.file else str(self)


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
        if is_file(listed):
            plugin, modules = _file_plugin(listed, self._base)
        else:
            plugin, modules = _installed_plugin(listed)
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
                f"{noun} `{name}` of plugin {plugin.told} could not be built: {_reason(error)}",
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
        return f"{f'{near} ' if near else ''}Known: {some(known, 20)}. See `dicm ls {kind}`."

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
            reason = str(error).strip().splitlines()[-1]
            raise PluginError(
                f"plugin {plugin.told} has a hook that cannot be called: {reason}", todo="Hooks take no arguments."
            ) from error
        for hook in hooks:
            try:
                components = getattr(module, hook)()
            except Exception as error:
                raise PluginError(
                    f"`{hook}` of plugin {plugin.told} failed: {_reason(error)}", todo="A hook only returns a list."
                ) from error
            yield from ((HOOKS[hook], each) for each in _checked(plugin, hook, components))


def is_file(listed: str) -> bool:
    """Returns whether an entry of `plugins:` names a file, not an installed distribution."""
    return listed.endswith(".py") or "/" in listed or os.sep in listed


def installed() -> dict[str, Distribution]:
    """Returns the distributions that declare plugins, by normalised name."""
    found = (point.dist for point in entry_points(group=GROUP))
    return {_normalised(dist.name): dist for dist in found if dist is not None}


def installed_as(listed: str) -> str | None:
    """Returns name, version and file of an installed plugin, as errors call it, without importing it."""
    dist = None if is_file(listed) else installed().get(_normalised(listed))
    return _plugin_of(dist).told if dist is not None else None


def unlisted(listed: list[Plugin]) -> Iterator[Registry]:
    """Yields a registry for each installed plugin that is not listed and loads; those that fail are passed over.

    It imports them, so it is for suggestions once something is wrong.
    """
    known = {_normalised(plugin.name) for plugin in listed}
    for name in sorted(installed().keys() - known):
        registry = Registry()
        try:
            registry.add(name)
        except PluginError:
            continue
        yield registry


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def _imported(plugin: Plugin, name: str, file: Path | None = None) -> ModuleType:
    """Returns the module, imported by name or executed from `file`."""
    try:
        if file is None:
            return importlib.import_module(name)
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module  # dataclasses and inspect look a class's module up by name
        spec.loader.exec_module(module)
        return module
    except (Exception, SystemExit) as error:
        sys.modules.pop(name, None)
        last = traceback.extract_tb(error.__traceback__)[-1]
        is_its_own = last.filename in (str(file), plugin.file)
        place = f" ({Path(last.filename).name}, line {last.lineno})" if is_its_own else ""
        mend = "Repair it" if file else "Repair its installation"
        raise PluginError(
            f"plugin {plugin.told} failed while it was imported: {_reason(error)}{place}",
            todo=f"{mend}, or drop it from `plugins:`.",
        ) from error


def _file_plugin(listed: str, base: Path) -> tuple[Plugin, list[ModuleType]]:
    file = (base / Path(listed).expanduser()).resolve()
    if not file.is_file():
        beside = [f"./{each.name}" for each in file.parent.glob("*.py")] if file.parent.is_dir() else []
        near = get_close_matches(f"./{file.name}", beside, n=1)
        raise PluginError(
            f"plugin file `{listed}` does not exist",
            todo=f"Did you mean `{near[0]}`?" if near else "Files are looked up from the recipe's folder.",
        )
    if file.suffix != ".py":
        raise PluginError(f"plugin file `{listed}` is no Python file", todo="List a file that ends in `.py`.")
    plugin = Plugin(listed, None, str(file), _hash_of([file]))
    name = f"dicm_plugin_{re.sub(r'[^0-9a-zA-Z_]', '_', file.stem)}_{sha256(str(file).encode()).hexdigest()[:8]}"
    return plugin, [_imported(plugin, name, file)]


def _installed_plugin(listed: str) -> tuple[Plugin, list[ModuleType]]:
    known = installed()
    dist = known.get(_normalised(listed))
    if dist is None:
        raise _not_installed(listed, sorted(known))
    names = _modules_of(dist)
    plugin = _plugin_of(dist)
    modules = [_imported(plugin, name) for name in names]
    return replace(plugin, code=_hash_of(_files_of(modules))), modules


def _modules_of(dist: Distribution) -> list[str]:
    return list(dict.fromkeys(point.module for point in dist.entry_points.select(group=GROUP)))


def _plugin_of(dist: Distribution) -> Plugin:
    return Plugin(dist.name, dist.version, _file_of(_modules_of(dist)[0]))


def _file_of(module: str) -> str | None:
    """Returns where a module would be imported from, without importing it."""
    try:
        spec = importlib.util.find_spec(module.partition(".")[0])
    except (ImportError, ValueError):
        return None
    return spec.origin if spec is not None else None


def _files_of(modules: list[ModuleType]) -> list[Path]:
    """Returns the Python files of the packages that the modules are in, or the modules' own."""
    files = set[Path]()
    for module in modules:
        package = sys.modules[module.__name__.partition(".")[0]]
        for folder in getattr(package, "__path__", ()):
            files.update(Path(folder).rglob("*.py"))
        if not hasattr(package, "__path__") and module.__file__ is not None:
            files.add(Path(module.__file__))
    return sorted(files)


def _hash_of(files: list[Path]) -> str:
    return sha256(b"\0".join(sha256(file.read_bytes()).digest() for file in files)).hexdigest()


def _not_installed(listed: str, known: list[str]) -> PluginError:
    """Never says to install `listed`: a recipe may come from anyone, and the name may be a typo."""
    try:
        importlib.metadata.distribution(listed)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        near = did_you_mean(listed, known)
        names = f"Installed: {some(known)}." if known else "No plugin is installed."
        return PluginError(
            f"plugin `{listed}` is not installed",
            todo=f"{f'{near} ' if near else ''}{names} Known plugins: docs/plugins/directory.md.",
        )
    return PluginError(
        f"`{listed}` is installed, but it is no plugin",
        todo=f"It declares no entry point in the group `{GROUP}`; see docs/plugins/writing_a_plugin.md.",
    )


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
