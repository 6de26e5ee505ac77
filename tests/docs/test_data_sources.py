"""docs/plugins/data_sources.md, block by block, on a market of made-up bikes; recipes in the plugins' README.md."""

import ast
import runpy
from pathlib import Path

import numpy as np
import pytest
import yaml
from blocks import blocks, command_lines, saved_files
from little_shop import picture

from dicm_kit import DicmError, cli
from dicm_kit.recipe.build import rehearse
from dicm_kit.recipe.load import load
from dicm_kit.testing.plan import plan

REPOSITORY = Path(__file__).parents[2]
PAGE = REPOSITORY / "docs/plugins/data_sources.md"
TRIED_ON = {"dicm_movielens": "ml-1m", "dicm_hm": ".", "dicm_microlens": "MicroLens-50k", "dicm_taobao_ad": "."}
FIRST = 1_714_521_600_000  # 2024-05-01 in milliseconds


@pytest.fixture
def market(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the data as the page describes them and with its files, as the current one."""
    draw, folder = np.random.default_rng(0), tmp_path / "bikes"
    (folder / "photos").mkdir(parents=True)
    bikes = range(4700, 4720)
    visits = []
    for _ in range(400):
        time, contacted = FIRST + int(draw.integers(4 * 86_400_000)), int(draw.random() < 0.4)
        visits.append(f"v{draw.integers(20)}\t{draw.choice(bikes)}\t{time}\t{contacted}")
    (folder / "visits.txt").write_text("\n".join(visits) + "\n")
    rows = [f"{bike};{'Müsing' if bike % 3 else ''};gravel;{300 + bike % 7 * 100}" for bike in bikes]
    (folder / "bikes.csv").write_bytes("\n".join(["bike;brand;kind;price", *rows, ""]).encode("latin-1"))
    for bike in bikes[:-2]:
        (folder / f"photos/{bike}.png").write_bytes(picture(bike % 250))
    for name, text in saved_files(PAGE).items():
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_its_commands_in_order(market: Path) -> None:
    assert sorted(path.name for path in market.glob("*.*")) == ["bikes.py", "bikes.yaml", "test_bikes.py"]
    commands = [words for block in blocks(PAGE) if block.language == "bash" for words in command_lines(block.text)]
    assert [words[1] for words in commands] == ["check", "check", "prepare", "run"]
    for words in commands:
        assert cli.main(words[1:]) == 0
    assert (market / "runs/bikes/test.json").is_file()
    assert "brand Müsing" in (market / "data/bikes/audit.txt").read_text()


def test_its_contract_holds(market: Path) -> None:
    (contract,) = (
        each for name, each in runpy.run_path(str(market / "test_bikes.py")).items() if name.startswith("Test")
    )
    outcomes = [(item.id, item.judge()) for item in plan("data_source", contract.component, configs=contract.configs)]
    assert len(outcomes) >= 4
    assert [(name, outcome.text) for name, outcome in outcomes if outcome.state == "failed"] == []


def test_a_wrong_line_is_named(market: Path) -> None:
    path = market / "bikes/visits.txt"
    path.write_text(path.read_text() + "v3\t4701\tyesterday\t1\n")
    source = runpy.run_path(str(market / "bikes.py"))
    made = source["build"](source["BikesConfig"](root="bikes"))
    with pytest.raises(DicmError, match=r"visits.txt:401: `milliseconds` is no whole number: 'yesterday'"):
        list(made.impressions("visits.txt"))


def test_it_is_short() -> None:
    """The number that the project promises: a source for a dataset that nobody prepared before, under 120 lines."""
    code = saved_files(PAGE)["bikes.py"]
    ast.parse(code)
    assert 50 < len([line for line in code.splitlines() if line.strip()]) < 120


@pytest.mark.parametrize(("plugin", "part"), TRIED_ON.items())
def test_what_a_readme_says_of_recipes(plugin: str, part: str, tmp_path: Path) -> None:
    (block,) = (each for each in blocks(REPOSITORY / "plugins" / plugin / "README.md") if each.language == "yaml")
    said, text = yaml.safe_load(block.text), (REPOSITORY / "plugins" / plugin / "recipe.yaml").read_text()
    assert said["plugins"] == [plugin.replace("_", "-")]
    recipe = yaml.safe_load(text.replace("???", "none"))
    recipe |= {
        "plugins": [str(REPOSITORY / "plugins" / plugin / f"{plugin}.py")],
        "data": recipe["data"] | said["data"],
    }
    recipe["data"]["root"] = str(REPOSITORY / "plugins" / plugin / "tests/fixture" / part)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    rehearse(load(tmp_path / "recipe.yaml"))
