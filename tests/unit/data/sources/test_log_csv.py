"""CSV files: what their lines may hold, and file and line where they hold something else."""

import gzip
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from little_log import FIRST, impressions, write_table

from dicm_kit.data.sources import log_csv
from dicm_kit.data.sources.log import LogSource
from dicm_kit.data.sources.log_config import ImpressionsConfig, ItemsConfig
from dicm_kit.errors import DataError, FieldError, FieldsError

HEAD = "user,item,time,label,note\n"
GOOD = f"1,7,{FIRST},1,x\n"


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Types are guessed from 4 KiB, and lines are read by 8 KiB: short files have many blocks."""
    monkeypatch.setattr(log_csv, "_SNIFFED", 2**12)
    monkeypatch.setattr(log_csv, "_BLOCK", 2**13)


def source(folder: Path, content: str | bytes, name: str = "log.csv", **keys: Any) -> LogSource:
    """Returns the log of a file with this content."""
    data = content if isinstance(content, bytes) else content.encode()
    (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    write_table(folder / "items.csv", {"item": [7]})
    named = {"file": name, "user": "user", "item": "item", "time": "time", "label": "label"} | keys
    return LogSource(str(folder), ImpressionsConfig(**named), ItemsConfig(file="items.csv", item="item"))


def error(folder: Path, content: str | bytes, name: str = "log.csv", **keys: Any) -> str:
    """Returns what reading the file ends with."""
    with pytest.raises(DataError) as caught:
        impressions(source(folder, content, name, **keys))
    return str(caught.value).removeprefix(str(folder) + "/")


@pytest.mark.parametrize("before", [0, 5, 3000], ids=["at the top", "in the first block", "far below"])
@pytest.mark.parametrize("name", ["log.csv", "log.csv.gz"])
def test_a_broken_line(before: int, name: str, tmp_path: Path) -> None:
    text = HEAD + GOOD * before + f"1,7,{FIRST}\n" + GOOD
    message = error(tmp_path, text, name)
    assert message.startswith(f"{name}:{before + 2}: a broken line: 3 values, the header has 5: '1,7,{FIRST}'")
    assert "Mend the line" in message


@pytest.mark.parametrize("before", [1, 3000])
def test_an_id_that_turns_into_text(before: int, tmp_path: Path) -> None:
    """Early enough the column is text; later it is an error that says what to do."""
    text = HEAD + GOOD * before + f"u2,7,{FIRST},1,x\n"
    if before == 1:
        assert impressions(source(tmp_path, text))["user"] == ["1", "u2"]
        return
    message = error(tmp_path, text)
    assert message.startswith(f"log.csv:{before + 2}: `user` is no whole number: 'u2'")
    assert "`impressions.text: [user]`" in message
    assert impressions(source(tmp_path, text, text=["user"]))["user"] == ["1"] * before + ["u2"]


@pytest.mark.parametrize("before", [0, 3000], ids=["at the top", "far below"])
@pytest.mark.parametrize("value", ["007", '"007"'])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_an_id_with_zeros_in_front(before: int, value: str, end: str, tmp_path: Path) -> None:
    text = (HEAD + GOOD * before + f"1,{value},{FIRST},1,x\n" + GOOD).replace("\n", end)
    message = error(tmp_path, text)
    assert message.startswith(f"log.csv:{before + 2}: `item` is read as a whole number, which loses the zeros")
    assert "'007'" in message
    assert "`impressions.text: [item]`" in message


def test_the_first_column_of_a_block_and_a_hashed_one_too(tmp_path: Path) -> None:
    rows = GOOD * 2000
    blocks = len(list(log_csv.blocks(source(tmp_path, HEAD + rows)._tables["impressions"].files[0], log_csv._BLOCK)))
    assert blocks > 3
    for row in range(0, 2000, 97):  # wherever a block begins
        text = HEAD + GOOD * row + f"01,7,{FIRST},1,x\n" + GOOD * (1999 - row)
        assert error(tmp_path, text).startswith(f"log.csv:{row + 2}: `user` is read as a whole number")
    text = HEAD + f"1,7,{FIRST},1,3\n1,7,{FIRST},1,03\n"
    assert error(tmp_path, text, columns={"note": "hash"}).startswith("log.csv:3: `note` is read as a whole number")


def test_zeros_in_front_that_lose_nothing(tmp_path: Path) -> None:
    """Text keeps them, numbers do not need them, and other columns are not looked at."""
    text = HEAD + f"0,7,{FIRST},01,08\n" + f'10,7,{FIRST},0,"a\n09,00"\n' + f"00,0,{FIRST},0.5,\n"
    rows = impressions(source(tmp_path, text, text=["user"]))
    assert (rows["user"], rows["item"], rows["label"]) == (["0", "10", "00"], [7, 7, 0], [1, 0, 0.5])
    text = HEAD + f"0,7,{FIRST},1,08\n10,7,{FIRST},0,00\n1,7,{FIRST},0,x\n"
    assert impressions(source(tmp_path, text))["user"] == [0, 10, 1]
    assert impressions(source(tmp_path, text, columns={"note": "id"}))["note"] == ["08", "00", "x"]


def test_other_values_that_do_not_fit(tmp_path: Path) -> None:
    message = error(tmp_path, HEAD + GOOD * 3000 + f"1,7,{FIRST},yes,x\n")
    assert message.startswith("log.csv:3002: `label` is no number: 'yes'")
    assert "for no value write nothing, or NULL" in message
    assert "text" not in message


def test_lines_are_counted_with_quotes_and_empty_lines(tmp_path: Path) -> None:
    text = HEAD + f'1,7,{FIRST},1,"two\nlines, and a "" quote"\n\n\n' + GOOD * 2000 + "1,7\n"
    assert error(tmp_path, text).startswith("log.csv:2006: a broken line")
    text = HEAD + f'1,7,{FIRST},1,"two\nlines"\n\n' + GOOD * 2 + f",7,{FIRST},1,x\n"
    assert error(tmp_path, text).startswith("log.csv: `user` is null in 1 row (line 7)")


@pytest.mark.parametrize("after", [3, 5000], ids=["to the end", "longer than a block"])
def test_a_quote_that_is_never_closed(after: int, tmp_path: Path) -> None:
    text = HEAD + GOOD * 4 + f'1,7,{FIRST},1,"open\n' + GOOD * after
    with pytest.raises(DataError) as caught:
        impressions(source(tmp_path, text))
    assert str(caught.value).startswith(f"{tmp_path}/log.csv:6: a quote opens a value here that no quote closes")


def test_a_quote_inside_a_value_is_a_letter(tmp_path: Path) -> None:
    assert len(impressions(source(tmp_path, HEAD + GOOD + f'1,7,{FIRST},1,5" screen\n' + GOOD))["user"]) == 3


def test_what_stands_for_no_value(tmp_path: Path) -> None:
    values = ["", "NULL", "null", "NaN", "nan", "\\N", '""', "NA", "None"]
    text = HEAD + "".join(f"1,7,{FIRST},1,{value}\n" for value in values)
    rows = impressions(source(tmp_path, text, columns={"note": "id"}))
    assert rows["note"] == [None] * 7 + ["NA", "None"]


def test_a_number_column_that_is_whole_at_first(tmp_path: Path) -> None:
    text = HEAD + f"1,7,{FIRST},1,\n" * 1000 + f"1,7,{FIRST},1,3\n" * 1000 + f"1,7,{FIRST},0.0,2.5\n"
    rows = impressions(source(tmp_path, text, columns={"note": "number"}))
    assert rows["note"] == [None] * 1000 + [3] * 1000 + [2.5]
    assert rows["label"][-1] == 0


def test_a_column_that_is_empty_at_first(tmp_path: Path) -> None:
    text = HEAD + f"1,7,{FIRST},1,\n" * 1000 + f"1,7,{FIRST},1,red\n"
    assert impressions(source(tmp_path, text, columns={"note": "id"}))["note"] == [None] * 1000 + ["red"]


def test_a_byte_order_mark_and_windows_lines(tmp_path: Path) -> None:
    text = "\ufeff" + (HEAD + GOOD * 3).replace("\n", "\r\n")
    rows = impressions(source(tmp_path, text, columns={"note": "id"}))
    assert (rows["user"], rows["note"]) == ([1] * 3, ["x"] * 3)
    message = error(tmp_path, text + "1,7\r\n")
    assert message.startswith("log.csv:5: a broken line")


def test_no_utf8(tmp_path: Path) -> None:
    message = error(tmp_path, (HEAD + GOOD * 3000 + f"1,7,{FIRST},1,é\n").encode("latin-1"), columns={"note": "id"})
    assert message.startswith("log.csv:3002: `note` is not in UTF-8")


def test_files_that_are_empty_or_cut(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"log.csv: cannot be read as CSV: Empty CSV file"):
        source(tmp_path, "")
    with pytest.raises(DataError, match="the log has no rows"):
        impressions(source(tmp_path, HEAD))
    lines = "".join(f"{row},7,{FIRST},1,{row * 7919 % 100_003}\n" for row in range(20_000))
    whole = gzip.compress((HEAD + lines).encode())
    log = source(tmp_path, HEAD, "log.csv.gz")
    (tmp_path / "log.csv.gz").write_bytes(whole[: len(whole) // 2])
    log = LogSource(str(tmp_path), log._config.impressions, log._config.items)
    with pytest.raises(DataError, match=r"log.csv.gz: cannot be read: Compressed file ended"):
        impressions(log)


@pytest.mark.parametrize(
    ("name", "separator", "todo"),
    [("log.csv", ";", "write the file anew"), ("log.csv", "\t", "end in .tsv"), ("log.tsv.gz", ",", "end in .csv")],
)
def test_another_separator_is_one_problem(name: str, separator: str, todo: str, tmp_path: Path) -> None:
    header = separator.join(("user", "item", "time", "label"))
    with pytest.raises(FieldError) as caught:
        source(tmp_path, f"{header}\n" + separator.join("1711") + "\n", name)
    assert not isinstance(caught.value, FieldsError)
    what = f"`impressions.file`: {tmp_path}/{name} seems to have one column, named {header!r}\n"
    assert str(caught.value).startswith(what)
    assert todo in str(caught.value)


def test_a_single_column_with_a_comma_in_its_name_is_a_column(tmp_path: Path) -> None:
    log = source(tmp_path, HEAD + GOOD)
    (tmp_path / "items.csv").write_text('"item, all"\n7\n')
    items = ItemsConfig(file="items.csv", item="item, all")
    assert [len(batch) for batch in LogSource(str(tmp_path), log._config.impressions, items).items()] == [1]


def test_a_file_is_read_in_blocks(tmp_path: Path) -> None:
    log = source(tmp_path, HEAD + GOOD * 5000)
    lengths = [len(batch) for batch in log.impressions("log.csv")]
    assert len(lengths) > 5
    assert sum(lengths) == 5000
    assert pa.Table.from_batches(log.impressions("log.csv"))["time"].unique().to_pylist() == [FIRST]


def test_a_stream_may_be_left(tmp_path: Path) -> None:
    """An odd number of quotes went by then, and is no error."""
    log = source(tmp_path, HEAD + f'1,7,{FIRST},1,"x\ny"\n' * 5000)
    stream = log.impressions("log.csv")
    next(stream)
    stream.close()
