"""The keys of a section: a dataclass's fields with their types, defaults and the docstrings under them."""

import ast
import inspect
import textwrap
import types
from dataclasses import MISSING, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


@dataclass(frozen=True)
class Key:
    """One key of a section."""

    name: str
    type: Any
    default: Any
    """`dataclasses.MISSING` when it must be given."""

    @property
    def required(self) -> bool:
        """Whether it must be given."""
        return self.default is MISSING


def keys_of(section: type) -> dict[str, Key]:
    """Returns the keys that a recipe can write in this section; the keys of a chosen component come beside them."""
    assert is_dataclass(section), section
    hints = get_type_hints(section)
    hidden = {"config"} if hasattr(section, "kind") else set()
    return {
        each.name: Key(
            each.name, hints[each.name], each.default_factory() if each.default_factory is not MISSING else each.default
        )
        for each in fields(section)
        if each.init and each.name not in hidden
    }


def docs_of(section: type) -> dict[str, str]:
    """Returns the docstring under each field, by field; the class's own under ""."""
    docs = {"": inspect.cleandoc(section.__doc__ or "")}
    for owner in reversed(section.__mro__):
        if is_dataclass(owner):
            docs.update(_field_docs(owner))
    return docs


def _field_docs(section: type) -> dict[str, str]:
    try:
        source = textwrap.dedent(inspect.getsource(section))
    except (OSError, TypeError):  # made at run time, without a source file
        return {}
    body = ast.parse(source).body[0]
    assert isinstance(body, ast.ClassDef)
    docs = {}
    for field, text in zip(body.body, body.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(text, ast.Expr)
            and isinstance(text.value, ast.Constant)
            and isinstance(text.value.value, str)
        ):
            docs[field.target.id] = " ".join(inspect.cleandoc(text.value.value).split())
    return docs


def without_null(annotation: Any) -> tuple[Any, bool]:
    """Returns the type without None, and whether None was in it."""
    if get_origin(annotation) not in (Union, types.UnionType):
        return annotation, False
    rest = tuple(each for each in get_args(annotation) if each is not type(None))
    return (rest[0] if len(rest) == 1 else Union[rest]), len(rest) < len(get_args(annotation))  # noqa: UP007


def type_text(annotation: Any) -> str:
    """Returns a type in a recipe writer's words: `one of 'zeros', 'error'`, `list of int`, `int or null`."""
    inner, optional = without_null(annotation)
    origin, arguments = get_origin(inner), get_args(inner)
    if origin is Literal:
        text = "one of " + ", ".join(repr(each) for each in arguments)
    elif origin in (Union, types.UnionType):
        text = " or ".join(type_text(each) for each in arguments)
    elif origin is tuple and Ellipsis not in arguments:
        text = f"list of {len(arguments)}: " + ", ".join(type_text(each) for each in arguments)
    elif origin in (list, tuple):
        text = f"list of {type_text(arguments[0])}"
    elif origin is dict:
        text = f"section of {type_text(arguments[1])}"
    elif inner is Any:
        text = "any value"
    elif is_dataclass(inner):
        text = "section"
    else:
        text = {Path: "path", list: "list", dict: "section"}.get(inner, getattr(inner, "__name__", str(inner)))
    return f"{text} or null" if optional else text


def is_text(annotation: Any) -> bool:
    """Returns whether a scalar is meant as it is written (`no`, `007`), not as YAML reads it."""
    inner, _ = without_null(annotation)
    if get_origin(inner) is Literal:
        return all(isinstance(each, str) for each in get_args(inner))
    if get_origin(inner) in (Union, types.UnionType):
        scalars = [each for each in get_args(inner) if get_origin(each) not in (list, tuple, dict)]
        return all(is_text(each) for each in scalars)
    return inner in (str, Path)
