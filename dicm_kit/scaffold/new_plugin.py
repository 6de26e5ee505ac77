"""A name and a kind -> a plugin's distribution: code, tests, recipe and comparison that work as they are.

`templates/<kind>/` has the files of a kind of component, `templates/every/` those that all have; a file of the kind
stands in the place of one of the same name. `parts.yaml` holds what is put in beside the names.
"""

import keyword
import re
import shlex
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from string import Template

import yaml

import dicm_kit
from dicm_kit.errors import RecipeError, did_you_mean
from dicm_kit.registry import Registry
from dicm_kit.scaffold.fixture import write_fixture

KINDS = ("aggregator", "encoder", "backbone", "base_net", "data_source")
"""As `--kind` calls them; each has a folder in `templates/`."""
_TEMPLATES = files("dicm_kit.scaffold") / "templates"
_WHERE = "command line"
_NAME = re.compile(r"[a-z0-9]([a-z0-9._-]*[a-z0-9])?", re.IGNORECASE)
"""A distribution's name, by PEP 508."""
_COMPONENT = re.compile(r"[a-z][a-z0-9_]*")
_PATHS = {"module.py": "${module}.py", "test.py": "tests/test_${component}.py", "gitignore": ".gitignore"}
"""Where templates go whose file is called otherwise."""
_IMPORTED = {*dicm_kit.__all__, "Any", "Container", "Image", "Iterator", "Mapping", "Path", "Tensor"}
"""Names that the templates import: no class of theirs may be called so."""


@dataclass(frozen=True)
class NewPlugin:
    """What was written."""

    folder: Path
    module: str
    component: str
    noun: str
    """As messages call its kind."""
    paths: list[str]
    """The files, relative to the folder."""
    check_keys: str

    def __str__(self) -> str:
        """The files, and the commands to go on with."""
        listed = "\n".join(f"  {path}" for path in self.paths)
        return f"""Wrote {self.folder}, a plugin with the {self.noun} `{self.component}`:
{listed}

It works as it is. There is no licence in it: which one is yours to say.

Next:
  cd {shlex.quote(str(self.folder))}
  dicm check ./{self.module}.py{self.check_keys}
  dicm run recipe.yaml
  dicm compare compare.yaml
  pip install -e ".[test]"
  pytest"""


def new_plugin(name: str, kinds: list[str], component: str | None = None, out: Path | None = None) -> NewPlugin:
    """Writes the distribution `name` into `out` (None: a folder of its name); returns what it wrote.

    `component` is what recipes call its component (None: after `name`, without a `dicm-` in front).

    Raises:
        RecipeError: a name that cannot be or is taken, no such kind, a folder that is not empty; nothing is written.
    """
    kind = _kind(kinds)
    module = _module(name)
    parts = _parts(kind)
    called = _component(name, component, parts["kind"])
    folder = Path(name) if out is None else out
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise RecipeError("there is something already", where=str(folder), todo="Choose another folder with --out DIR.")
    major, minor = dicm_kit.__version__.split(".")[:2]
    names = {
        "dist": name,
        "module": module,
        "component": called,
        "klass": _class(called),
        "oldest": f"{major}.{minor}",
        "newer": f"{major}.{int(minor) + 1}",
    }
    values = names | {key: Template(text).substitute(names) for key, text in parts.items()}
    texts = {path: Template(text).substitute(values) for path, text in _texts(kind, names).items()}
    for path, text in texts.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    made = sorted(texts)
    if kind == "data_source":
        write_fixture(folder / "tests/fixture")
        made.append("tests/fixture/")
    return NewPlugin(folder, module, called, parts["noun"], made, values["check_keys"])


def _kind(kinds: list[str]) -> str:
    known = ", ".join(KINDS)
    if len(kinds) != 1:
        what = "several kinds are given" if kinds else "no kind of component is given"
        more = " Further components can be added to the plugin by hand." if kinds else ""
        raise RecipeError(what, where=_WHERE, todo=f"Give one with --kind: {known}.{more}")
    wanted = kinds[0].lower().replace("-", "_")
    for kind in KINDS:
        if wanted in (kind, _parts(kind)["kind"]):
            return kind
    near = did_you_mean(wanted, KINDS)
    todo = f"{f'{near} ' if near else ''}Kinds: {known}."
    raise RecipeError(f"no kind of component is called `{kinds[0]}`", where=_WHERE, todo=todo)


def _module(name: str) -> str:
    """Returns the name of the distribution's module; refuses a name that cannot be one, or is taken."""
    module = re.sub(r"[-_.]+", "_", name).lower()
    if not _NAME.fullmatch(name) or not module.isidentifier() or keyword.iskeyword(module):
        todo = "Use letters, digits and `-`, with a letter in front, such as `dicm-my-interest`."
        raise RecipeError(f"`{name}` cannot be a distribution's and a module's name", where=_WHERE, todo=todo)
    try:
        taken = distribution(name)
    except PackageNotFoundError:
        if not _is_module(module):
            return module
        raise RecipeError(
            f"`{name}` would have the module `{module}`, and one is called so already",
            where=_WHERE,
            todo="Choose another name, such as one that begins with `dicm-`.",
        ) from None
    raise RecipeError(
        f"a distribution called `{name}` is installed: {taken.name} {taken.version}",
        where=_WHERE,
        todo="Choose another name; if it is an earlier try, uninstall it first.",
    )


def _is_module(name: str) -> bool:
    if name in sys.stdlib_module_names:
        return True
    found = find_spec(name)
    return found is not None and found.origin is not None  # no file: a folder that happens to lie here


def _component(name: str, given: str | None, kind: str) -> str:
    component = given if given is not None else re.sub(r"[-_.]+", "_", name.lower()).removeprefix("dicm_")
    if not _COMPONENT.fullmatch(component):
        raise RecipeError(
            f"`{component}` cannot be a component's name",
            where=_WHERE,
            todo="Give one with --name: small letters, digits and underscores, with a letter in front.",
        )
    for provided in Registry().provided(kind):
        if provided.component.name == component:
            raise RecipeError(
                f"dicm_kit has {_article(provided.kind.noun)} called `{component}` itself, and no name is taken twice",
                where=_WHERE,
                todo="Give another with --name.",
            )
    return component


def _article(noun: str) -> str:
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _class(component: str) -> str:
    klass = "".join(part.capitalize() for part in component.split("_"))
    return f"{klass}Component" if klass in _IMPORTED else klass


def _parts(kind: str) -> dict[str, str]:
    texts = [(_TEMPLATES / each / "parts.yaml").read_text(encoding="utf-8") for each in ("every", kind)]
    every, own = (yaml.safe_load(text) for text in texts)
    return {**every, **own}


def _texts(kind: str, names: dict[str, str]) -> dict[str, str]:
    """Returns the templates of the files to write, by path in the distribution."""
    texts = {}
    for folder in ("every", kind):
        for template in (_TEMPLATES / folder).iterdir():
            called = template.name.removesuffix(".txt")
            if called != template.name:
                path = Template(_PATHS.get(called, called)).substitute(names)
                texts[path] = template.read_text(encoding="utf-8")
    return texts
