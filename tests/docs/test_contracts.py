"""The page on contracts: its list of checks is the code's, its fixtures are there, its example is the plugin's test."""

import re
from pathlib import Path

import pytest

from dicm_kit import testing
from dicm_kit.testing import pytest_plugin
from dicm_kit.testing.page import CONTRACTS, checks_text

FILE = Path(__file__).parents[2] / "docs/plugins/contracts.md"
MARK = "<!-- generated: `pytest tests/docs/test_contracts.py --update-golden` writes what follows -->\n"


def test_the_list_is_that_of_the_code(request: pytest.FixtureRequest) -> None:
    head, _, listed = FILE.read_text().partition(MARK)
    if request.config.getoption("--update-golden"):
        FILE.write_text(f"{head}{MARK}\n{checks_text()}\n")
        return
    assert listed == f"\n{checks_text()}\n", "--update-golden writes it"


def test_it_names_every_contract_and_fixture() -> None:
    text = FILE.read_text()
    assert sorted(CONTRACTS.values()) == testing.__all__
    fixtures = {name for name in vars(pytest_plugin) if name.startswith("dicm_")}
    assert fixtures == set(re.findall(r"^\| `(dicm_\w+)` \|", text, re.MULTILINE))
    assert fixtures == set(re.findall(r"^\| `(dicm_\w+)` \|", pytest_plugin.__doc__ or "", re.MULTILINE))


def test_its_example_is_in_the_example_plugins_test() -> None:
    """docs/plugins/contracts.md shows the class that plugins/example_aggregator tests itself with."""
    (block,) = re.findall(r"```python\n(.*?)```", FILE.read_text(), re.DOTALL)
    theirs = (FILE.parents[2] / "plugins/example_aggregator/tests/test_recency.py").read_text()
    assert block[block.index("class ") :] in theirs
