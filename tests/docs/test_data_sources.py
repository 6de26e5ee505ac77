"""docs/plugins/data_sources.md, block by block, on a market of made-up bikes; recipes in the plugins' README.md."""

import ast
import gzip
import json
import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import yaml
from blocks import blocks, command_lines, saved_files
from little_shop import picture

from dicm_kit import DicmError, cli
from dicm_kit.data.audit import audit
from dicm_kit.data.prepare import PrepareOptions, prepare
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
    saved = ["bikes.py", "bikes.yaml", "dishes.py", "test_bikes.py"]
    assert sorted(path.name for path in market.glob("*.*")) == saved
    commands = [words for block in blocks(PAGE) if block.language == "bash" for words in command_lines(block.text)]
    assert [words[1] for words in commands] == ["check", "check", "prepare", "run", "check"]
    write_dishes(market / "dishes")
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


def write_dishes(folder: Path, days: int = 4) -> None:
    """Writes four days of 20 pages as the page describes them, two in the same second; a dish of two pages is opened
    in one of them."""
    (folder / "events").mkdir(parents=True)
    dishes = [{"id": f"d{number}", "cuisine": "thai" if number % 2 else None} for number in range(7)]
    (folder / "dishes.jsonl").write_text("".join(f"{json.dumps(dish)}\n" for dish in dishes))
    for day in range(10, 10 + days):
        pages = [
            {
                "at": f"2026-03-{day}T08:{number:02}:{number % 2:02}.{number % 3}97Z",
                "guest": f"g{number % 4}",
                "shown": [f"d{(number + day + place) % 7}" for place in range(3)],
                "opened": [f"d{(number + day + 1) % 7}"] * (number % 3 > 0),
            }
            for number in range(20)
        ]
        pages[1] |= {"at": pages[0]["at"], "guest": pages[0]["guest"]}
        text = "".join(f"{json.dumps(page)}\n" for page in pages)
        (folder / f"events/2026-03-{day}.jsonl.gz").write_bytes(gzip.compress(text.encode()))


def dishes(market: Path) -> Any:
    source = runpy.run_path(str(market / "dishes.py"))
    (component,) = source["dicm_data_sources"]()
    return component.build(component.config(root="dishes"))


def test_dishes_of_a_page_have_one_time_and_order(market: Path) -> None:
    write_dishes(market / "dishes", days=5)
    source = dishes(market)
    assert list(source.pieces) == [f"events/2026-03-{day}.jsonl.gz" for day in range(10, 15)]
    rows = pa.Table.from_batches(source.impressions("events/2026-03-10.jsonl.gz")).to_pylist()
    assert [(row["user"], row["item"], row["order"], row["label"], row["place"]) for row in rows[9:15]] == [
        ("g3", "d6", 97_000, 0, 0),
        ("g3", "d0", 97_000, 0, 1),
        ("g3", "d1", 97_000, 0, 2),
        ("g0", "d0", 197_000, 0, 0),
        ("g0", "d1", 197_000, 1, 1),
        ("g0", "d2", 197_000, 0, 2),
    ]
    assert {row["time"] for row in rows[12:15]} == {1_773_129_840}
    assert sum(row["label"] for row in rows) == 13
    dataset = prepare(source, PrepareOptions(lanes=2, partitions=2), market / "out", progress=False)
    assert sum(split.impressions for split in dataset.splits.values()) == 5 * 60
    assert sum(split.groups for split in dataset.splits.values()) == 5 * 19, "two pages of a guest are of one moment"
    (ages, *_) = audit(dataset).checks
    assert (ages.outcome, "same second" in ages.said) == ("ok", False)


def test_a_page_with_a_wrong_time_is_named(market: Path) -> None:
    write_dishes(market / "dishes")
    file = market / "dishes/events/2026-03-11.jsonl.gz"
    file.write_bytes(gzip.compress(gzip.decompress(file.read_bytes()).replace(b"T08:05", b" 08:05")))
    with pytest.raises(DicmError, match=r"2026-03-11.jsonl.gz: `at` is no ISO time with an offset in 1 row \(line 6\)"):
        list(dishes(market).impressions("events/2026-03-11.jsonl.gz"))


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
