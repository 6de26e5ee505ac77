"""A check: a small function with an id, a line that says what is promised, and a text for the author where it fails.

A check takes a `Setting` (a component with one config, and what it is given) and returns, or raises `Failed`. It is
registered by the decorator `check`; its id is the function's name, its description the first line of its docstring.
"""

import inspect
import linecache
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from dicm_kit.registry import KINDS

MODULES = ("feature_encoder", "image_backbone", "interest_aggregator", "base_net")
"""Kinds whose components are modules."""
EVERY = tuple(KINDS)

CheckFunction = Callable[[Any], None]


class Failed(AssertionError):  # noqa: N818 - what the check says of the component
    """The component breaks a promise; the text tells its author which, and how to mend it."""


class DoesNotApply(Exception):  # noqa: N818 - no error
    """The check has nothing to look at; the text says why. Shown as skipped, never silent."""


class LeftOut(DoesNotApply):
    """The check would say again, in other words, what another one says; the text names that."""


@dataclass(frozen=True)
class Check:
    """One promise, looked at."""

    id: str
    what: str
    """What is promised, in a line."""
    kinds: tuple[str, ...]
    run: CheckFunction
    once: bool
    """True: for the component, with its first config; else for each config."""
    compares: bool
    """True: it compares outputs, which says nothing where the same input does not give the same output."""
    calls: bool
    """True: it calls the component, which tells nothing new where that fails for ordinary input (check `runs`)."""


CHECKS: dict[str, Check] = {}
"""Every check by id."""


def check(
    *kinds: str, once: bool = False, compares: bool = True, calls: bool = True
) -> Callable[[CheckFunction], CheckFunction]:
    """Registers a function as a check of these kinds."""

    def registered(function: CheckFunction) -> CheckFunction:
        name = function.__name__
        assert name not in CHECKS, f"two checks are called {name}"
        what = " ".join((inspect.getdoc(function) or "").split("\n\n")[0].split())
        CHECKS[name] = Check(name, what, kinds, function, once, compares, calls)
        return function

    return registered


def checks_of(kind: str) -> list[Check]:
    """Returns the checks of a kind of component, in the order in which they run."""
    from dicm_kit.testing import registered  # fills CHECKS

    files = [f"dicm_kit.testing.{file}" for file in registered.FILES]
    return sorted(
        (each for each in CHECKS.values() if kind in each.kinds), key=lambda each: files.index(each.run.__module__)
    )


@dataclass(frozen=True)
class Outcome:
    """What a check found."""

    state: Literal["passed", "failed", "skipped"]
    text: str = ""
    """Why it failed or was skipped."""
    is_left_out: bool = False
    """Skipped since another check fails, which the text names."""


def judged(check: Check, settings: list[Any]) -> Outcome:
    """Runs a check in each setting; the first that fails counts."""
    if not settings:
        return Outcome("skipped", "it could not be built; see `builds`", is_left_out=True)
    skipped, looked = Outcome("skipped"), False
    for setting in settings:
        where = f" ({setting.name})" if setting.name else ""
        try:
            if check.calls and not setting.runs:
                raise LeftOut("it fails for ordinary input; see `runs`")
            if check.compares and not setting.repeats:
                raise LeftOut("the same input gives another output; see `eval_is_deterministic`")
            check.run(setting)
        except Failed as failed:
            return Outcome("failed", f"{failed}{where}")
        except DoesNotApply as reason:
            skipped = Outcome("skipped", str(reason), isinstance(reason, LeftOut))
        except Exception as error:
            return Outcome("failed", f"{_raised(error)}{where}")
        else:
            looked = True
        if check.once:
            break
    return Outcome("passed") if looked else skipped


def _raised(error: Exception) -> str:
    """Returns what the component raised, and where: the frames behind ours."""
    frames = [f"{type(error).__name__}: {' '.join(str(error).split())[:600]}"]
    return "\n".join([f"it raised {frames[0]}", *(f"  {line}" for line in _trace(error))])


def _trace(error: BaseException) -> Iterator[str]:
    ours = Path(__file__).parent
    frames = [each for each in traceback.extract_tb(error.__traceback__) if Path(each.filename).parent != ours]
    for frame in frames[-4:]:
        line = linecache.getline(frame.filename, frame.lineno or 0).strip()
        yield f"{frame.filename}:{frame.lineno} in {frame.name}: {line}"
