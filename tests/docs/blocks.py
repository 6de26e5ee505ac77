"""The code blocks of all Markdown pages: what each is, how it is tried, what a page's commands print.

A fence says what its block is, and `title="shop.yaml"` behind the language that it is saved under this name. Of a
Python file that was saved before, the definitions of the same names are replaced and new ones are put behind them,
unless the block begins with a docstring: then it is the whole file.

python  executed, the blocks of a page one after the other in one namespace
yaml    a recipe (`dicm: 1`): loaded, and every part of it built
        a comparison (`compare: 1`): loaded, each row built
        some keys of a recipe: put into the recipe that the mark `into` names, then as a recipe
toml    parsed
bash    on the pages that are played (test_tutorial.py) executed, and what is shown below compared with what it prints;
        on every page each command line is parsed, by dicm's own parser, with the recipe and overrides that it names
text    what a command prints, a drawing in letters, a formula: for people only, but on the pages that are played

A comment above a block says what cannot be seen from the block itself:

<!-- block: into recipes/debug.yaml -->        the recipe, or the page with a saved recipe, that these keys belong to;
     `... with my_plugin.py`                   a plugin file that stands for the plugins that they list
<!-- block: beside recipes/quickstart -->      a folder of files, or a page with saved files, that lie beside this one
<!-- block: tried by tests/docs/test_x.py -->  a test of its own, which names the page
<!-- block: not run; it needs SLURM -->        why it is not run; tests/golden/docs_not_run.txt lists all of these

`<!-- blocks: tried by ... -->` says it of all blocks of a page. Keys of a recipe in the README of a plugin belong to
the recipe beside it.
"""

