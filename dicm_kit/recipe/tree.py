"""YAML text -> a tree that remembers the line of each key and value, with the command line's overrides put in.

Only plain YAML counts: no tags, no anchors, no duplicate keys; scalars are read as YAML 1.2 does, so `no` is a string
and `1e-3` a float.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import yaml

from dicm_kit.recipe.problems import Mark, Problem

_INT = re.compile(r"[-+]?[0-9]+(_[0-9]+)*")
_FLOAT = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_ENV = re.compile(r"\$\{oc\.env:([A-Za-z_][A-Za-z_0-9]*)(?:,([^{}]*))?\}")


@dataclass
class Scalar:
    """A single value, as YAML reads it and as it is written."""

    mark: Mark
    value: object
    raw: str
    broken: bool = False
    """Its environment variable is not set or it is no interpolation; reported already."""


@dataclass
class Items:
    """A list."""

    mark: Mark
    items: list["Tree"]


@dataclass
class Section:
    """A mapping. `was` is the `name` that an override replaced."""

    mark: Mark
    entries: dict[str, "Entry"] = field(default_factory=dict)
    was: str | None = None


@dataclass
class Entry:
    """A key's place and its value."""

    mark: Mark
    value: "Tree"


Tree = Scalar | Items | Section


class _Loader(yaml.BaseLoader):
    """Refuses aliases: a tree that refers to itself has no end, and a recipe is read line by line."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()
            raise yaml.MarkedYAMLError(
                problem="aliases (`*name`) are not allowed: write the value out", problem_mark=event.start_mark
            )
        return super().compose_node(parent, index)


def parse(text: str, problems: list[Problem]) -> Section | None:
    """Returns the recipe's tree, or None after adding the problem that makes it unreadable."""
    tree = _tree(text, None, problems)
    if tree is None:
        return None
    if not isinstance(tree, Section):
        empty = isinstance(tree, Scalar) and tree.value is None
        what = "the recipe is empty" if empty else f"a recipe is a mapping of keys, this is {described(tree)}"
        problems.append(Problem(tree.mark, what, "See `recipes/` for complete ones."))
        return None
    return tree


def override(root: Section, argument: str, index: int, problems: list[Problem]) -> None:
    """Puts `a.b.c=value` into the tree; sections that are not there yet are made."""
    mark = Mark(override=index)
    path, equals, text = argument.partition("=")
    keys = path.split(".")
    if not equals or not all(keys):
        problems.append(Problem(mark, f"`{argument}` is not KEY=VALUE", "Write it like `trainer.max_steps=100`."))
        return
    value = _tree(text, mark, problems)
    if value is None:
        return
    section = root
    for depth, key in enumerate(keys[:-1], 1):
        entry = section.entries.get(key)
        if entry is None or (isinstance(entry.value, Scalar) and entry.value.value is None):
            entry = section.entries[key] = Entry(mark, Section(mark))
        if not isinstance(entry.value, Section):
            here = ".".join(keys[:depth])
            problems.append(
                Problem(
                    mark,
                    f"`{here}` is {described(entry.value)}, it has no key `{keys[depth]}`",
                    f"Give it whole: `{here}=...`.",
                )
            )
            return
        section = entry.value
    old = section.entries.get(keys[-1])
    if keys[-1] == "name" and old is not None and isinstance(old.value, Scalar):
        section.was = section.was or old.value.raw
    section.entries[keys[-1]] = Entry(mark, value)


def described(tree: Tree) -> str:
    """Returns what it is, for messages: `'lots' (str)`, `null`, `a list`, `a section`."""
    if isinstance(tree, Section):
        return "a section"
    if isinstance(tree, Items):
        return "a list"
    if tree.value is None:
        return "null"
    return f"{tree.value!r} ({type(tree.value).__name__})"


def scalars(tree: Tree) -> Iterator[Scalar]:
    """Yields every single value below."""
    if isinstance(tree, Scalar):
        yield tree
    elif isinstance(tree, Items):
        for item in tree.items:
            yield from scalars(item)
    else:
        for entry in tree.entries.values():
            yield from scalars(entry.value)


