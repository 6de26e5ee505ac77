"""Which id a row is of: kept beside the checkpoints, and matched by hand-made tables."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dicm_kit.errors import RunError
from dicm_kit.training.row_values import VOCAB, matched, read_row_values, values_by_row, write_row_values

TEXTS = ["red", "blue", "rare", "green"]


def vocab_file(folder: Path, values: list, index: list[int]) -> Path:
    """A dataset's vocabulary: rows are codes, in an order of their own; row 0 is null."""
    path = folder / "colour.parquet"
    table = {"value": [None, *values], "index": [0, *index], "count": [0] * (1 + len(values))}
    pq.write_table(pa.table(table), path)
    return path


@pytest.mark.parametrize("values", [TEXTS, [70, 7, -5, 2**62]])
def test_rows_are_in_the_order_of_indices_and_rare_values_have_none(tmp_path: Path, values: list) -> None:
    file = vocab_file(tmp_path, values, [3, 1, 0, 2])
    expected = [None, values[1], values[3], values[0]]
    assert values_by_row(file).to_pylist() == expected
    write_row_values(tmp_path / "run", "colour", file, "abc")
    file.unlink()  # the dataset moves on
    assert read_row_values(tmp_path / "run", "colour", "abc").to_pylist() == expected
    assert [path.name for path in (tmp_path / "run" / VOCAB).iterdir()] == ["colour.parquet"]


def test_a_vocabulary_without_values_has_row_0(tmp_path: Path) -> None:
    values = values_by_row(vocab_file(tmp_path, ["a"], [0]))
    assert values.to_pylist() == [None]
    rows_here, rows_there = matched(values, values)
    assert (rows_here.tolist(), rows_there.tolist()) == ([0], [0])


def test_a_run_that_goes_on_does_not_write_again(tmp_path: Path) -> None:
    file = vocab_file(tmp_path, TEXTS, [1, 2, 3, 4])
    write_row_values(tmp_path, "colour", file, "abc")
    before = (tmp_path / VOCAB / "colour.parquet").stat().st_mtime_ns
    write_row_values(tmp_path, "colour", file, "abc")
    assert (tmp_path / VOCAB / "colour.parquet").stat().st_mtime_ns == before
    write_row_values(tmp_path, "colour", vocab_file(tmp_path, TEXTS[:1], [1]), "def")
    assert read_row_values(tmp_path, "colour", "def").to_pylist() == [None, "red"]


def test_what_cannot_be_read_says_so(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"colour.parquet: no such file, which says what id each row is of"):
        read_row_values(tmp_path, "colour", "abc")
    write_row_values(tmp_path, "colour", vocab_file(tmp_path, TEXTS, [1, 2, 3, 4]), "abc")
    with pytest.raises(RunError, match="belongs to another checkpoint"):
        read_row_values(tmp_path, "colour", "abd")
    path = tmp_path / VOCAB / "colour.parquet"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(RunError, match=r"colour.parquet: cannot be read"):
        read_row_values(tmp_path, "colour", "abc")


@pytest.mark.parametrize("kind", [pa.large_string(), pa.int64()])
def test_values_are_matched_whatever_their_place(kind: pa.DataType) -> None:
    words = [10, 11, 12, 13, 14] if kind == pa.int64() else ["a", "b", "c", "d", "e"]
    a, b, c, d, e = words
    there = pa.chunked_array([pa.array([None, a], kind), pa.array([b, c, d], kind)])
    here = pa.chunked_array([pa.array([None, d, e], kind), pa.array([], kind), pa.array([a, c], kind)])
    rows_here, rows_there = matched(there, here)
    assert rows_here.tolist() == [0, 1, 3, 4]
    assert rows_there.tolist() == [0, 4, 1, 3]
