"""docs/reference/interfaces.md, made from the code: hooks, interfaces, what is handed on, all other public names."""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import dicm_kit
from dicm_kit import hookspecs, interfaces, types
from dicm_kit.registry import KINDS

HEAD = """# Hooks, interfaces and other public names

Everything that `from dicm_kit import ...` has, made from the code by tests/docs/interfaces_page.py; a test keeps this
page current.
How to use it: [writing a plugin](../plugins/writing_a_plugin.md).

"""
SHAPES = {
    "feature_encoder": "ColumnShape",
    "image_backbone": None,
    "interest_aggregator": "HistoryShapes",
    "base_net": "NetShapes",
    "data_source": None,
}
"""What `build` gets as its second argument."""
GROUPS = {
    "What a hook returns": ["Component"],
    "The five interfaces": [kind.interface.__name__ for kind in KINDS.values()],
    "What a component is told": ["ColumnShape", "HistoryShapes", "NetShapes", "SourceColumn", "SourceColumns"],
    "What the stages hand on": ["Batch", "Bag", "Encoded", "Pictures", "Interest", "Prediction"],
    "Errors": ["DicmError", "FieldError", "DataError"],
}
MADE_BY_PYTHON = {"__init__"}


def page() -> str:
    """Returns the page."""
    return "".join([HEAD, *_hooks(), *_letters(), *_groups(), *_rest()]).rstrip("\n") + "\n"


def _hooks() -> Iterator[str]:
    yield f"## Hooks\n\n{inspect.getdoc(hookspecs)}\n\n"
    yield "A plugin says `dicm_api = {}` ({}).\n\n".format(
        hookspecs.HOOK_API, docs_in(hookspecs)["HOOK_API"][0].lower() + docs_in(hookspecs)["HOOK_API"][1:].rstrip(".")
    )
    yield "| hook | interface | `build(config, shapes)` gets | |\n| --- | --- | --- | --- |\n"
    for kind in KINDS.values():
        shapes = f"`{SHAPES[kind.name]}`" if SHAPES[kind.name] else "None"
        doc = inspect.getdoc(getattr(hookspecs, kind.hook))
        yield f"| `{kind.hook}` | `{kind.interface.__name__}` | {shapes} | {doc} |\n"
    yield "\n"


def _letters() -> Iterator[str]:
    doc = inspect.getdoc(types) or ""
    legend = doc.split("```")[1].strip("\n")
    yield f"## Letters\n\nNames of tensors end in the letters of their dimensions.\n\n```text\n{legend}\n```\n\n"
    yield f"{doc.split('```')[2].strip()}\n\n"
    yield f"`Kind`: {docs_in(interfaces)['Kind']} `Column`: {docs_in(types)['Column']}\n\n"


def _groups() -> Iterator[str]:
    for title, names in GROUPS.items():
        yield f"## {title}\n\n"
        for name in names:
            yield from described(getattr(dicm_kit, name))


def _rest() -> Iterator[str]:
    shown = {name for names in GROUPS.values() for name in names} | {"__version__", "HOOK_API", "Column", "hookimpl"}
    yield "## For plugins of certain kinds\n\n"
    for name in sorted(set(dicm_kit.__all__) - shown):
        yield from described(getattr(dicm_kit, name))


def described(thing: Any) -> Iterator[str]:
    """Yields the section of a class or function."""
    if not inspect.isclass(thing):
        yield f"### `{thing.__name__}`\n\n```text\n{signature(thing)}\n```\n\n{escaped(inspect.getdoc(thing))}\n\n"
        return
    yield f"### `{thing.__name__}`\n\n{escaped(own_doc(thing))}\n\n"
    if rows := list(fields_of(thing)):
        yield "| field | type | default | |\n| --- | --- | --- | --- |\n"
        yield "".join(f"| `{name}` | {_code(kind)} | {_code(default)} | {doc} |\n" for name, kind, default, doc in rows)
        yield "\n"
    for name, method in methods_of(thing):
        if isinstance(method, property):
            yield f"`{name}`: {escaped(inspect.getdoc(method))}\n\n"
        else:
            yield f"```text\n{signature(method)}\n```\n\n{escaped(inspect.getdoc(method))}\n\n"


def own_doc(thing: type) -> str:
    """Returns a class's own docstring; nothing where Python would take its parent's, or makes one of a dataclass."""
    doc = thing.__dict__.get("__doc__") or ""
    return "" if doc.startswith(f"{thing.__name__}(") else inspect.cleandoc(doc)


def fields_of(thing: type) -> Iterator[tuple[str, str, str, str]]:
    """Yields name, type, default and help of each annotated public attribute, in the order of the source."""
    docs = docs_in(thing)
    for node in _body(thing):
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.target.id[0] != "_":
            default = ast.unparse(node.value) if node.value else ""
            name = node.target.id
            yield name, ast.unparse(node.annotation), default, docs.get(name, "")


def methods_of(thing: type) -> Iterator[tuple[str, Any]]:
    """Yields the public methods and properties that a class defines itself, and `__init__` where it is written."""
    for name, value in vars(thing).items():
        written = inspect.isfunction(value) and "<string>" not in value.__code__.co_filename
        if (written or isinstance(value, property)) and (name[0] != "_" or name == "__init__"):
            yield name, value


def signature(function: Any) -> str:
    """Returns the head of a function as it stands in the source."""
    node = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
    assert isinstance(node, ast.FunctionDef)
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"def {node.name}({ast.unparse(node.args)}){returns}: ..."


def docs_in(thing: Any) -> dict[str, str]:
    """Returns the docstring under each attribute of a class or module."""
    docs, body = {}, _body(thing)
    for field, text in pairwise(body):
        target = field.targets[0] if isinstance(field, ast.Assign) else getattr(field, "target", None)
        if isinstance(target, ast.Name) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            docs[target.id] = " ".join(inspect.cleandoc(str(text.value.value)).split())
    return docs


def _body(thing: Any) -> list[ast.stmt]:
    tree = ast.parse(textwrap.dedent(inspect.getsource(thing)))
    return tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) and inspect.isclass(thing) else tree.body


def _code(text: str) -> str:
    return f"`{text}`".replace("|", "\\|") if text else ""


def escaped(doc: str | None) -> str:
    """Returns a docstring as Markdown: what stands in brackets is no link, `Raises:` is a list."""
    text = re.sub(r"^(Raises|Args):\n", r"\1:\n\n", doc or "", flags=re.MULTILINE)
    return re.sub(r"^    (\w+): ", r"- `\1`: ", text, flags=re.MULTILINE)


if __name__ == "__main__":
    print(page(), end="")