def _tree(text: str, mark: Mark | None, problems: list[Problem]) -> Tree | None:
    try:
        node = yaml.compose(text, Loader=_Loader)
    except yaml.MarkedYAMLError as error:
        where = error.problem_mark or error.context_mark
        line = where.line + 1 if where else 1
        source = text.splitlines()[line - 1 : line]
        todo = "Quote it: `'${oc.env:NAME}'`." if "${" in "".join(source) else None
        what = f"this is not YAML: {error.problem or error.context}"
        if error.problem and error.context and error.context_mark:
            what += f" {error.context} that starts in line {error.context_mark.line + 1}"
        problems.append(Problem(mark or Mark(line), what, todo))
        return None
    except yaml.YAMLError as error:  # a character YAML does not know
        problems.append(Problem(mark or Mark(1), f"this is not YAML: {' '.join(str(error).split())}"))
        return None
    if node is None:
        return Scalar(mark or Mark(1), None, "")
    return _read(node, mark, problems)


def _read(node: yaml.Node, mark: Mark | None, problems: list[Problem]) -> Tree:
    here = mark or Mark(node.start_mark.line + 1)
    if not re.fullmatch(r"tag:yaml\.org,2002:(str|seq|map)", node.tag or ""):
        problems.append(Problem(here, f"tags such as `{node.tag}` are not allowed", "Write the plain value."))
    if isinstance(node, yaml.ScalarNode):
        return _scalar(node.value, node.style, here, problems)
    if isinstance(node, yaml.SequenceNode):
        return Items(here, [_read(item, mark, problems) for item in node.value])
    section = Section(here)
    for key_node, value_node in node.value:
        key_mark = mark or Mark(key_node.start_mark.line + 1)
        if not isinstance(key_node, yaml.ScalarNode):
            problems.append(Problem(key_mark, "a key is one word, not a list or a section"))
            continue
        key = key_node.value
        if key in section.entries:
            first = section.entries[key].mark
            seen = f"; it stands in line {first.line} already" if first.line else ""
            problems.append(Problem(key_mark, f"`{key}` is given twice{seen}", "Keep one of them."))
            continue
        section.entries[key] = Entry(key_mark, _read(value_node, mark, problems))
    return section


def _scalar(raw: str, style: str | None, mark: Mark, problems: list[Problem]) -> Scalar:
    count = len(problems)
    raw = _with_environment(raw, mark, problems)
    if len(problems) > count:
        return Scalar(mark, raw, raw, broken=True)
    if style is not None:
        return Scalar(mark, raw, raw)
    value: object = raw
    if raw in ("", "~", "null", "Null", "NULL"):
        value = None
    elif raw in ("true", "True", "TRUE", "false", "False", "FALSE"):
        value = raw.lower() == "true"
    elif _INT.fullmatch(raw):
        value = int(raw)
    elif _FLOAT.fullmatch(raw):
        value = float(raw.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return Scalar(mark, value, raw)


def _with_environment(raw: str, mark: Mark, problems: list[Problem]) -> str:
    """Returns `raw` with `${oc.env:NAME,default}` filled in, the one interpolation a recipe may hold."""
    if "${" not in raw:
        return raw

    def filled(match: re.Match[str]) -> str:
        name, default = match.groups()
        value = os.environ.get(name, default)
        if value is None:
            problems.append(
                Problem(
                    mark,
                    f"the environment variable `{name}` is not set",
                    f"Set it, or give a default: `${{oc.env:{name},default}}`.",
                )
            )
            return ""
        return value

    text = _ENV.sub(filled, raw)
    if "${" in text:
        problems.append(
            Problem(
                mark,
                f"`{raw}` is no interpolation a recipe may hold",
                "Only `${oc.env:NAME}` and `${oc.env:NAME,default}` are.",
            )
        )
    return text
