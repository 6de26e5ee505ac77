"""A component sent to another process: its modules by file, since a plugin file is no module that can be found."""

import importlib
import importlib.util
import pickle
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dicm_kit.interfaces import Component
from dicm_kit.registry import KINDS
from dicm_kit.testing.check import Failed
from dicm_kit.testing.subject import Setting, Subject


@dataclass(frozen=True)
class Parcel:
    """What another process needs to make a setting again."""

    kind: str
    name: str
    """Of the component."""
    modules: tuple[tuple[str, str | None], ...]
    """Name and file of those that define it."""
    component: bytes | None
    """Pickled; None: the hook of the first module gives it."""
    given: Mapping[str, Any]
    overrides: tuple[str, ...]
    shapes: tuple[Any, ...]
    setting: str
    """Name of the setting."""


def packed(setting: Setting[Any]) -> Parcel:
    """Returns a setting to be sent.

    Raises:
        Failed: nothing in its module leads to the component.
    """
    subject = setting.subject
    component = subject.component
    modules = modules_of(component)
    pickled = None if _from_hook(modules, subject.kind, component.name) is not None else _pickled(component)
    return Parcel(
        subject.kind,
        component.name,
        modules,
        pickled,
        dict(subject.given),
        subject.overrides,
        subject.shapes,
        setting.name,
    )


def unpacked(parcel: Parcel) -> Setting[Any]:
    """Returns the setting, in the process that got it."""
    for name, file in parcel.modules:
        _imported(name, file)
    if parcel.component is not None:
        component = pickle.loads(parcel.component)
    else:
        component = _from_hook(parcel.modules, parcel.kind, parcel.name)
    subject = Subject(parcel.kind, component, parcel.given, parcel.overrides, shapes=parcel.shapes)
    return next(each for each in subject.settings if each.name == parcel.setting)


def modules_of(component: Component[Any]) -> tuple[tuple[str, str | None], ...]:
    """Returns name and file of the modules that define a component: of its `build`, of its config."""
    names = [getattr(each, "__module__", None) for each in (component.build, component.config)]
    known = [sys.modules[name] for name in dict.fromkeys(names) if name in sys.modules and name is not None]
    return tuple((each.__name__, getattr(each, "__file__", None)) for each in known)


def _from_hook(modules: tuple[tuple[str, str | None], ...], kind: str, name: str) -> Component[Any] | None:
    for module, _ in modules:
        hook = getattr(sys.modules[module], KINDS[kind].hook, None)
        for each in hook() if callable(hook) else ():
            if each.name == name:
                return each
    return None


def _pickled(component: Component[Any]) -> bytes:
    try:
        return pickle.dumps(component)
    except Exception as error:
        raise Failed(
            f"it cannot be sent to another process ({error}); define `build` and the config at the top of a module"
        ) from error


def _imported(name: str, file: str | None) -> None:
    known = sys.modules.get(name)
    if known is not None and file in (None, getattr(known, "__file__", None)):
        return
    try:
        if known is not None:  # another file of this name
            raise ImportError(name)
        importlib.import_module(name)
    except ImportError:
        if file is None:
            raise
        spec = importlib.util.spec_from_file_location(name, file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
