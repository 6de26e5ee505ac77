"""docs/plugins/extend_an_aggregator.md: its plugin, its tests and its commands, run in an empty folder."""

import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from blocks import REPOSITORY, blocks, saved_files

from dicm_kit import cli
from dicm_kit.testing.plan import plan, told

PAGE = REPOSITORY / "docs/plugins/extend_an_aggregator.md"
BLOCKS = blocks(PAGE)
FILES = saved_files(PAGE)
SAYS, TABLE = (block.text for block in BLOCKS if block.language == "text")
SMALL = ["data.users=30", "data.items=40", "data.impressions=800", "trainer.threads=1", "trainer.max_epochs=1"]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The page's files, as the current folder that Python imports from."""
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "recipes").symlink_to(REPOSITORY / "recipes")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("tiers", None)


def names(text: str) -> dict[str, Any]:
    """Returns what a file defines."""
    found: dict[str, Any] = {"__name__": "page"}
    exec(text, found)
    return found


def test_the_contract_says_of_the_papers_formula_what_the_page_says(folder: Path) -> None:
    first, second, _ = (block.text for block in BLOCKS if block.title == "tiers.py")
    (folder / "tiers.py").write_text(f"{first}\n\n{second}")
    component = names("from tiers import *")["dicm_interest_aggregators"]()[0]
    outcomes = {item.check.id: item.judge() for item in plan("interest_aggregator", component)}
    assert " ".join(SAYS.split()) in outcomes["gradient_reaches_the_history"].text
    assert outcomes["padding_is_not_read"].state == "passed"


def test_the_softened_one_passes_contract_and_numbers(folder: Path) -> None:
    tests = names(FILES["test_tiers.py"])
    component = tests["TestTiers"].component
    items = plan("interest_aggregator", component)
    failed = [told([item], outcome.text) for item in items if _failed(outcome := item.judge())]
    assert failed == []
    tests["test_it_is_the_formula_counted_by_hand"]()


def test_its_commands_run_and_the_table_looks_as_shown(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    lines = [line for block in BLOCKS if block.language == "bash" for line in block.text.splitlines()]
    copy, train, compare = (shlex.split(line)[1:] for line in lines)
    for command in (copy, ["check", "./tiers.py"], [*train, *SMALL], [*compare, *SMALL]):
        assert cli.main(command) == 0, capfd.readouterr()
    said = capfd.readouterr().out
    seen = _rows(said[said.rindex("test split\n" if "test split\n" in said else "test split ") :])
    assert [[cells[0], len(cells)] for cells in _rows(TABLE)] == [[cells[0], len(cells)] for cells in seen]
    assert {each.name for each in (folder / "table").iterdir()} == {"table.md", "table.csv", "table.png"}


def test_what_it_shows_of_the_search_plugin_stands_there() -> None:
    shown = [block.text for block in BLOCKS if block.language == "python" and block.title is None]
    assert len(shown) == 2
    assert [text for text in shown if text not in (REPOSITORY / "plugins/dicm_search/dicm_search.py").read_text()] == []


def _failed(outcome: Any) -> bool:
    return bool(outcome.state == "failed")


def _rows(table: str) -> list[list[str]]:
    """Returns the lines as cells, without their rules and without the text about them."""
    lines = [line.strip() for line in table.splitlines()]
    return [re.split(r"\s{2,}", line) for line in lines if re.search(r"\S\s{2,}\S", line)]
