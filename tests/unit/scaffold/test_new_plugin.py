"""What `dicm new plugin` writes works as it is: lint, its own tests, check, recipe, comparison, a wheel."""

import os
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from dicm_kit import cli
from dicm_kit.errors import RecipeError
from dicm_kit.recipe.comparison import load_comparison
from dicm_kit.registry import Registry
from dicm_kit.scaffold.new_plugin import KINDS, NewPlugin, new_plugin

REPOSITORY = Path(__file__).parents[3]
LONG = "dicm-visual-session-interest"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, NewPlugin]:
    """One distribution of each kind."""
    folder = tmp_path_factory.mktemp("new")
    return {kind: new_plugin(f"dicm-my-{kind.replace('_', '-')}", [kind], out=folder / kind) for kind in KINDS}


def _run(folder: Path, *command: str, path: Sequence[Path] = ()) -> str:
    """Returns what a Python module printed; nothing is installed, it is found by PYTHONPATH."""
    paths = os.pathsep.join(map(str, [*path, REPOSITORY]))
    environment = os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
    environment.pop("PYTEST_ADDOPTS", None)
    done = subprocess.run([sys.executable, "-m", *command], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def _lint(folder: Path) -> None:
    for rules in ([], ["--config", str(REPOSITORY / "pyproject.toml")]):  # its own, and the stricter ones of dicm_kit
        _run(folder, "ruff", "check", "--no-cache", *rules, ".")


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_lint_free(kind: str, made: dict[str, NewPlugin], tmp_path: Path) -> None:
    _lint(made[kind].folder)
    _run(made[kind].folder, "ruff", "format", "--no-cache", "--check", ".")
    _lint(new_plugin(LONG, [kind], out=tmp_path / "long").folder)  # the lines are as long as the name makes them


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_left_for_the_user_to_fill_in(kind: str, made: dict[str, NewPlugin]) -> None:
    plugin = made[kind]
    files = [file for file in plugin.folder.rglob("*") if file.suffix in (".py", ".toml", ".yaml", ".md")]
    assert len(files) == 6
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert "$" not in text
        assert "TODO" not in text
        assert "  \n" not in text
    assert {str(each.relative_to(plugin.folder)) for each in files} < set(plugin.paths)
    assert not list(plugin.folder.glob("LICENSE*"))


@pytest.mark.timeout(900)  # a busy machine: two ranks are started
def test_their_own_tests_pass(made: dict[str, NewPlugin]) -> None:
    """In one go, since torch takes its time to be imported; pytest takes the first one's settings.

    The Contract runs for one of them: what it checks of the others, `dicm check` does in the next test.
    """
    folders = [plugin.folder for plugin in made.values()]
    assert folders[0].name == "aggregator"
    chosen = ["-k", "not test_contract or TestMyAggregator"]
    command = ["pytest", "-p", "no:cacheprovider", "-W", "error", "-vv", *chosen, *map(str, folders)]
    text = _run(folders[0], *command, path=folders[1:])
    for plugin in made.values():
        assert text.count(f"test_{plugin.component}.py::test_") >= 2
    assert text.count("::TestMyAggregator::test_contract[") > 40


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", KINDS)
def test_check_finds_everything_in_order(
    kind: str, made: dict[str, NewPlugin], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    plugin = made[kind]
    monkeypatch.chdir(plugin.folder)
    assert cli.main(["check", f"./{plugin.module}.py", *plugin.check_keys.split(), "--timeout", "600"]) == 0
    text = capfd.readouterr().out
    assert f"\n  {plugin.noun} {plugin.component} " in text
    assert ": all in order.\n" in text
    assert cli.main(["check", "recipe.yaml"]) == 0
    text = capfd.readouterr().out
    assert f"plugins   ./{plugin.module}.py" in text
    assert cli.main(["check", "compare.yaml"]) == 0
    assert " rows, differences to " in capfd.readouterr().out


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "data_source"])
def test_rows_without_the_plugin_do_not_list_it(kind: str, made: dict[str, NewPlugin]) -> None:
    """So that their runs are taken as they are after a change of the plugin; a data source is in every row."""
    comparison = load_comparison(made[kind].folder / "compare.yaml", [])
    listed = {row.name: row.loaded.recipe.plugins for row in comparison.rows}
    assert listed.pop(made[kind].component) == [f"./{made[kind].module}.py"]
    assert listed
    assert not any(listed.values())


