"""docs/plugins/extend_an_aggregator.md: its plugin, its tests and its commands, run in an empty folder."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs/plugins/extend_an_aggregator.md").read_text()
HEADER, FORWARD, CONTRACT, SOFT, NUMBERS, *NESTED = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
COMMANDS = [line for block in re.findall(r"```bash\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
SAYS, TABLE = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)
SMALL = ["data.users=20", "data.items=40", "data.impressions=800", "trainer.threads=1"]


def run(folder: Path, *command: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "COLUMNS": "120"},
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout + done.stderr


def test_the_contract_says_of_the_papers_formula_what_the_page_says(tmp_path: Path) -> None:
    (tmp_path / "tiers.py").write_text(HEADER + FORWARD)
    (tmp_path / "test_tiers.py").write_text(CONTRACT)
    code, said = run(tmp_path, "pytest", "-q", "-p", "no:cacheprovider", "test_tiers.py")
    assert code == 1, said
    assert " ".join(SAYS.split()) in " ".join(said.split())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page's files."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "tiers.py").write_text(HEADER + FORWARD[: FORWARD.index("def shares")] + SOFT)
    (folder / "test_tiers.py").write_text(CONTRACT + NUMBERS)
    (folder / "table.yaml").write_text(re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[0])
    return folder


def test_the_softened_one_passes_contract_numbers_and_check(folder: Path) -> None:
    code, said = run(folder, "pytest", "-q", "-p", "no:cacheprovider", "test_tiers.py")
    assert code == 0, said
    code, said = run(folder, "dicm_kit", "check", "./tiers.py")
    assert code == 0, said


def test_its_commands_run_and_the_table_looks_as_shown(folder: Path) -> None:
    copy, train, compare = (shlex.split(each) for each in COMMANDS)
    (folder / "recipes").symlink_to(REPOSITORY / "recipes")
    for command in (copy, [*train, *SMALL], [*compare, *SMALL]):
        code, said = run(folder, "dicm_kit", *command[1:])
        assert code == 0, said
    shown, seen = (_rows(TABLE), _rows(said[said.rindex("test split") :]))
    assert [row[0] for row in shown] == [row[0] for row in seen]
    assert [len(row) for row in shown] == [len(row) for row in seen]
    assert {each.name for each in (folder / "table").iterdir()} == {"table.md", "table.csv", "table.png"}


def test_what_it_shows_of_the_search_plugin_stands_there() -> None:
    text = (REPOSITORY / "plugins/dicm_search/dicm_search.py").read_text()
    assert NESTED
    assert [block for block in NESTED if block not in text] == []


def _rows(table: str) -> list[list[str]]:
    """Returns the lines as cells, without their rules and without the text about them."""
    lines = [line.strip() for line in table.splitlines()]
    return [re.split(r"\s{2,}", line) for line in lines if re.search(r"\S\s{2,}\S", line)]
