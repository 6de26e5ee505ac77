"""Broken plugins, one mistake each: the check that is meant for a mistake finds it, and the others do not.

A plugin in `zoo/` says in `CAUGHT_BY` which check that is, and in `ALSO` which others cannot help but fail.
"""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from dicm_kit.registry import KINDS, Kind, Registry
from dicm_kit.testing.check import CHECKS, checks_of
from dicm_kit.testing.plan import plan, told

ZOO = sorted((Path(__file__).parent / "zoo").glob("*.py"))
IMPORT = "import_does_no_work"


def loaded(file: Path) -> tuple[Kind, Any, ModuleType]:
    registry = Registry(file.parent)
    registry.add(f"./{file.name}")
    provided = next(each for each in registry.provided() if each.plugin == registry.plugins[-1])
    return provided.kind, provided.component, sys.modules[provided.component.build.__module__]


def failing(kind: str, component: Any, exempt: dict[str, str]) -> dict[str, str]:
    """Returns the checks that fail, with their texts."""
    found: dict[str, str] = {}
    for item in plan(kind, component, exempt=exempt):
        outcome = item.judge()
        if outcome.state == "failed":
            found.setdefault(item.check.id, told([item], outcome.text))
    return found


def test_there_are_enough() -> None:
    checks = {each.id for kind in KINDS for each in checks_of(kind)}
    assert checks == set(CHECKS)
    assert len(checks) >= 40
    assert len(ZOO) >= 25


@pytest.mark.parametrize("file", ZOO, ids=lambda file: file.stem)
def test_each_is_caught_by_the_check_meant_for_it(file: Path) -> None:
    kind, component, module = loaded(file)
    caught_by = module.CAUGHT_BY
    # A process of its own for each of them would take minutes.
    exempt = {} if caught_by == IMPORT else {IMPORT: "not the mistake of this one"}
    found = failing(kind.name, component, exempt)
    for each in getattr(module, "OPEN", ()):
        each.close()
    assert caught_by in found, f"not caught; failing: {found}"
    assert set(found) == {caught_by, *getattr(module, "ALSO", ())}, "\n\n".join(found.values())


def test_every_check_has_a_broken_plugin_that_it_catches() -> None:
    caught = {loaded(file)[2].CAUGHT_BY for file in ZOO}
    assert set(CHECKS) - caught == set(), "a check enters the kit with a broken plugin that it catches"
