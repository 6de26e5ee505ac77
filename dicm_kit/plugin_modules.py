"""A plugin as a recipe lists it -> its modules, imported, and what is known of where they came from.

Entry points are iterated here and not by pluggy, which would drop the second of two equal names in silence.
"""

import importlib
import importlib.util
import os
import re
import sys
import traceback
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from hashlib import sha256
from importlib.metadata import Distribution, entry_points
from pathlib import Path
from types import ModuleType

from dicm_kit.errors import PluginError, some

GROUP = "dicm_kit"
"""The entry-point group in which a distribution names its plugin modules."""


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


def load_modules(listed: str, base: Path) -> tuple[Plugin, list[ModuleType]]:
    """Returns the plugin and its modules: an installed distribution by name, or a Python file relative to `base`.

    Raises:
        PluginError: it is not there, or fails while it is imported.
    """
    return _file_plugin(listed, base) if is_file(listed) else _installed_plugin(listed, base)


def is_file(listed: str) -> bool:
    """Returns whether an entry of `plugins:` names a file, not an installed distribution."""
    return listed.endswith(".py") or "/" in listed or os.sep in listed


def installed() -> dict[str, Distribution]:
    """Returns the distributions that declare plugins, by normalised name."""
    found = (point.dist for point in entry_points(group=GROUP))
    return {normalised(dist.name): dist for dist in found if dist is not None}


def installed_as(listed: str) -> str | None:
    """Returns name, version and file of an installed plugin, as errors call it, without importing it."""
    dist = None if is_file(listed) else installed().get(normalised(listed))
    return _plugin_of(dist).told if dist is not None else None


def file_called(listed: str, base: Path) -> str | None:
    """Returns the file that a plugin of this name would have, as it is listed: in `base`, or in a folder of its own."""
    module = normalised(listed).replace("-", "_")
    paths = (Path(f"{module}.py"), Path(listed, f"{module}.py"), Path(module, f"{module}.py"))
    return next((f"./{path}" for path in paths if (base / path).is_file()), None)


def normalised(name: str) -> str:
    """Returns a distribution's name as all spellings of it have it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def reason(error: BaseException) -> str:
    """Returns an error as messages tell it."""
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
            f"plugin {plugin.told} failed while it was imported: {reason(error)}{place}",
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


def _installed_plugin(listed: str, base: Path) -> tuple[Plugin, list[ModuleType]]:
    known = installed()
    dist = known.get(normalised(listed))
    if dist is None:
        raise _not_installed(listed, sorted(known), base)
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


def _not_installed(listed: str, known: list[str], base: Path) -> PluginError:
    """Never says to install `listed` by name: a recipe may come from anyone, and the name may be a typo."""
    try:
        importlib.metadata.distribution(listed)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        what = f"plugin `{listed}` is not installed"
        file = file_called(listed, base)
        if file is not None:
            folder = Path(file).parent
            return PluginError(
                what,
                todo=f"Its file is here: name that, `{file}`; or install it: `pip install -e {folder}`.",
            )
        names = f"Installed: {some(known)}." if known else "No plugin is installed."
        return PluginError(what, todo=f"{_near(listed, known)}{names} Known plugins: docs/plugins/directory.md.")
    return PluginError(
        f"`{listed}` is installed, but it is no plugin",
        todo=f"It declares no entry point in the group `{GROUP}`; see docs/plugins/writing_a_plugin.md.",
    )


def _near(listed: str, known: list[str]) -> str:
    """Returns "Did you mean `dicm-din`? ", or nothing; `dicm-`, which most names begin with, makes no two alike."""
    by_rest = {each.removeprefix("dicm-"): each for each in known}
    near = get_close_matches(normalised(listed).removeprefix("dicm-"), by_rest, n=2)
    return f"Did you mean {' or '.join(f'`{by_rest[each]}`' for each in near)}? " if near else ""
