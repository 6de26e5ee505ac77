"""Every public name says what it is: classes, methods, constructor arguments, fields; and their page is current."""

import inspect
import re
from typing import Any

import pytest
from blocks import REPOSITORY
from interfaces_page import docs_in, fields_of, methods_of, own_doc, page

import dicm_kit
from dicm_kit import interfaces, types

PAGE = REPOSITORY / "docs/reference/interfaces.md"
NAMES = sorted(set(dicm_kit.__all__) - {"__version__", "HOOK_API", "Column", "hookimpl"})
"""Without constants and types, whose docstrings stand below them, and pluggy's marker."""


def test_the_page_is_current(request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--update-golden"):
        PAGE.write_text(page(), encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == page(), (
        f"{PAGE.name} is not current: pytest tests/docs/test_public_names.py --update-golden"
    )


def test_constants_and_types_are_explained() -> None:
    from dicm_kit import hookspecs

    assert docs_in(hookspecs)["HOOK_API"]
    assert docs_in(types)["Column"]
    assert docs_in(interfaces)["Kind"]


@pytest.mark.parametrize("name", NAMES)
def test_it_says_what_it_is(name: str) -> None:
    thing = getattr(dicm_kit, name)
    missing = [name] if not (own_doc(thing) if inspect.isclass(thing) else inspect.getdoc(thing)) else []
    if inspect.isclass(thing):
        missing += [f"{name}.{field}" for field, _, _, doc in fields_of(thing) if not doc]
        missing += [f"{name}.{method}" for method, value in methods_of(thing) if not own(value)]
    assert missing == [], "a docstring, below the name: what it is, with its shape or unit; what None means"


@pytest.mark.parametrize("name", NAMES)
def test_its_shapes_are_those_of_the_legend(name: str) -> None:
    """Letters in brackets, `[B, L, d]`, stand in types.py; small ones are widths that the text explains."""
    legend = {*re.findall(r"(?:^|  )([A-Z]) ", (types.__doc__ or ""), re.MULTILINE), "H", "W"}  # of pictures: no secret
    assert len(legend) > 10
    thing = getattr(dicm_kit, name)
    texts = [inspect.getdoc(thing) or ""]
    if inspect.isclass(thing):
        texts += [doc for _, _, _, doc in fields_of(thing)] + [own(value) for _, value in methods_of(thing)]
    shapes = re.findall(r"\[((?:[A-Z]|\.\.\.)(?:, (?:[A-Za-z]|\d|\.\.\.))*)\]", " ".join(texts))
    assert {letter for shape in shapes for letter in shape.split(", ") if letter.isupper()} <= legend


def own(value: Any) -> str:
    """Returns the docstring that a method or property has itself."""
    return (value.fget.__doc__ if isinstance(value, property) else value.__doc__) or ""
