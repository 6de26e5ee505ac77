"""Lets pages link to files outside docs/: the site gets a page for each of them.

In the repository's browser view such links work as they are. Here a Markdown file (`../recipes/README.md`) becomes a
page like others, another text file (`../recipes/debug.yaml`) a page that shows it, a link to a folder becomes its text.
A link to what does not exist is left as it is, and `mkdocs build --strict` refuses it.

In the navigation of mkdocs.yml a folder (`decisions/`) stands for its pages.
"""

import os
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

REPOSITORY = Path(__file__).parents[1]
DOCS = Path(__file__).parent
OUTSIDE = "repository"
"""The folder of the site that holds what lies outside docs/."""
LINK = re.compile(r"(?P<picture>!?)\[(?P<text>(?:[^\[\]]|\[[^\]]*\])*)\]\((?P<target>[^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".sh": "bash"}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Puts the pages of a folder in its place in the navigation: README.md first, then by name."""
    for entry in config.nav or []:
        for title, folder in entry.items() if isinstance(entry, dict) else ():
            if isinstance(folder, str) and folder.endswith("/"):
                pages = sorted((DOCS / folder).glob("*.md"), key=lambda page: (page.name != "README.md", page.name))
                entry[title] = [page.relative_to(DOCS).as_posix() for page in pages]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds a page for every file outside docs/ that a page links to, and those that these link to."""
    waiting = [DOCS / file.src_uri for file in files.documentation_pages()]
    seen = set()
    while waiting:
        page = waiting.pop()
        for match in LINK.finditer(FENCE.sub("", page.read_text(encoding="utf-8"))):
            aim = _aim(page, match["target"])
            if aim is None or aim in seen or _inside(aim) or not aim.is_file():
                continue
            seen.add(aim)
            text = aim.read_text(encoding="utf-8")
            if aim.suffix == ".md":
                waiting.append(aim)
            else:
                text = f"# {_name(aim)}\n\n```{LANGUAGES.get(aim.suffix, 'text')}\n{text}```\n"
            files.append(File.generated(config, _uri(aim), content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Returns the page with its links led to where the files are on the site."""
    uri = page.file.src_uri
    source = REPOSITORY / uri.removeprefix(f"{OUTSIDE}/") if uri.startswith(f"{OUTSIDE}/") else DOCS / uri

    def led(match: re.Match[str]) -> str:
        aim = _aim(source, match["target"])
        if aim is None or not aim.exists() or (_inside(source) and _inside(aim)):
            return match[0]
        if aim.is_dir():
            return match["text"]
        anchor = match["target"].partition("#")[2]
        to = os.path.relpath(_uri(aim), Path(uri).parent)
        return f"{match['picture']}[{match['text']}]({to}{f'#{anchor}' if anchor else ''})"

    parts, at = [], 0
    for fence in FENCE.finditer(markdown):
        parts += [LINK.sub(led, markdown[at : fence.start()]), fence[0]]
        at = fence.end()
    return "".join([*parts, LINK.sub(led, markdown[at:])])


def _aim(page: Path, target: str) -> Path | None:
    """Returns the file that a link on a page means; None for addresses, and for anchors of the page itself."""
    file = target.partition("#")[0]
    if not file or re.match(r"\w+:", file):
        return None
    return Path(os.path.normpath(page.parent / file))


def _inside(path: Path) -> bool:
    return path.is_relative_to(DOCS)


def _name(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def _uri(path: Path) -> str:
    """Returns the page of a file: in docs/ its own path, else below `repository/`."""
    if _inside(path):
        return path.relative_to(DOCS).as_posix()
    return f"{OUTSIDE}/{_name(path)}" + ("" if path.suffix == ".md" else ".md")
