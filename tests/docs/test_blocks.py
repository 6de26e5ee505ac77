"""Every code block of every page is tried; blocks.py says how, and what a page may say of its blocks."""

import re
import shutil
import sys
import tomllib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml
from blocks import LANGUAGES, PAGES, REPOSITORY, Block, blocks, command_lines, fails, name_of, saved_files
from little_log import fit_log

from dicm_kit import cli
from dicm_kit.data.sources.log_config import LogConfig
from dicm_kit.recipe.build import rehearse
from dicm_kit.recipe.comparison import load_comparison
from dicm_kit.recipe.load import load

BLOCKS = [block for page in PAGES for block in blocks(page)]
SHELL = {
    ".",
    "[",
    "cat",
    "cd",
    "column",
    "export",
    "find",
    "grep",
    "head",
    "if",
    "ls",
    "mkdir",
    "rm",
    "then",
    "fi",
    "git",
    "source",
    "tar",
}
"""Words of the shell that a page may use beside dicm's commands; what follows them is not looked at."""


def of(language: str, keep: Callable[[Block], bool] = lambda block: True) -> list[Block]:
    """Returns the blocks in a language that are not marked as not run."""
    return [block for block in BLOCKS if block.language == language and block.is_run and keep(block)]


def pages_with(language: str) -> list[Path]:
    return [page for page in PAGES if any(block.language == language for block in blocks(page))]


def test_every_block_says_what_it_is(golden: Callable[[str, str], None]) -> None:
    assert len(BLOCKS) > 60
    assert [str(block) for block in BLOCKS if block.language not in LANGUAGES] == [], f"languages: {LANGUAGES}"
    fences = {page: len(re.findall(r"^```", page.read_text(), re.MULTILINE)) for page in PAGES}
    assert [name_of(page) for page, count in fences.items() if count != 2 * len(blocks(page))] == []
    unknown = [each for each in BLOCKS if each.mark and not re.match(r"into |beside |tried by |not run; ", each.mark)]
    assert [str(block) for block in unknown] == []
    not_run = [block for block in BLOCKS if block.marked("not run;")]
    golden("docs_not_run.txt", "".join(f"{each.page}: {each.language}: {each.mark}\n" for each in not_run))


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.marked("tried by")], ids=str)
def test_a_test_of_its_own_names_the_page(block: Block) -> None:
    assert Path(block.page).name in (REPOSITORY / str(block.marked("tried by"))).read_text()


@pytest.mark.parametrize("page", pages_with("python"), ids=name_of)
def test_python_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "page"}
    for block in blocks(page):
        if block.language == "python" and block.is_run and block.title is None:
            exec(compile(f"{chr(10) * block.line}{block.text}", block.page, "exec"), names)
        elif block.language == "python" and block.is_run:
            compile(block.text, str(block), "exec")  # it is saved, and run by a command or loaded as a plugin


@pytest.mark.parametrize("block", of("toml"), ids=str)
def test_toml_can_be_read(block: Block) -> None:
    tomllib.loads(block.text)


# --- recipes, comparisons, and parts of recipes ---


