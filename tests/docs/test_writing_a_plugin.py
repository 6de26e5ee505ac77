"""The page on plugins shows the code of the example plugin, names every hook, and its links lead somewhere."""

import ast
import re
from pathlib import Path

import pytest

from dicm_kit.registry import HOOKS

REPOSITORY = Path(__file__).parents[2]
PAGES = sorted((REPOSITORY / "docs/plugins").glob("*.md"))
PAGE = (REPOSITORY / "docs/plugins/writing_a_plugin.md").read_text()
EXAMPLE = REPOSITORY / "plugins/example_aggregator"


def test_its_python_is_the_example_plugins() -> None:
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    shown = [ast.unparse(node) for block in blocks for node in ast.parse(block).body]
    code = [ast.unparse(node) for node in ast.parse((EXAMPLE / "dicm_example_aggregator.py").read_text()).body]
    different = [node for node in shown if not node.startswith(("from ", "import ")) and node not in code]
    assert different == [], "docs/plugins/writing_a_plugin.md and the example plugin differ"
    imported = {name for block in blocks for name in re.findall(r"import (.+)", block)}
    assert {name for names in imported for name in names.split(", ")} >= {"HistoryShapes", "hookimpl", "dataclass"}


def test_its_entry_point_is_the_example_plugins() -> None:
    for line in re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)[0].splitlines():
        assert line in (EXAMPLE / "pyproject.toml").read_text().splitlines()


def test_it_names_every_hook_and_its_interface() -> None:
    rows = dict(re.findall(r"\| `(dicm_\w+)` \| `(\w+)` \|", PAGE))
    assert rows == {hook: kind.interface.__name__ for hook, kind in HOOKS.items()}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target
