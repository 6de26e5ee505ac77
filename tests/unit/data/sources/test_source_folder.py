"""A known dataset's folder: its tables in whatever form, and errors that name file, line, column and what to do."""

import gzip
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from little_shop import picture

from dicm_kit import DataError, FieldError, JsonLines, SourceFolder, TextTable
from dicm_kit.data.sources import log_csv, source_tables
from dicm_kit.errors import ImageError

HOLDS = {"ratings.dat": "user::film::stars", "films.txt": "film|title, in latin-1"}
PAIRS = {"user": "int64", "film": "int64", "stars": "float64?"}


def table(folder: Path, text: str | bytes, columns: dict[str, str] = PAIRS, **form: Any) -> TextTable:
    (folder / "table").write_bytes(text.encode() if isinstance(text, str) else text)
    return SourceFolder(str(folder), HOLDS).table("table", columns, **form)


def rows(table: TextTable, *columns: str) -> list[dict[str, Any]]:
    return pa.Table.from_batches(table.batches(*columns)).to_pylist()


def test_columns_are_found_by_name_in_any_order_and_others_are_passed_over(tmp_path: Path) -> None:
    made = table(tmp_path, "film,note,stars ,user\n7,x,4.5,1\n8,y,NULL,2\n")
    assert rows(made) == [
        {"user": 1, "film": 7, "stars": 4.5, "row": 0},
        {"user": 2, "film": 8, "stars": None, "row": 1},
    ]
    assert rows(made, "film") == [{"film": 7, "row": 0}, {"film": 8, "row": 1}]
    assert made.columns == ("user", "film", "stars")


def test_separators_of_several_letters_no_header_no_quotes_latin_1(tmp_path: Path) -> None:
    text = '1::Caf\xe9: the "end::4\r\n\r\n2::\x22::3\r\n'.encode("latin-1")
    columns = {"user": "int64", "title": "string", "stars": "float64"}
    made = table(tmp_path, text, columns, separator="::", header=False, quotes=False, encoding="latin-1")
    assert [row["title"] for row in rows(made)] == ['Café: the "end', '"']


def test_quoted_values_hold_separators_and_line_ends(tmp_path: Path) -> None:
    made = table(tmp_path, 'user,film,title\n1,2,"a, ""b""\nc"\n3,4,d\n', {"title": "string"})
    assert [row["title"] for row in rows(made)] == ['a, "b"\nc', "d"]


@pytest.mark.parametrize("separator", ["", "\0", "§"])
def test_a_separator_that_cannot_be(separator: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="an ASCII letter but NUL, or several letters"):
        table(tmp_path, "a\n", separator=separator)


def test_a_letter_that_the_encoding_has_not(tmp_path: Path) -> None:
    made = table(tmp_path, b"1::2::3\n1::2::\x81\n", encoding="cp1252", **_DAT)
    with pytest.raises(DataError, match="table:2: is not in cp1252: "):
        rows(made)


def test_dates(tmp_path: Path) -> None:
    made = table(tmp_path, "t_dat\n2020-09-22\n", {"t_dat": "date32"})
    assert next(made.batches())["t_dat"].cast(pa.int32()).to_pylist() == [18527]
    with pytest.raises(DataError, match=r"table:3: `t_dat` is no date like 2026-11-24: '22.9.2020'"):
        rows(table(tmp_path, "t_dat\n2020-09-22\n22.9.2020\n", {"t_dat": "date32"}))


def test_blocks_are_joined_and_rows_counted_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_csv, "_BLOCK", 50)
    made = table(tmp_path, "".join(f"{user}::{user}::1\n" for user in range(100)), separator="::", header=False)
    assert len(list(made.batches())) > 3
    assert [(row["user"], row["row"]) for row in rows(made)] == [(row, row) for row in range(100)]
    made = table(tmp_path, "".join(f"{'x' if user == 77 else user}::1::1\n" for user in range(100)), **_DAT)
    with pytest.raises(DataError, match="table:78: `user` is no whole number: 'x'"):
        rows(made)
    made = table(tmp_path, "".join(f"{'' if user in (60, 77) else user}::1::1\n" for user in range(100)), **_DAT)
    with pytest.raises(DataError, match=r"`user` has no value in 1 row \(line 61\)"):
        rows(made)


_DAT = {"separator": "::", "header": False, "quotes": False}


def test_a_line_with_too_few_values(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="table:2: a broken line: 2 values, there should be 3"):
        rows(table(tmp_path, "1::2::3\n3::4\n", **_DAT))
    with pytest.raises(DataError, match="table:3: a broken line: 2 values, the header has 3"):
        rows(table(tmp_path, "user,film,stars\n1,2,3\n3,4\n"))


