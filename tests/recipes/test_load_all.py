"""Every recipe of the repository loads, can be built, and says in its header what it is."""

import re
from pathlib import Path

import pytest
import yaml
from little_log import fit_log

from dicm_kit.data.sources.log_config import LogConfig
from dicm_kit.recipe.build import rehearse
from dicm_kit.recipe.comparison import is_comparison, load_comparison
from dicm_kit.recipe.load import dump, load

REPOSITORY = Path(__file__).parents[2]
FILES = sorted(each for folder in ("recipes", "plugins") for each in (REPOSITORY / folder).rglob("*.yaml"))
COMPARISONS = [each for each in FILES if is_comparison(each)]
RECIPES = [each for each in FILES if each not in COMPARISONS]
TRIED_ON = {"dicm_movielens": "ml-100k", "dicm_microlens": "MicroLens-50k", "dicm_hm": ".", "dicm_taobao_ad": "."}
"""Plugin whose data are not here -> the part of its tests' fixture that stands for them."""
HEADER = ("Paper", "Needs", "Run", "Try", "Expect")


def test_all_are_found() -> None:
    """A recipe that moves or goes changes this number: nobody loses one unnoticed."""
    assert len(RECIPES) == 22, [str(each.relative_to(REPOSITORY)) for each in RECIPES]
    assert len(COMPARISONS) == 12, [str(each.relative_to(REPOSITORY)) for each in COMPARISONS]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_it_loads_and_can_be_built(path: Path, tmp_path: Path) -> None:
    given = dict.fromkeys(_to_be_given(path), "given")
    if path.parent.name in TRIED_ON:
        given["data.root"] = str(path.parent / "tests/fixture" / TRIED_ON[path.parent.name])
    loaded = load(path, [f"{key}={value}" for key, value in given.items()])
    config = loaded.recipe.data.config
    if isinstance(config, LogConfig):  # a log that is not here: one of the same form stands for it
        loaded = load(path, [f"{key}={value}" for key, value in (given | {"data.root": str(tmp_path / "log")}).items()])
        fit_log(config, tmp_path / "log")
    rehearse(loaded)
    (tmp_path / "again.yaml").write_text(dump(loaded.recipe, path.parent))
    again = load(tmp_path / "again.yaml").recipe
    again.plugins = loaded.recipe.plugins  # absolute in the copy
    # Configs of plugin files are of another class after another import: compared as text.
    assert dump(again) == dump(loaded.recipe)


@pytest.mark.parametrize("path", COMPARISONS, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_every_row_of_a_comparison_can_be_built(path: Path, tmp_path: Path) -> None:
    given = dict.fromkeys(_to_be_given(path.parent / yaml.safe_load(path.read_text())["base"]), "given")
    if "data.root" in given:
        given["data.root"] = str(tmp_path / "log")
    rows = load_comparison(path, [f"{key}={value}" for key, value in given.items()]).rows
    config = rows[0].loaded.recipe.data.config  # all rows share their data
    if isinstance(config, LogConfig):
        fit_log(config, tmp_path / "log")
    for row in rows:
        rehearse(row.loaded)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_its_header_says_what_to_know_before_running_it(path: Path) -> None:
    header = re.match(r"(#.*\n)+", path.read_text())
    assert header, "a recipe opens with a comment"
    assert [name for name in HEADER if f"# {name}:" not in header[0]] == []
    assert f"Run:{' ' * 4}" in header[0]
    assert str(path.relative_to(REPOSITORY)) in header[0], "its command names it"


def _to_be_given(path: Path) -> list[str]:
    """Returns the dotted names of keys that are `???`, in recipes that write them in block style."""
    keys, above = [], []
    for line in path.read_text().splitlines():
        if match := re.match(r"( *)([A-Za-z_]\w*):(.*)", line):
            depth = len(match[1]) // 2
            above[depth:] = [match[2]]
            if match[3].split("#")[0].strip() == "???":
                keys.append(".".join(above))
    return keys
