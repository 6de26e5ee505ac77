"""`dicm check PLUGIN`: every check of every component of a plugin, a line for each component, failures in full."""

import shlex
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from dicm_kit.errors import PluginError, RecipeError, did_you_mean, some
from dicm_kit.plugin_modules import Plugin, installed_as
from dicm_kit.recipe.describe import listing
from dicm_kit.recipe.keys import keys_of
from dicm_kit.registry import BUILTIN, Provided, Registry
from dicm_kit.testing import quiet_import
from dicm_kit.testing.check import Outcome
from dicm_kit.testing.plan import Item, plan, told
from dicm_kit.testing.ranks import shared_ranks
from dicm_kit.testing.time_limit import TimedOut, time_limit
from dicm_kit.testing.tiny_log import tiny_log_configs

TIMEOUT = 60.0
"""Seconds for all checks of one component."""

Say = Callable[[str], None]


@dataclass
class _Found:
    """What the checks of a component found."""

    counts: Counter[str] = field(default_factory=Counter)
    failures: dict[str, list[Item]] = field(default_factory=dict)
    """Text -> the checks with their configs that say it: one cause often fails many."""
    broken_off: list[str] = field(default_factory=list)
    """Why not all checks were run, in full."""
    exempt: dict[str, str] = field(default_factory=dict)
    """Reason by check."""
    seconds: float = 0.0


def check_plugin(listed: str, overrides: Sequence[str] = (), timeout: float = TIMEOUT, say: Say = print) -> bool:
    """Checks a plugin file, an installed plugin or `dicm_kit` itself; returns whether all is in order.

    `overrides` (`key=value`) set keys of the components' configs, of those that have the key. `timeout`: seconds for
    the import, and for the checks of each component; what hangs is shown with its stack, the others are checked still.

    Raises:
        PluginError: it does not load, or hangs while it is imported.
        RecipeError: no component has the key of an override.
    """
    began = time.perf_counter()
    registry, plugin, found = _loaded(listed, timeout)
    _check_overrides(plugin, found, overrides)
    shared_ranks().timeout = min(60.0, timeout / 2)  # so that a rank that hangs is shown with its own stack
    shared_ranks().start()  # two processes, which import torch while the first checks run here
    for each in found:
        quiet_import.begin(each.component)
    say(f"plugin {plugin.told}\n")
    if plugin != BUILTIN:
        say(f"{listing([registry], None, plugin)}\n")
    # Data sources first: they need no ranks, whose processes are still starting.
    found = sorted(found, key=lambda each: each.kind.name != "data_source")
    results = [(each, _checked(each, overrides, timeout, say)) for each in found]
    failures = [text for each, result in results for text in _told(each, result, overrides)]
    for each, result in results:
        for check_id, reason in result.exempt.items():
            say(f"exempt: `{check_id}` of {each.kind.noun} `{each.component.name}`: {reason}")
    for text in failures:
        say(f"\n{text}")
    counts = sum((result.counts for _, result in results), Counter[str]())
    say(f"\n{counts.total()} checks in {time.perf_counter() - began:.1f} s: {_judgement(plugin, counts['failed'])}")
    return not failures


def _loaded(listed: str, timeout: float) -> tuple[Registry, Plugin, list[Provided]]:
    registry = Registry(Path())
    if listed.replace("-", "_") == BUILTIN.name:
        return registry, BUILTIN, registry.provided()
    where = installed_as(listed) or listed
    try:
        with time_limit(timeout, f"plugin {where} hangs while it is imported"):
            registry.add(listed)
    except TimedOut as late:
        raise PluginError(
            f"plugin {where} has not been imported after {timeout:g} s; it was here:\n{late.stack}",
            todo="Do nothing at import but define things; what takes time belongs into `build` or later.",
        ) from None
    plugin = registry.plugins[-1]
    return registry, plugin, [each for each in registry.provided() if each.plugin == plugin]


