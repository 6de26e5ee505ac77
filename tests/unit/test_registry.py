"""Plugins: what loads, and every way in which one does not, with the text a user reads."""

import sys
from collections.abc import Callable
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

import pytest

from dicm_kit import __version__
from dicm_kit.errors import FieldError, PluginError
from dicm_kit.plugin_modules import installed
from dicm_kit.registry import KINDS, Registry, unlisted

COMPONENT = """
from dataclasses import dataclass
from torch import nn
from dicm_kit import Component, FieldError, InterestAggregator, Interest, hookimpl
dicm_api = 1

@dataclass
class Config:
    width: int = 3

class Mine(InterestAggregator):
    uses_target = False
    def __init__(self, width):
        super().__init__()
        self.out_dim = width
    def forward(self, query, history, mask_BL, need_weights=False):
        return Interest(history["image"].sum(1))
"""
HOOK = """
@hookimpl
def dicm_interest_aggregators():
    return [Component(name="mine", config=Config, build=lambda config, shapes: Mine(config.width))]
"""


@pytest.fixture(autouse=True)
def only_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hides the plugins that are installed on this machine."""

    def within(group: str) -> list[EntryPoint]:
        return [each for each in entry_points(group=group) if str(each.dist.locate_file("")).startswith(str(tmp_path))]

    monkeypatch.setattr("dicm_kit.plugin_modules.entry_points", within)


@pytest.fixture
def plugin(tmp_path: Path) -> Callable[..., str]:
    """Writes a plugin file beside the recipe and returns how a recipe lists it."""

    def write(text: str, name: str = "p.py") -> str:
        (tmp_path / name).write_text(text)
        return f"./{name}"

    return write


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts a distribution with one plugin module on the path, as pip would."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))

    def write(name: str, text: str, version: str = "0.2", entry: str = "main", group: str = "dicm_kit") -> None:
        module = name.replace("-", "_")
        (site / f"{module}.py").write_text(text)
        info = site / f"{module}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[{group}]\n{entry} = {module}\n")
        monkeypatch.delitem(sys.modules, module, raising=False)

    return write


def error_of(listed: list[str], base: Path) -> str:
    with pytest.raises(PluginError) as caught:
        Registry.load(listed, base)
    return f"{caught.value}\n".replace(__version__, "VERSION").replace(f"{base}/", "")


def test_builtin_components_are_there_by_the_same_door() -> None:
    registry = Registry()
    assert [str(each) for each in registry.plugins] == [f"dicm_kit {__version__}"]
    assert {each.kind.name for each in registry.provided()} == set(KINDS)
    assert registry.find("feature_encoder", "id").name == "id"


def test_a_file_beside_the_recipe_provides_a_component(plugin: Callable[..., str], tmp_path: Path) -> None:
    registry = Registry.load([plugin(COMPONENT + HOOK)], tmp_path)
    component = registry.find("interest_aggregator", "mine")
    built = registry.build("interest_aggregator", "mine", component.config(width=5), None)
    assert built.out_dim == 5
    assert str(registry.owner("interest_aggregator", "mine").plugin) == "./p.py"


def test_two_files_of_one_name_are_two_modules(tmp_path: Path) -> None:
    for folder, name in (("a", "first"), ("b", "second")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "p.py").write_text(COMPONENT + HOOK.replace('"mine"', f'"{name}"'))
    registry = Registry.load(["a/p.py", "b/p.py"], tmp_path)
    assert (
        registry.find("interest_aggregator", "first").config
        is not registry.find("interest_aggregator", "second").config
    )


def test_an_installed_plugin_is_found_by_its_distributions_name(install: Callable[..., None], tmp_path: Path) -> None:
    install("dicm-din", COMPONENT + HOOK)
    registry = Registry.load(["dicm_din"], tmp_path)  # pip takes both spellings
    assert [str(each) for each in registry.plugins] == [f"dicm_kit {__version__}", "dicm-din 0.2"]
    assert "dicm-din" in installed()


def test_the_code_of_a_plugin_is_known_by_its_files(install: Callable[..., None], tmp_path: Path) -> None:
    def code(listed: str) -> str | None:
        return Registry.load([listed], tmp_path).plugins[-1].code

    (tmp_path / "p.py").write_text(COMPONENT + HOOK)
    first = code("./p.py")
    (tmp_path / "copy.py").write_text(COMPONENT + HOOK)
    assert first == code("./copy.py")
    (tmp_path / "p.py").write_text(COMPONENT + HOOK + "# other\n")
    assert first != code("./p.py")
    install("dicm-din", COMPONENT + HOOK)
    assert code("dicm-din") == first, "a module by itself, whatever lies beside it"
    install("dicm-pack", "")
    (tmp_path / "site/dicm_pack.py").unlink()
    (tmp_path / "site/dicm_pack").mkdir()
    (tmp_path / "site/dicm_pack/__init__.py").write_text(COMPONENT + HOOK)
    (tmp_path / "site/dicm_pack/part.py").write_text("WIDTH = 3\n")
    whole = code("dicm-pack")
    (tmp_path / "site/dicm_pack/part.py").write_text("WIDTH = 4\n")
    assert whole != code("dicm-pack"), "a package with all its parts"
    assert Registry().plugins[0].code is None


def test_entry_points_of_the_same_name_are_both_loaded(install: Callable[..., None], tmp_path: Path) -> None:
    install("dicm-din", COMPONENT + HOOK)
    install("dicm-dien", COMPONENT + HOOK.replace('"mine"', '"other"'))
    registry = Registry.load(["dicm-din", "dicm-dien"], tmp_path)
    assert registry.find("interest_aggregator", "mine")
    assert registry.find("interest_aggregator", "other")


def test_unlisted_plugins_are_imported_only_for_a_suggestion(install: Callable[..., None], tmp_path: Path) -> None:
    install("dicm-din", COMPONENT + HOOK)
    install("dicm-broken", "raise RuntimeError('never asked for')")
    registry = Registry.load([], tmp_path)
    assert "dicm_din" not in sys.modules
    with pytest.raises(PluginError) as caught:
        registry.find("interest_aggregator", "mine")
    assert caught.value.what == "no aggregator is called `mine`"
    assert caught.value.todo == "`mine` comes from the installed plugin `dicm-din`. Add `- dicm-din` under `plugins:`."
    assert [str(each.plugins[-1]) for each in unlisted([])] == ["dicm-din 0.2"]


CASES = {
    "misspelt_hook": COMPONENT + HOOK.replace("aggregators", "agregators"),
    "no_hook": COMPONENT,
    "unmarked_hook": COMPONENT + HOOK.replace("@hookimpl", ""),
    "no_api": (COMPONENT + HOOK).replace("dicm_api = 1", ""),
    "old_api": (COMPONENT + HOOK).replace("dicm_api = 1", "dicm_api = 0"),
    "new_api": (COMPONENT + HOOK).replace("dicm_api = 1", "dicm_api = 2"),
    "import_failure": "import nonexistent_dep",
    "syntax_error": "def f(:\n",
    "exit_at_import": "raise SystemExit(3)",
    "hook_fails": COMPONENT + HOOK.replace("return", "1 / 0\n    return"),
    "hook_with_argument": COMPONENT + HOOK.replace("aggregators()", "aggregators(recipe)"),
    "not_a_list": COMPONENT + HOOK.replace("return [", "return (").replace("width))]", "width)))"),
    "bad_name": COMPONENT + HOOK.replace('"mine"', '"My Thing"'),
    "config_no_dataclass": COMPONENT + HOOK.replace("config=Config", "config=dict"),
    "name_of_a_builtin": COMPONENT + HOOK.replace('"mine"', '"sum"'),
    "name_twice": COMPONENT + HOOK.replace("return [", "one = ").replace("width))]", "width))\n    return [one, one]"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_broken_plugin_file(
    case: str, plugin: Callable[..., str], tmp_path: Path, golden: Callable[[str, str], None]
) -> None:
    golden(f"errors/plugin_{case}.txt", error_of([plugin(CASES[case])], tmp_path))


def test_two_plugins_with_one_name(
    install: Callable[..., None], tmp_path: Path, golden: Callable[[str, str], None]
) -> None:
    install("dicm-din", COMPONENT + HOOK)
    install("dicm-dien", COMPONENT + HOOK)
    golden("errors/plugin_conflict.txt", error_of(["dicm-din", "dicm-dien"], tmp_path))


def test_listed_twice(plugin: Callable[..., str], tmp_path: Path, golden: Callable[[str, str], None]) -> None:
    listed = plugin(COMPONENT + HOOK)
    golden("errors/plugin_listed_twice.txt", error_of([listed, listed], tmp_path))


def test_not_installed_names_the_nearest_and_never_says_to_install(
    install: Callable[..., None], tmp_path: Path, golden: Callable[[str, str], None]
) -> None:
    install("dicm-din", COMPONENT + HOOK)
    install("dicm-dien", COMPONENT + HOOK)
    text = error_of(["dicm-dinn"], tmp_path)
    golden("errors/plugin_not_installed.txt", text)
    assert "pip" not in text
    assert "dicm_din" not in sys.modules


def test_not_installed_and_not_like_any_that_is(install: Callable[..., None], tmp_path: Path) -> None:
    install("dicm-taobao-ad", COMPONENT + HOOK)
    text = error_of(["dicm-cosine-fade"], tmp_path)
    assert "Did you mean" not in text  # `dicm-` alone makes no two alike
    assert "Did you mean `dicm-taobao-ad`?" in error_of(["dicm_taobao_adds"], tmp_path)


@pytest.mark.parametrize(
    ("file", "todo"),
    [
        ("dicm_fade.py", "name that, `./dicm_fade.py`; or install it: `pip install -e .`."),
        ("dicm-fade/dicm_fade.py", "name that, `./dicm-fade/dicm_fade.py`; or install it: `pip install -e dicm-fade`."),
        ("dicm_fade/dicm_fade.py", "name that, `./dicm_fade/dicm_fade.py`; or install it: `pip install -e dicm_fade`."),
    ],
)
def test_not_installed_and_its_file_is_here(file: str, todo: str, tmp_path: Path) -> None:
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).touch()
    assert error_of(["dicm-fade"], tmp_path).endswith(todo + "\n")


def test_installed_but_no_plugin(
    install: Callable[..., None], tmp_path: Path, golden: Callable[[str, str], None]
) -> None:
    install("somebody", "", group="console_scripts")
    golden("errors/plugin_is_none.txt", error_of(["somebody"], tmp_path))


def test_an_installed_plugin_that_fails(
    install: Callable[..., None], tmp_path: Path, golden: Callable[[str, str], None]
) -> None:
    install("bad", "import nonexistent_dep", version="0.1")
    golden("errors/plugin_installed_import_failure.txt", error_of(["bad"], tmp_path))


def test_a_file_that_is_not_there(
    plugin: Callable[..., str], tmp_path: Path, golden: Callable[[str, str], None]
) -> None:
    plugin(COMPONENT + HOOK, "my_aggregator.py")
    golden("errors/plugin_file_missing.txt", error_of(["./my_agregator.py"], tmp_path))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("Mine(config.width)", "'text'", "built a str, no InterestAggregator"),
        ("Mine(config.width)", "1 / 0", "could not be built: ZeroDivisionError: division by zero"),
    ],
)
def test_what_a_plugin_builds_is_looked_at(
    old: str, new: str, message: str, plugin: Callable[..., str], tmp_path: Path
) -> None:
    registry = Registry.load([plugin(COMPONENT + HOOK.replace(old, new))], tmp_path)
    component = registry.find("interest_aggregator", "mine")
    with pytest.raises(PluginError, match=message):
        registry.build("interest_aggregator", "mine", component.config(), None)


def test_a_component_must_set_what_its_interface_names(plugin: Callable[..., str], tmp_path: Path) -> None:
    text = (COMPONENT + HOOK).replace("self.out_dim = width", "pass").replace("uses_target = False", "")
    registry = Registry.load([plugin(text)], tmp_path)
    with pytest.raises(PluginError, match="does not set `uses_target`, `out_dim`"):
        registry.build("interest_aggregator", "mine", registry.find("interest_aggregator", "mine").config(), None)


def test_a_field_error_passes_through(plugin: Callable[..., str], tmp_path: Path) -> None:
    text = COMPONENT + HOOK.replace("lambda config, shapes: Mine(config.width)", "refuse")
    text += "\ndef refuse(config, shapes):\n    raise FieldError('width', 'is odd')\n"
    registry = Registry.load([plugin(text)], tmp_path)
    with pytest.raises(FieldError, match="is odd"):
        registry.build("interest_aggregator", "mine", None, None)


def test_trace_says_what_was_loaded_from_where(
    plugin: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DICM_TRACE_PLUGINS", "1")
    Registry.load([plugin(COMPONENT + HOOK)], tmp_path)
    line = capsys.readouterr().err.splitlines()[-1]
    assert line == f"dicm: plugin ./p.py from {tmp_path / 'p.py'} provides interest_aggregator/mine"