def test_the_recipe_of_an_aggregator_trains(
    made: dict[str, NewPlugin], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = str(made["aggregator"].folder / "recipe.yaml")
    small = ["data.users=40", "data.items=40", "data.impressions=2000", "data.picture_size=16", "batch_size=64"]
    assert cli.main(["run", recipe, *small, "trainer.max_steps=4"]) == 0
    assert "runs/my_aggregator: test split of data/shop" in capsys.readouterr().out
    assert (tmp_path / "runs/my_aggregator/test.json").is_file()


def test_it_becomes_a_wheel_that_a_recipe_can_list_by_name(
    made: dict[str, NewPlugin], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("setuptools", reason="a wheel is built with setuptools", minversion="77")
    plugin = made["aggregator"]
    # Without isolation and dependencies: nothing is fetched.
    _run(
        plugin.folder, "pip", "wheel", "-q", "--no-build-isolation", "--no-deps", "--no-index", "-w", str(tmp_path), "."
    )
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name == "dicm_my_aggregator-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
        names = {name for name in archive.namelist() if ".dist-info" not in name}
        metadata = archive.read("dicm_my_aggregator-0.1.0.dist-info/METADATA").decode()
    assert names == {"dicm_my_aggregator.py"}
    assert "Requires-Dist: dicm-kit<0.2,>=0.1\n" in metadata
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    monkeypatch.delitem(sys.modules, plugin.module, raising=False)
    registry = Registry.load(["dicm-my-aggregator"], tmp_path)
    monkeypatch.delitem(sys.modules, plugin.module)
    assert registry.plugins[-1].version == "0.1.0"
    assert registry.find("interest_aggregator", "my_aggregator").config.__name__ == "MyAggregatorConfig"


def test_a_component_is_called_after_the_distribution_or_as_said(tmp_path: Path) -> None:
    plugin = new_plugin("Dicm-Two.Parts", ["base-net"], out=tmp_path / "a")
    assert (plugin.module, plugin.component) == ("dicm_two_parts", "two_parts")
    plugin = new_plugin("dicm-two-parts", ["base_net"], "cross", tmp_path / "b")
    assert 'name="cross",' in (tmp_path / "b/dicm_two_parts.py").read_text()
    assert (plugin.component, (tmp_path / "b/tests/test_cross.py").is_file()) == ("cross", True)


def test_a_class_never_hides_what_the_module_imports(tmp_path: Path) -> None:
    new_plugin("dicm-interest", ["aggregator"], out=tmp_path / "interest")
    text = (tmp_path / "interest/dicm_interest.py").read_text()
    assert "class InterestComponent(InterestAggregator):" in text
    _lint(tmp_path / "interest")


def test_an_empty_folder_is_taken_and_no_file_is_written_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("dicm-here").mkdir()
    assert cli.main(["new", "plugin", "dicm-here", "--kind", "encoder"]) == 0
    text = capsys.readouterr().out
    assert text.startswith("Wrote dicm-here, a plugin with the encoder `here`:\n  .gitignore\n")
    assert "\nNext:\n  cd dicm-here\n  dicm check ./dicm_here.py\n" in text
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    assert cli.main(["new", "plugin", "dicm-here", "--kind", "base_net"]) == 2
    assert "there is something already" in capsys.readouterr().err
    assert before == {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}


@pytest.mark.parametrize(
    ("name", "says"),
    [("pytest", "a distribution called `pytest` is installed: pytest "), ("json", "one is called so already")],
)
def test_a_name_that_is_taken_is_refused(name: str, says: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=says):
        new_plugin(name, ["aggregator"], out=tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("name", ["", "-dicm", "dicm-", "dicm interest", "../dicm", "2nd-interest", "class", "dicm/x"])
def test_a_name_that_cannot_be_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="cannot be a distribution's"):
        new_plugin(name, ["aggregator"], out=tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_a_component_without_a_letter_in_front_needs_a_name(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"`2tower` cannot be.*\n\n  Give one with --name"):
        new_plugin("dicm-2tower", ["base_net"], out=tmp_path / "new")
    assert new_plugin("dicm-2tower", ["base_net"], "two", tmp_path / "new").component == "two"


def test_the_fixture_is_the_same_each_time(made: dict[str, NewPlugin], tmp_path: Path) -> None:
    again = new_plugin("dicm-my-data-source", ["data_source"], out=tmp_path / "again").folder
    files = sorted((again / "tests/fixture").rglob("*.*"))
    assert len(files) > 20
    first = made["data_source"].folder
    assert all(file.read_bytes() == (first / file.relative_to(again)).read_bytes() for file in files)


def test_every_template_is_in_the_package() -> None:
    """A pattern that is missed is not missed in a checkout, only in a wheel."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
    package = REPOSITORY / "dicm_kit"
    packed = {file for glob in project["tool"]["setuptools"]["package-data"]["dicm_kit"] for file in package.glob(glob)}
    templates = {file for file in (package / "scaffold/templates").rglob("*") if file.is_file()}
    assert len(templates) > 20
    assert templates <= packed
