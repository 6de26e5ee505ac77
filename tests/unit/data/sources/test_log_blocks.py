"""A CSV file is cut where rows end, wherever the cuts fall."""

import csv
from io import StringIO
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dicm_kit.data.sources import log_blocks
from dicm_kit.data.sources.log_blocks import blocks
from dicm_kit.data.sources.log_files import LogFile, Root
from dicm_kit.errors import DataError

VALUE = st.one_of(
    st.text(alphabet='a7 "\n,\t|é', max_size=6).map(lambda text: '"' + text.replace('"', '""') + '"'),
    st.text(alphabet='a7" é', max_size=6).filter(lambda text: not text.startswith('"')),  # a quote inside is a letter
)
ROWS = st.lists(st.tuples(VALUE, VALUE).map(",".join), min_size=1, max_size=12)


def file(folder: Path, text: str, name: str = "a.csv") -> LogFile:
    (folder / name).write_bytes(text.encode())
    (found,) = Root(str(folder)).find(name, "file")
    return found


@given(rows=ROWS, ending=st.sampled_from(["\n", "\r\n"]), last=st.booleans(), size=st.integers(1, 40))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_blocks_hold_whole_rows_and_nothing_is_lost(
    rows: list[str], ending: str, last: bool, size: int, tmp_path: Path
) -> None:
    text = ending.join(rows) + (ending if last else "")
    cut = list(blocks(file(tmp_path, text), size))
    assert b"".join(block.data for block in cut).decode() == text
    whole = list(csv.reader(StringIO(text, newline="")))
    assert [row for block in cut for row in csv.reader(StringIO(block.data.decode(), newline=""))] == whole
    assert [block.line for block in cut] == [
        1 + b"".join(block.data for block in cut[:number]).count(b"\n") for number in range(len(cut))
    ]


def test_another_separator(tmp_path: Path) -> None:
    """A comma before a quote is a letter of the value, in a file of tabs."""
    text = 'a\tb\n1,"x\t2\n"3\n"\t4\n'
    assert [block.data for block in blocks(file(tmp_path, text, "a.tsv"), 1)] == [
        b"a\tb\n",
        b'1,"x\t2\n',
        b'"3\n"\t4\n',
    ]


def test_an_empty_file_is_one_empty_block(tmp_path: Path) -> None:
    assert [(block.data, block.line) for block in blocks(file(tmp_path, ""), 9)] == [(b"", 1)]


def test_a_row_without_an_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_blocks, "_LONGEST", 1000)
    with pytest.raises(DataError, match=r"a.csv:2: a row begins here that is longer than 64 MiB"):
        list(blocks(file(tmp_path, "a,b\n" + "x" * 3000), 100))
    with pytest.raises(DataError, match=r"a.csv:3: a quote opens a value here that no quote closes"):
        list(blocks(file(tmp_path, 'a,b\n1,2\n3,"' + "x\n" * 3000), 100))