import ast
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
PAGES = sorted(
    [
        *REPOSITORY.glob("*.md"),
        *(REPOSITORY / "docs").rglob("*.md"),
        *REPOSITORY.glob("plugins/*/*.md"),
        *REPOSITORY.glob("recipes/*.md"),
    ]
)
LANGUAGES = ("python", "yaml", "bash", "toml", "text")
_BLOCK = re.compile(
    r"(?:^<!-- block: (?P<mark>[^\n]+?) -->\n+)?^```(?P<language>\w*)(?P<info>[^\n]*)\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """One fenced block of a page."""

    page: str
    """From the top of the repository."""
    line: int
    """Of its fence."""
    language: str
    text: str
    title: str | None
    """The file that it is saved as."""
    mark: str | None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    @property
    def is_run(self) -> bool:
        """False where the mark says so, or another test runs it."""
        return not (self.mark or "").startswith(("not run; ", "tried by "))

    def marked(self, word: str) -> str | None:
        """Returns what the mark says after this word: `into`, `beside`."""
        return self.mark.removeprefix(f"{word} ") if self.mark and self.mark.startswith(f"{word} ") else None


def name_of(page: Path) -> str:
    """Returns a page's path from the top of the repository."""
    return page.relative_to(REPOSITORY).as_posix()


def blocks(page: Path) -> list[Block]:
    """Returns the blocks of a page in order."""
    text = page.read_text(encoding="utf-8")
    all_of_them = re.search(r"^<!-- blocks: (.+?) -->$", text, re.MULTILINE)
    found = []
    for match in _BLOCK.finditer(text):
        title = re.search(r'title="([^"]+)"', match["info"])
        line = text[: match.start("language")].count("\n") + 1
        found.append(
            Block(
                name_of(page),
                line,
                match["language"],
                match["text"],
                title[1] if title else None,
                match["mark"] or (all_of_them[1] if all_of_them and match["language"] != "text" else None),
            )
        )
    return found


def saved_files(page: Path) -> dict[str, str]:
    """Returns the files that a page lets be saved, as they are at its end."""
    files: dict[str, str] = {}
    for block in blocks(page):
        save(files, block)
    return files


def save(files: dict[str, str], block: Block) -> None:
    """Puts a block with a title among the files."""
    if block.title:
        grows = block.language == "python" and block.title in files
        files[block.title] = grown(files[block.title], block.text) if grows else block.text


def grown(old: str, new: str) -> str:
    """Returns the old file with the definitions of the new text in the place of those of the same names.

    A text that begins with a docstring is the whole file.
    """
    if ast.get_docstring(ast.parse(new)):
        return new
    lines, added = old.splitlines(), []
    here = {name: span for name, span, _ in _definitions(old)}
    replaced = {name: text for name, _, text in _definitions(new)}
    for name, (first, last) in sorted(here.items(), key=lambda each: -each[1][0]):
        if name in replaced:
            lines[first - 1 : last] = replaced.pop(name).splitlines()
    for name, text in replaced.items():
        if name.startswith(("import ", "from ")):
            lines[_after_docstring(lines) : _after_docstring(lines)] = text.splitlines()
        else:
            added += ["", "", *text.splitlines()]
    return "\n".join([*lines, *added]) + "\n"


def _definitions(text: str) -> list[tuple[str, tuple[int, int], str]]:
    """Returns name, first and last line, and text of what a file defines; `from x import ...` is called `from x`."""
    found = []
    for node in ast.parse(text).body:
        match node:
            case ast.ClassDef() | ast.FunctionDef():
                name, first = node.name, min([node.lineno, *(each.lineno for each in node.decorator_list)])
            case ast.Assign(targets=[ast.Name(id=name)]):
                first = node.lineno
            case ast.ImportFrom():
                name, first = f"from {node.module}", node.lineno
            case ast.Import():
                name, first = f"import {node.names[0].name}", node.lineno
            case _:
                continue
        last = node.end_lineno or first
        found.append((name, (first, last), "\n".join(text.splitlines()[first - 1 : last])))
    return found


def _after_docstring(lines: list[str]) -> int:
    first = ast.parse("\n".join(lines)).body[0]
    return (first.end_lineno or 0) + 1 if isinstance(first, ast.Expr) else 0


def fails(page: Path, block: Block) -> bool:
    """Returns whether the page shows that the commands of a block fail."""
    below = [each for each in blocks(page) if each.line > block.line]
    shown = below[0].text if below and below[0].language == "text" else ""
    return re.search(r"^\w+Error: |\bFAILED\b", shown, re.MULTILINE) is not None


def command_lines(text: str) -> list[list[str]]:
    """Returns the words of each command of a bash block, without comments; `\\` at the end joins lines."""
    lines = re.sub(r"\\\n", " ", text).splitlines()
    commands = []
    for line in lines:
        words = shlex.split(line, comments=True)
        at = 0
        for end, word in enumerate([*words, ";"]):
            if word in ("||", "&&", "|", ";", "&"):
                commands += [words[at:end]] if words[at:end] else []
                at = end + 1
    return commands


def agrees(shown: str, said: str) -> str | None:
    """Returns None where a page shows what a command said, else the first line that it did not say.

    Lines must come in the order shown. `...` stands for anything, within a line or as a line. Numbers with a point are
    learned or measured: they may differ by a fifth, or by 0.2 where they are small. Blank lines and widths of gaps
    do not count.
    """
    lines = [" ".join(line.split()) for line in said.splitlines()]
    at = 0
    for line in shown.splitlines():
        wanted = " ".join(line.split())
        if wanted in ("", "..."):
            continue
        found = next((index for index in range(at, len(lines)) if _same(wanted, lines[index])), None)
        if found is None:
            return wanted
        at = found + 1
    return None


_NUMBER = r"(?<![\w.])[-+]?[\d,]*\.\d+(?![\w.]*\.\w)"
_PIECES = re.compile(rf"(\.\.\.|{_NUMBER})")


def _same(wanted: str, line: str) -> bool:
    pattern, numbers = "", []
    for piece in _PIECES.split(wanted):
        if piece == "...":
            pattern += ".*"
        elif re.fullmatch(_NUMBER, piece):
            pattern += r"([-+]?[\d,]*\.\d+)"
            numbers.append(float(piece.replace(",", "")))
        else:
            pattern += re.escape(piece)
    match = re.fullmatch(pattern, line)
    if match is None:
        return False
    got = [float(each.replace(",", "")) for each in match.groups()]
    return all(abs(one - other) <= max(0.2, 0.2 * abs(other)) for one, other in zip(numbers, got, strict=True))