def test_a_header_that_lacks_columns_shows_the_difference(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        table(tmp_path, "userId,film,rating\n1,2,3\n")
    assert str(error.value).endswith(
        "table:1: the header lacks `user`, `stars`; instead there is `userId`, `rating`\n\n"
        "  The first line should name the columns: user,film,stars."
    )
    with pytest.raises(DataError, match="the header lacks `film`, `stars`; nothing is in their place"):
        table(tmp_path, "user\n1\n")


def test_an_empty_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="table: the file is empty"):
        table(tmp_path, "")


def test_rows_that_a_source_refuses_are_named_by_line(tmp_path: Path) -> None:
    made = table(tmp_path, "user,film,stars\n\n1,2,3\n1,2,9\n1,2,\n1,2,7\n")
    (batch,) = made.batches()
    with pytest.raises(DataError, match=r"`stars` above 5 in 2 rows \(line 4, line 6\)\n\n  Mend these lines."):
        made.refuse(batch, pc.greater(batch["stars"], 5), "`stars` above 5")
    made.refuse(batch, pc.greater(batch["stars"], 10), "`stars` above 10")


def test_a_missing_file_is_told_with_what_the_folder_should_hold(tmp_path: Path) -> None:
    folder = SourceFolder(str(tmp_path), HOLDS)
    with pytest.raises(FieldError) as error:
        folder.table("ratings.dat", PAIRS)
    assert error.value.field == "root"
    assert str(error.value) == (
        f"`root`: there is no ratings.dat in {tmp_path}\n\n  The folder should hold:\n"
        "    ratings.dat                  user::film::stars\n"
        "    films.txt                    film|title, in latin-1"
    )
    assert not folder.has("*.dat")
    for name in ("a.dat", "b.dat"):
        (tmp_path / name).write_text("x")
    assert folder.has("*.dat")
    with pytest.raises(FieldError, match=r"there are several \*.dat: a.dat, b.dat"):
        folder.table("*.dat", PAIRS)


def test_no_such_folder(tmp_path: Path) -> None:
    with pytest.raises(FieldError, match="there is no folder"):
        SourceFolder(str(tmp_path / "away"), HOLDS)


def test_pictures_by_name_below_a_folder(tmp_path: Path) -> None:
    for name in ("images/010/0108.png", "images/1.jpg", "images/other.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(picture(len(name)))
    folder = SourceFolder(str(tmp_path), HOLDS)
    pictures = folder.pictures("images", lambda: ["0108", "1", "2"])
    assert [name for name, _ in pictures.read(())] == ["0108", "1"]
    assert [name for name, _ in pictures.read({"1"})] == ["0108"]
    before = pictures.fingerprint
    (tmp_path / "images/2.jpg").write_bytes(b"x")
    assert pictures.fingerprint != before
    with pytest.raises(ImageError, match=r"images: no picture is named after an item(.|\n)*as the table has them\.$"):
        list(folder.pictures("images", lambda: ["9"]).read(()))
    with pytest.raises(FieldError, match="`covers`: there is no folder away"):
        folder.pictures("away", list, "covers")


def test_a_file_that_changes_has_another_fingerprint(tmp_path: Path) -> None:
    before = table(tmp_path, "user,film,stars\n1,2,3\n").fingerprint
    assert table(tmp_path, "user,film,stars\n1,2,4\n").fingerprint != before


def test_files_in_folders_below_by_name_and_glob(tmp_path: Path) -> None:
    for name in ("b/2024.csv", "a/2025.csv", "a/[x].csv"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("n\n1\n")
    folder = SourceFolder(f"{tmp_path}/", HOLDS)
    assert folder.files("*/20*.csv") == ["a/2025.csv", "b/2024.csv"]
    assert [rows(folder.table(name, {"n": "int64"}))[0]["n"] for name in folder.files("a/2*.csv")] == [1]
    with pytest.raises(FieldError, match=r"there are several \*/20\*.csv: a/2025.csv, b/2024.csv"):
        folder.table("*/20*.csv", {"n": "int64"})
    with pytest.raises(FieldError, match=r"there is no c/\*.csv in .*\n\n  The folder should hold:"):
        folder.files("c/*.csv")


def test_a_packed_file(tmp_path: Path) -> None:
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"n\n1\n"))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"n": 1}\n'))
    folder = SourceFolder(str(tmp_path), HOLDS)
    assert rows(folder.table("a.csv.gz", {"n": "int64"})) == [{"n": 1, "row": 0}]
    assert rows(folder.json_lines("a.jsonl.gz", {"n": "int64"})) == [{"n": 1, "row": 0}]


# --- JSON lines ---

PAGES = {"at": "string", "shown": "list[string]", "kcal": "int64?", "price": "float64?", "new": "bool?"}


def json_lines(folder: Path, text: str | bytes, columns: dict[str, str] = PAGES) -> JsonLines:
    (folder / "pages").write_bytes(text.encode() if isinstance(text, str) else text)
    return SourceFolder(str(folder), HOLDS).json_lines("pages", columns)


