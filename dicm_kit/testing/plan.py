"""Component and configs -> what is looked at: every check with every config, each with a readable id."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from textwrap import fill
from typing import Any

from dicm_kit.errors import DicmError, PluginError, did_you_mean
from dicm_kit.interfaces import Component
from dicm_kit.testing.check import Check, Failed, Outcome, checks_of, judged
from dicm_kit.testing.subject import Subject


@dataclass(frozen=True)
class Item:
    """One check with one config."""

    check: Check
    subject: Subject
    config_id: str
    exempt: str | None
    """Why the check is left out."""

    @property
    def id(self) -> str:
        """`padding_is_not_read-half_life=2.0`."""
        return f"{self.check.id}-{self.config_id}"

    def judge(self) -> Outcome:
        """Runs the check, unless it is exempt."""
        if self.exempt is not None:
            return Outcome("skipped", f"exempt: {self.exempt}")
        try:
            settings = self.subject.settings
        except (DicmError, Failed) as error:
            if self.check.id == "builds":
                return Outcome("failed", str(error))
            return Outcome("skipped", "it could not be built; see `builds`", is_left_out=True)
        return judged(self.check, settings)


def told(items: Sequence[Item], text: str) -> str:
    """Returns a failure in full: component, configs, what happened, and the checks that say so."""
    subject = items[0].subject
    configs = ", ".join(dict.fromkeys(each.config_id for each in items))
    checks = {each.check.id: each.check for each in items}
    (what, *others) = [f"check `{each.id}`: {each.what}" for each in checks.values()]
    if others:
        listed = f"{len(checks)} checks say so: {', '.join(f'`{each}`' for each in checks)}"
        what = fill(listed, 118, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    return f"{subject.noun} `{subject.component.name}` ({configs}): {text}\n  {what}"


def plan(
    kind: str,
    component: Component[Any],
    *,
    configs: Sequence[Mapping[str, Any]] = (),
    no_effect: Mapping[str, str] | None = None,
    exempt: Mapping[str, str] | None = None,
    shapes: tuple[Any, ...] = (),
    overrides: tuple[str, ...] = (),
) -> list[Item]:
    """Returns the checks to run, in their order.

    Raises:
        PluginError: `exempt` names no check, or `no_effect` no key of the config.
    """
    no_effect = {**component.no_effect, **(no_effect or {})}
    exempt = {**component.exempt, **(exempt or {})}
    checks = checks_of(kind)
    _known(f"`exempt` of `{component.name}`", exempt, [each.id for each in checks], "check")
    if is_dataclass(component.config):
        names = [each.name for each in fields(component.config)]
        _known(f"`no_effect` of `{component.name}`", no_effect, names, "key of its config")
    given = [dict(each) for each in (configs or component.examples or ({},))]
    subjects = [
        Subject(kind, component, each, overrides, no_effect, shapes, tuple(one for one in given if one is not each))
        for each in given
    ]
    return [
        Item(check, subject, config_id(subject.given, index), exempt.get(check.id))
        for check in checks
        for index, subject in enumerate(subjects[:1] if check.once else subjects)
    ]


def config_id(given: Mapping[str, Any], index: int) -> str:
    """Returns a config in a few letters: `half_life=2.0`, `defaults`."""
    text = ",".join(f"{name}={value}" for name, value in given.items()) or "defaults"
    text = "".join(each if each.isalnum() or each in "=,._-" else "_" for each in text)
    return text if len(text) <= 50 else f"config{index}"


def _known(what: str, given: Mapping[str, str], known: Sequence[str], noun: str) -> None:
    for name, reason in given.items():
        if name not in known:
            near = did_you_mean(name, known)
            raise PluginError(f"{what} names `{name}`, which is no {noun}", todo=near or f"Known: {', '.join(known)}.")
        if not isinstance(reason, str) or not reason.strip():
            raise PluginError(f"{what} gives no reason for `{name}`", todo="Write why, in a few words.")