def _check_overrides(plugin: Plugin, found: list[Provided], overrides: Sequence[str]) -> None:
    keys = sorted({key for each in found for key in keys_of(each.component.config)})
    for each in overrides:
        key = each.partition("=")[0].partition(".")[0]
        if "=" not in each or key not in keys:
            near = did_you_mean(key, keys)
            raise RecipeError(
                f"no component of plugin {plugin} has the key `{key}`" if "=" in each else f"`{each}` is not KEY=VALUE",
                where="command line",
                todo=f"{f'{near} ' if near else ''}Keys: {some(keys, 20) or 'none'}.",
            )


def _checked(provided: Provided, overrides: Sequence[str], timeout: float, say: Say) -> _Found:
    began, found = time.perf_counter(), _Found()
    item: Item | None = None
    title = f"{provided.kind.noun} `{provided.component.name}`"
    hung = f"FAILED {title} of plugin {provided.plugin.told} hangs"
    try:
        with time_limit(timeout, hung):
            for item in _items(provided, overrides):
                _note(found, item, item.judge())
    except TimedOut as late:
        at = f"in check `{item.check.id}` ({item.config_id})" if item else "before the first check"
        found.counts["failed"] += 1
        found.broken_off.append(
            f"{hung}: no end after {late.seconds:g} s, {at}; it was here:\n{late.stack.rstrip()}\n\n"
            "  Mend what it waits for there, or give it more time: `--timeout SECONDS`."
        )
    except PluginError as error:
        found.counts["failed"] += 1
        found.broken_off.append(f"FAILED {title} of plugin {provided.plugin.told}: {error}")
    found.seconds = time.perf_counter() - began
    say(_line(provided, found))
    return found


def _items(provided: Provided, overrides: Sequence[str]) -> list[Item]:
    component = provided.component
    keys = keys_of(component.config)
    is_log = provided.plugin == BUILTIN and component.name == "log"
    return plan(
        provided.kind.name,
        component,
        configs=tiny_log_configs() if is_log else (),
        overrides=tuple(each for each in overrides if each.partition("=")[0].partition(".")[0] in keys),
    )


def _note(found: _Found, item: Item, outcome: Outcome) -> None:
    found.counts["left out" if outcome.is_left_out else outcome.state] += 1
    if outcome.state == "failed":
        found.failures.setdefault(outcome.text, []).append(item)
    if item.exempt is not None:
        found.exempt[item.check.id] = item.exempt


def _told(provided: Provided, found: _Found, overrides: Sequence[str]) -> list[str]:
    """Returns the failures in full, each text once with all that say it."""
    texts = []
    for text, items in found.failures.items():
        lacks = _lacks(items[0], overrides) if items[0].check.id == "builds" else []
        command = shlex.join(["dicm", "check", provided.plugin.name, *overrides])
        more = f"\n\n  Say what must be given: {command} {' '.join(f'{each}=...' for each in lacks)}" if lacks else ""
        texts.append(f"FAILED {told(items, text)}\n  plugin {provided.plugin.told}{more}")
    return texts + found.broken_off


def _lacks(item: Item, overrides: Sequence[str]) -> list[str]:
    """Returns the keys that must be given, and are not: neither in the config of the check nor on the command line."""
    given = {*item.subject.given, *(each.partition("=")[0].partition(".")[0] for each in overrides)}
    return [
        key.name for key in keys_of(item.subject.component.config).values() if key.required and key.name not in given
    ]


def _line(provided: Provided, found: _Found) -> str:
    name = f"{provided.kind.noun} {provided.component.name}"
    failed, passed, left_out, skipped = (found.counts[each] for each in ("failed", "passed", "left out", "skipped"))
    parts = [f"{failed} failed"] if failed else []
    parts += [f"{passed} passed"] + ([f"{left_out} left out"] if left_out else [])
    parts += [f"{skipped} do not apply"] if skipped else []
    return f"  {name:36} {'FAILED' if failed else 'ok':6}  {', '.join(parts):34} {found.seconds:5.1f} s"


def _judgement(plugin: Plugin, failed: int) -> str:
    if failed:
        return f"{failed} failed.\n\nWhat each check is for: docs/plugins/contracts.md"
    if plugin == BUILTIN:
        return "all in order."
    return f"all in order.\n\nNext: list it in a recipe:  plugins: [{plugin.name}]"
