"""The check that every key of a config does something: other values are guessed by type, or come from examples."""

import copy
import types
from collections.abc import Iterator
from dataclasses import dataclass, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from dicm_kit.recipe.keys import Key, keys_of
from dicm_kit.testing.check import EVERY, Failed, check
from dicm_kit.testing.subject import Subject
from dicm_kit.testing.trace import Trace, different, trace

_SAMPLES: dict[type, list[Any]] = {int: [1, 2, 8, 32], float: [0.5, 1.0, 3.0], bool: [True, False], str: []}


@check(*EVERY, once=True)
def every_key_has_an_effect(setting: Any) -> None:
    """Each key of the config, changed, changes the output, the shapes or the parameters, or is in `no_effect`."""
    subject: Subject = setting.subject
    keys = keys_of(subject.component.config)
    bases = [_Base(each) for each in (subject, *subject.siblings())]
    idle: list[str] = []
    untried: list[str] = []
    for name in keys:
        if name in subject.no_effect:
            continue
        tried: list[Any] = []
        if any(_has_effect(base, keys[name], [other.config for other in bases], tried) for base in bases):
            continue
        (idle if tried else untried).append(f"`{name}`" + (f" (tried {_shown(tried)})" if tried else ""))
    if idle:
        raise Failed(
            f"{', '.join(idle)} changed nothing: neither output nor shapes nor parameters; use it, drop it, or say in"
            " `no_effect` why it need not"
        )
    if untried:
        raise Failed(
            f"no other value of {', '.join(untried)} could be tried; give one in the component's `examples`, or say in"
            " `no_effect` why it need not change anything"
        )


@dataclass
class _Base:
    """A config that others are compared with, and what it gives, by setting."""

    subject: Subject

    def __post_init__(self) -> None:
        self.config = self.subject.config
        self.traces: dict[str, Trace] = {}

    def trace_in(self, setting: Any) -> Trace:
        if setting.name not in self.traces:
            self.traces[setting.name] = trace(setting, self.config)
        return self.traces[setting.name]


def _has_effect(base: _Base, key: Key, configs: list[Any], tried: list[Any]) -> bool:
    for value in _others(key, getattr(base.config, key.name), configs):
        config = replace(copy.deepcopy(base.config), **{key.name: value})
        for setting in base.subject.settings:
            try:
                theirs = trace(setting, config)
            except Exception:
                if _is_path(getattr(base.config, key.name)):
                    return True  # it looked for what is not there
                continue  # it refuses this value; those that matter are in `configs`, and checked there
            if different(base.trace_in(setting), theirs):
                return True
            if value not in tried:
                tried.append(value)
    return False


def _others(key: Key, value: Any, configs: list[Any]) -> Iterator[Any]:
    """Yields other values: those of the other configs first, then guesses by type."""
    seen = [value]
    given = [getattr(each, key.name) for each in configs]
    if _is_path(value):
        given.append(type(value)(f"{value} that is not there"))
    # The default of a text is not tried: it may name a download.
    defaults = [] if key.required or isinstance(key.default, str) else [key.default]
    for other in (*given, *defaults, *_guesses(key.type, value)):
        if other not in seen:
            seen.append(other)
            yield other


def _guesses(annotation: Any, value: Any) -> Iterator[Any]:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        for each in arguments:
            if each is type(None):
                continue
            yield from _guesses(each, value if _fits(value, each) else None)
        if type(None) in arguments:
            yield None
    elif origin is Literal:
        yield from arguments
    elif origin in (list, tuple):
        yield from _lists(arguments[0] if arguments else Any, value, tuple if origin is tuple else list)
    elif annotation is bool:
        yield from (True, False) if value is None else (not value,)
    elif annotation is int:
        yield from _SAMPLES[int] if value is None else (value + 1, 2 * value, value - 1, value // 2, 1, 0)
    elif annotation is float:
        yield from _SAMPLES[float] if value is None else (2 * value, value / 2, value + 0.1, 0.5, 1.0, 3.0, 0.0)
    elif is_dataclass(annotation) and isinstance(annotation, type):
        if value is not None:
            for name, key in keys_of(annotation).items():
                for other in _guesses(key.type, getattr(value, name)):
                    yield replace(copy.deepcopy(value), **{name: other})
    elif origin is dict and value:
        yield {}


def _lists(inner: Any, value: Any, kind: type) -> Iterator[Any]:
    items = list(value or [])
    if items:
        yield kind(items[:-1])
        yield kind(reversed(items))
        for other in _guesses(inner, items[0]):
            yield kind([other, *items[1:]])
        yield kind([*items, items[-1]])
    for sample in _SAMPLES.get(inner, []):
        for length in (1, 2, 3):
            yield kind([sample] * length)


def _is_path(value: Any) -> bool:
    """Says whether the value names a file or folder: another one is then tried, which does not exist."""
    if not isinstance(value, str | Path) or not str(value):
        return False
    try:
        return Path(value).exists()
    except OSError:
        return False


def _fits(value: Any, annotation: Any) -> bool:
    origin = get_origin(annotation) or annotation
    if origin is Literal:
        return value in get_args(annotation)
    return isinstance(origin, type) and isinstance(value, origin)


def _shown(values: list[Any]) -> str:
    text = ", ".join(repr(each) for each in values[:3])
    return text if len(text) < 100 else text[:97] + "..."
