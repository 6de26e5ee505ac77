"""Pages that are played: files are saved, commands run in order in a fresh folder, and print what the pages show.

In a page's folder `recipes` and `plugins` are the repository's; `data` and `runs` begin empty.
"""

import ast
import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from tempfile import TemporaryFile

import pytest
from blocks import REPOSITORY, Block, agrees, blocks, command_lines, fails, name_of, save, saved_files

from dicm_kit import cli

PLAYED = [
    *sorted((REPOSITORY / "docs/tutorial").glob("*.md")),
    REPOSITORY / "docs/how_to/prepare_shards.md",
    REPOSITORY / "docs/how_to/read_an_error.md",
]
ONE_THREAD = ["trainer.threads=1"]
"""Put behind every command that trains: several tests share a machine."""
TRAIN = ("run", "prepare", "extract", "bench")


@pytest.mark.parametrize("page", PLAYED, ids=name_of)
@pytest.mark.timeout(600)
def test_the_page_is_true(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("recipes", "plugins"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    files: dict[str, str] = {}
    said, ran = "", 0
    for block in blocks(page):
        if block.title:
            save(files, block)
            (tmp_path / block.title).write_text(files[block.title])
        elif block.language == "bash" and block.is_run:
            said, code = run(block)
            assert (code != 0) == fails(page, block), f"{block}: ended with {code}\n{said}"
            ran += 1
        elif block.language == "text" and block.is_run and said:
            missing = agrees(block.text, said)
            assert missing is None, f"{block}: not said: {missing}\n\nsaid:\n{said}"
            said = ""
    assert ran > 0


def test_the_aggregator_ends_as_the_example_plugin() -> None:
    page = saved_files(REPOSITORY / "docs/tutorial/first_aggregator.md")["my_aggregator.py"]
    example = (REPOSITORY / "plugins/example_aggregator/dicm_example_aggregator.py").read_text()
    assert [ast.unparse(node) for node in ast.parse(page).body[1:]] == [
        ast.unparse(node)
        for node in ast.parse(example).body[1:]  # [0]: what the file says of itself
    ]


def run(block: Block) -> tuple[str, int]:
    """Runs the commands of a block; returns what they print, and the last exit code."""
    said, code = "", 0
    for words in command_lines(block.text):
        ranks = any(word.startswith("trainer.devices=") for word in words)  # they start this very command again
        if words[0] in ("dicm", "lightning") and not ranks:
            with TemporaryFile("w+") as out, redirect_stdout(out), redirect_stderr(out):
                code = cli.main([*words[1:], *(ONE_THREAD if words[1] in TRAIN else [])])
                out.seek(0)
                said += out.read()
        else:
            ours = {"python": [sys.executable], "pytest": [sys.executable, "-m", "pytest"]}
            ours["dicm"] = [sys.executable, "-m", "dicm_kit"]
            words = [*words, *(ONE_THREAD if words[1:2] == ["run"] else [])]
            done = subprocess.run(
                shlex.join([*ours.get(words[0], words[:1]), *words[1:]]),
                shell=True,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            )
            said, code = said + done.stdout, done.returncode
    return said, code


@pytest.fixture(autouse=True)
def modules_of_a_page_end_with_it() -> Iterator[None]:
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("dicm_plugin_") or name in ("my_aggregator",):
            del sys.modules[name]
