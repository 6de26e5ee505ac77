"""Every page: relative links lead somewhere, and complete recipes in it load."""

import re
from pathlib import Path

import pytest
from little_log import fit_log

from dicm_kit.data.sources.log_config import LogConfig
from dicm_kit.recipe.build import rehearse
from dicm_kit.recipe.load import load

REPOSITORY = Path(__file__).parents[2]
PAGES = sorted([*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md"), *REPOSITORY.glob("plugins/*/*.md")])
BLOCK = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.DOTALL | re.MULTILINE)


def _prose(page: Path) -> str:
    return BLOCK.sub("", page.read_text(encoding="utf-8"))


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ +(.+)$", _prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def _recipes() -> list[tuple[Path, str]]:
    blocks = [(page, block) for page in PAGES for kind, block in BLOCK.findall(page.read_text()) if kind == "yaml"]
    whole = [(page, block) for page, block in blocks if re.search(r"^dicm: *1", block, re.MULTILINE)]
    # With a plugin's file that the page has its reader save, it is loaded in the page's own test.
    return [(page, block) for page, block in whole if not re.search(r"^plugins: *\[\./", block, re.MULTILINE)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_links_lead_somewhere(page: Path) -> None:
    lost = []
    for target in re.findall(r"\]\(([^)\s]+)\)", _prose(page)):
        if re.match(r"\w+:", target):  # https:, mailto:
            continue
        file, _, anchor = target.partition("#")
        aim = page.parent / file if file else page
        if not aim.exists() or (anchor and aim.suffix == ".md" and anchor not in _anchors(aim)):
            lost.append(target)
    assert lost == []


@pytest.mark.parametrize(("page", "block"), _recipes(), ids=lambda value: value.stem if isinstance(value, Path) else "")
def test_complete_recipes_load(page: Path, block: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(block)
    loaded = load(tmp_path / "recipe.yaml")
    if isinstance(loaded.recipe.data.config, LogConfig):  # a log that is not here: one of the same form stands for it
        fit_log(loaded.recipe.data.config, tmp_path / "log")
        loaded = load(tmp_path / "recipe.yaml", [f"data.root={tmp_path / 'log'}"])
    rehearse(loaded)


def test_pages_are_found() -> None:
    """A pattern that finds nothing would pass everything."""
    names = {str(page.relative_to(REPOSITORY)) for page in PAGES}
    assert names >= {"docs/reference/command_line.md", "docs/plugins/writing_a_plugin.md"}
