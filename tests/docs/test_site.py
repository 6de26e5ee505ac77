"""The site builds, dead links and anchors fail it, it loads nothing from elsewhere; the drawings are current."""

import os
import re
import runpy
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from blocks import REPOSITORY

needs_mkdocs = pytest.mark.skipif(find_spec("material") is None, reason="needs mkdocs-material: `make docs`")


def build(repository: Path, site: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(site)],
        cwd=repository,
        capture_output=True,
        text=True,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    done = build(REPOSITORY, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@needs_mkdocs
def test_it_has_every_page_and_the_files_that_they_link_to(site: Path) -> None:
    pages = [page.relative_to(REPOSITORY / "docs") for page in (REPOSITORY / "docs").rglob("*.md")]
    for page in pages:
        assert (site / page.with_name("index.html" if page.name == "README.md" else f"{page.stem}.html")).is_file(), (
            page
        )
    assert "max_length" in (site / "repository/recipes/debug.yaml.html").read_text()
    assert (site / "repository/plugins/example_aggregator/index.html").is_file()


@needs_mkdocs
def test_it_loads_nothing_from_elsewhere(site: Path) -> None:
    loads = re.compile(r"<(?:script|img|link|iframe|source)\b[^>]*?(?:src|href)=[\"']?(https?:)?//", re.IGNORECASE)
    pages = list(site.rglob("*.html"))
    assert len(pages) > 40
    assert [page.name for page in pages if loads.search(page.read_text())] == []
    styles = [file for file in site.rglob("*.css") if re.search(r"url\(\s*[\"']?(https?:)?//", file.read_text())]
    assert styles == []


@needs_mkdocs
@pytest.mark.parametrize("link", ["no_such_page.md", "reference/recipe.md#no-such-anchor", "../recipes/no_such.yaml"])
def test_a_dead_link_fails_it(link: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    copy.mkdir()
    (copy / "docs/reference").mkdir(parents=True)
    shutil.copy(REPOSITORY / "docs/mkdocs_hook.py", copy / "docs")
    shutil.copy(REPOSITORY / "docs/reference/recipe.md", copy / "docs/reference")
    (copy / "docs/README.md").write_text(f"# Start\n\n[keys](reference/recipe.md#data)\n\n[link]({link})\n")
    settings = (REPOSITORY / "mkdocs.yml").read_text()
    settings = settings[: settings.index("\nnav:")] + "\nnav: [README.md, reference/recipe.md]\n"
    (copy / "mkdocs.yml").write_text(settings)
    done = build(copy, tmp_path / "site")
    assert done.returncode != 0
    assert link.split("/")[-1].partition("#")[2] in done.stdout + done.stderr


def test_every_page_is_in_the_navigation_or_in_a_folder_of_it() -> None:
    """So that a page that is added is not forgotten, also where mkdocs is not installed."""
    nav = (REPOSITORY / "mkdocs.yml").read_text().split("\nnav:\n")[1]
    named = set(re.findall(r"[\w./-]+\.md", nav))
    folders = re.findall(r"([\w-]+/)\s", nav)
    pages = {page.relative_to(REPOSITORY / "docs").as_posix() for page in (REPOSITORY / "docs").rglob("*.md")}
    assert {page for page in pages - named if not page.startswith(tuple(folders))} == set()
    assert named <= pages
    assert yaml.safe_load(f"nav:\n{nav}")


def test_the_drawings_are_current() -> None:
    drawn = runpy.run_path(str(REPOSITORY / "docs/pictures/draw.py"))["DRAWINGS"]
    for name, draw in drawn.items():
        assert (REPOSITORY / "docs/pictures" / name).read_text() == draw(), "python docs/pictures/draw.py"