@pytest.mark.parametrize("block", of("yaml"), ids=str)
def test_yaml_is_what_a_recipe_may_say(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    beside(tmp_path, block)
    file = tmp_path / (block.title or "block.yaml")
    into = block.marked("into")
    if into is None and re.match(r"plugins/\w+/README", block.page):
        into = block.page.replace("README.md", "recipe.yaml")
    if into:
        name, _, plugin = into.partition(" with ")
        home, text = recipe_of(name)
        place(tmp_path, home)
        recipe = merged(yaml.safe_load(text), yaml.safe_load(block.text), plugin)
        fixtures, root = home / "tests/fixture", Path(str(recipe["data"].get("root")))
        if fixtures.is_dir() and root.name != "None":  # a plugin's dataset in small
            recipe["data"]["root"] = str(next(each for each in (fixtures / root.name, fixtures) if each.is_dir()))
            recipe["images"]["backbone"]["weights"] = "none"
        file.write_text(yaml.safe_dump(recipe, sort_keys=False))
    else:
        file.write_text(block.text)
    given = yaml.safe_load(block.text)
    if "compare" in given:
        for row in load_comparison(file).rows:
            rehearsed(row.loaded.path, row.loaded.overrides, tmp_path)
    else:
        assert into or "dicm" in given, f"{block}: some keys only; say whose: <!-- block: into recipes/debug.yaml -->"
        rehearsed(file, [], tmp_path)


def rehearsed(file: Path, overrides: Iterable[str], folder: Path) -> None:
    """Loads a recipe and builds all its parts; a log that is not here is replaced by one of the same form."""
    loaded = load(file, list(overrides))
    if isinstance(loaded.recipe.data.config, LogConfig):
        fit_log(loaded.recipe.data.config, folder / "log")
        loaded = load(file, [*overrides, f"data.root={folder / 'log'}"])
    rehearse(loaded)


def recipe_of(name: str) -> tuple[Path, str]:
    """Returns the folder and the text of a recipe, or of the first one that a page lets be saved."""
    path = REPOSITORY / name
    if path.suffix == ".md":
        return path.parent, next(text for title, text in saved_files(path).items() if title.endswith(".yaml"))
    return path.parent, path.read_text()


def place(folder: Path, home: Path) -> None:
    """Copies what lies beside a recipe: plugin files, other recipes."""
    for each in [*home.glob("*.yaml"), *home.glob("*.py")]:
        shutil.copy(each, folder)


def beside(folder: Path, block: Block) -> None:
    """Puts the other files of the page beside the block, and what its mark names."""
    files = saved_files(REPOSITORY / block.page)
    for name in (block.marked("beside") or "").split():
        path = REPOSITORY / name
        if path.is_dir():
            place(folder, path)
        else:
            files |= saved_files(path)
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def merged(recipe: dict[str, Any], keys: dict[str, Any], plugin: str) -> dict[str, Any]:
    """Returns the recipe with these keys: `data: {negatives: ...}` replaces what `data.negatives` was, and no more.

    Installed plugins are not here: a file stands for them, the recipe's own if none is named.
    """
    result = dict(recipe)
    for name, value in keys.items():
        result[name] = result.get(name, {}) | value if isinstance(value, dict) else value
    if "plugins" in keys:
        result["plugins"] = [str(REPOSITORY / plugin)] if plugin else recipe["plugins"]
    return result


# --- commands ---


@pytest.mark.parametrize("page", pages_with("bash"), ids=name_of)
def test_commands_are_such_as_there_are(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parsed, those that are marked as not run, too; running is test_tutorial.py's."""
    monkeypatch.chdir(tmp_path)
    for name in ("recipes", "plugins", "tests"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    for block in blocks(page):
        if block.language == "bash":
            beside(tmp_path, block)
            for words in command_lines(block.text):
                try:
                    parse(words, loads=not fails(page, block) and block.marked("tried by") is None)
                except Exception as error:
                    raise AssertionError(f"{block}: {' '.join(words)}: {error}") from error


def parse(words: list[str], loads: bool) -> None:
    """Raises unless this is a command that a reader can give."""
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):  # VARIABLE=value before a command
        words = words[1:]
    if not words:
        return
    match words:
        case ["dicm" | "lightning", *arguments]:
            parse_dicm(arguments, loads)
        case ["torchrun" | "srun", *rest]:
            at = rest.index("dicm_kit" if "dicm_kit" in rest else "dicm")
            parse_dicm(rest[at + 1 :], loads)
        case ["python", "-m", "dicm_kit", *arguments]:
            parse_dicm(arguments, loads)
        case ["make", *goals]:
            rules = re.findall(r"^(\w+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
            assert set(goals) <= set(rules), f"the Makefile has {rules}"
        case ["pip", "install", *rest]:
            folders = [each for each in rest if "/" in each]
            assert all(Path(each).is_dir() for each in folders), folders
        case ["python" | "pytest", *rest]:
            files = [each for each in rest if each.endswith(".py") or ("/" in each and each[:1] not in "-/")]
            assert all(Path(each).exists() for each in files), f"{files}: not there"
        case _:
            assert words[0] in SHELL, f"{words[0]}: no command that this test knows"


def parse_dicm(arguments: list[str], loads: bool) -> None:
    """Parses a call of dicm and, where its recipe is there, loads it with the overrides given."""
    if arguments[0] in ("--help", "--version"):
        return
    words = [word for word in arguments if not word.startswith("${")]  # of the shell: ${RESUME:-}
    assert words[0] in cli.COMMANDS, f"commands: {', '.join(cli.COMMANDS)}"
    cli._parser(words[0]).parse_intermixed_args(words[1:])
    recipes = [Path(word) for word in words[1:] if word.endswith(".yaml") and Path(word).is_file()]
    overrides = [word for word in words[1:] if re.match(r"[a-z_.]+=", word) and not word.startswith("base=")]
    for recipe in recipes if loads and words[0] != "cp" else ():
        if any(re.fullmatch(r"[\w.]+=[A-Z]+", word) for word in overrides):  # data.root=DIR: the reader's own
            continue
        if "compare" in yaml.safe_load(recipe.read_text()):
            load_comparison(recipe, overrides)
        else:
            load(recipe, overrides)


def test_modules_of_pages_are_not_left_behind() -> None:
    """Plugins that a page lets be saved must not shadow another's."""
    assert [name for name in sys.modules if name.startswith("my_aggregator")] == []