def test_json_objects_by_key_in_any_order_and_other_keys_are_passed_over(tmp_path: Path) -> None:
    made = json_lines(
        tmp_path,
        '{"shown": ["é", "b"], "at": "2026-03-01T00:00:01.5Z", "x": {"y": [1]}, "kcal": 7, "price": 2, "new": true}\r\n'
        '\n{"at": "2026-03-02T00:00:00+01:00", "shown": [], "kcal": null}',
    )
    first, second = rows(made)
    assert first == {"at": "2026-03-01T00:00:01.5Z", "shown": ["é", "b"], "kcal": 7, "price": 2, "new": True, "row": 0}
    assert (second["shown"], second["kcal"], second["price"], second["row"]) == ([], None, None, 1)
    at = pa.Table.from_batches(made.batches("at"))["at"]
    assert at.cast(pa.timestamp("ms", "UTC")).cast(pa.int64()).to_pylist() == [1772323201500, 1772406000000]
    assert rows(made, "kcal") == [{"kcal": 7, "row": 0}, {"kcal": None, "row": 1}]
    assert made.columns == tuple(PAGES)


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ('{"at": 5, "shown": []}', "`at` is no text: 5"),
        ('{"at": "", "shown": "a"}', 'each a text: "a"'),
        ('{"at": "", "shown": ["a", 1]}', r'`shown` is no list, each a text: \["a", 1\]'),
        ('{"at": "", "shown": [], "kcal": "7"}', '`kcal` is no whole number: "7"'),
        ('{"at": "", "shown": [], "kcal": 7.0}', "`kcal` is no whole number: 7.0"),
        ('{"at": "", "shown": [], "kcal": 9223372036854775808}', "`kcal` is no whole number: 9223372036854775808"),
        ('{"at": "", "shown": [], "price": true}', "`price` is no number: true"),
        ('{"at": "", "shown": [], "new": 1}', "`new` is no true or false: 1"),
        ('{"at": "" "shown": []}', 'is no JSON: Expecting \',\' delimiter.*: \'{"at": "" "shown": '),
        ("[1]", r"is no JSON object: '\[1\]'"),
        ('{"at": "\udcff", "shown": []}', "is not in UTF-8"),
    ],
)
def test_a_json_line_that_cannot_be_read(line: str, what: str, tmp_path: Path) -> None:
    good = '{"at": "", "shown": []}\n'
    made = json_lines(tmp_path, f"{good}\n{line}\n{good}".encode(errors="surrogateescape"))
    with pytest.raises(DataError, match=f"pages:3: .*{what}"):
        rows(made)


def test_json_lines_of_a_windows_editor_begin_with_a_mark(tmp_path: Path) -> None:
    assert rows(json_lines(tmp_path, '\ufeff{"n": 1}\r\n{"n": 2}\r\n', {"n": "int64"}))[0] == {"n": 1, "row": 0}
    with pytest.raises(DataError, match='pages:1: `n` is no whole number: "x"'):
        rows(json_lines(tmp_path, '\ufeff{"n": "x"}\n', {"n": "int64"}))


def test_json_that_only_arrow_refuses_is_told_in_its_words(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"pages: cannot be read as JSON lines: .*\(/at\) was specified twice"):
        rows(json_lines(tmp_path, '{"at": "", "at": "", "shown": []}\n'))


def test_json_rows_without_a_value_and_refused_ones_are_named_by_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source_tables, "_BLOCK", 64)
    lines = [f'{{"user": 7, "n": {n}}}\n' for n in range(30)]
    lines[12:12] = ["\n", "  \n"]
    made = json_lines(tmp_path, "".join(lines), {"n": "int64"})
    assert [row["row"] for row in rows(made)] == [row["n"] for row in rows(made)] == list(range(30))
    (early,) = [batch for batch in made.batches() if 5 in batch["n"].to_pylist()]
    with pytest.raises(DataError, match=r"`n` is 5 in 1 row \(line 6\)"):
        made.refuse(early, pc.equal(early["n"], 5), "`n` is 5")
    (late,) = [batch for batch in made.batches() if 13 in batch["n"].to_pylist()]
    with pytest.raises(DataError, match=r"`n` is 13 in 1 row \(line 16\)"):
        made.refuse(late, pc.equal(late["n"], 13), "`n` is 13")
    with pytest.raises(DataError, match=r"`n` has no value in 1 row \(line 33\)"):
        rows(json_lines(tmp_path, "".join([*lines, "{}\n"]), {"n": "int64"}))


def test_json_has_no_dates_and_files_have_rows(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="`at`: JSON has no date32, only int64, float64, string, bool and lists"):
        json_lines(tmp_path, "{}", {"at": "date32"})
    with pytest.raises(DataError, match="pages: the file is empty"):
        json_lines(tmp_path, "")
    assert list(json_lines(tmp_path, "\n").batches()) == []
