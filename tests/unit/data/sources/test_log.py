"""The streams of a log: what each recipe key makes of the files."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from little_log import DAY, FIRST, impressions, little_log, log_of, tables, write_log, write_table

from dicm_kit.data.sources.log import LogSource
from dicm_kit.data.sources.log_config import HistoryColumnConfig, ImpressionsConfig, ItemsConfig, PicturesConfig
from dicm_kit.errors import DataError
from dicm_kit.interfaces import SourceColumn


@pytest.mark.parametrize("ending", [".parquet", ".csv", ".csv.gz", ".tsv", ".tsv.gz"])
def test_every_format_gives_what_the_files_hold(ending: str, tmp_path: Path) -> None:
    write_log(tmp_path, ending)
    source, made = little_log(tmp_path, ending), tables()
    log = made["log"].to_pydict()
    assert impressions(source) == {
        "user": log["user_id"],
        "item": log["item_id"],
        "channel": log["channel"],
        "price": [float(np.float32(price)) for price in log["price"]],
        "time": log["timestamp"],
        "order": log["position"],
        "label": [float(label) for label in log["clicked"]],
    }
    items = made["items"].to_pydict()
    assert pa.Table.from_batches(source.items()).to_pydict() == {
        "item": items["item_id"],
        "picture": items["image"],
        "colour": items["colour"],
        "tags": items["tags"],
    }
    users = made["users"].to_pydict()
    assert pa.Table.from_batches(source.users()).to_pydict() == {"user": users["user_id"], "city": users["city"]}
    assert source.columns.context == {"channel": SourceColumn("id"), "price": SourceColumn("number")}
    assert source.columns.item == {"colour": SourceColumn("id"), "tags": SourceColumn("ids")}
    assert source.columns.user == {"city": SourceColumn("id")}


def test_each_stream_can_be_read_again(tmp_path: Path) -> None:
    write_log(tmp_path)
    source = little_log(tmp_path)
    assert impressions(source) == impressions(source)
    assert [name for name, _ in source.pictures(set())] == [name for name, _ in source.pictures(set())]


def test_a_log_larger_than_a_batch(tmp_path: Path) -> None:
    count = 200_000
    source = log_of(tmp_path, {"item": np.arange(count), "time": FIRST + np.arange(count)})
    batches = list(source.impressions("log.parquet"))
    assert len(batches) > 2
    assert impressions(source)["item"] == list(range(count))


def test_a_folder_and_a_glob_of_files(tmp_path: Path) -> None:
    for day in (2, 0, 1):
        for ending in (".parquet", ".csv"):
            write_table(tmp_path / f"log/day={day}/a{ending}", {"u": [day], "i": [7], "t": [FIRST + day]})
    for other in ("log/_SUCCESS", "log/day=0/.a.csv.crc", "log/_temporary/a.csv", "log/readme.txt"):
        (tmp_path / other).parent.mkdir(exist_ok=True)
        (tmp_path / other).write_text("no,log\n")
    write_table(tmp_path / "items.csv", {"item": [7]})

    def source(file: str) -> LogSource:
        keys = ImpressionsConfig(file=file, user="u", item="i", time="t")
        return LogSource(str(tmp_path), keys, ItemsConfig(file="items.csv", item="item"))

    assert impressions(source("log"))["user"] == [0, 0, 1, 1, 2, 2]
    assert list(source("log").pieces) == [
        f"log/day={day}/a{ending}" for day in range(3) for ending in (".csv", ".parquet")
    ]
    assert list(source("log/*/a.csv").pieces) == [f"log/day={day}/a.csv" for day in range(3)]
    assert list(source("log/day=[12]").pieces) == [
        f"log/day={day}/a{end}" for day in (1, 2) for end in (".csv", ".parquet")
    ]
    assert list(source(str(tmp_path / "log/day=1/a.csv")).pieces) == ["log/day=1/a.csv"]


def test_a_root_with_brackets_in_its_name(tmp_path: Path) -> None:
    write_log(tmp_path / "my [log]")
    assert list(little_log(tmp_path / "my [log]", file="l*.parquet", label=None).pieces) == ["log.parquet"]


@pytest.mark.parametrize("file", ["log.parquet", "log.csv"])
def test_labels_of_every_type(file: str, tmp_path: Path) -> None:
    for label in ([1, 0, 1], [1.0, 0.0, 1.0], [True, False, True]):
        assert impressions(log_of(tmp_path, {"label": label}, name=file, label="label"))["label"] == [1, 0, 1]


def test_without_a_label_every_row_is_a_click(tmp_path: Path) -> None:
    rows = impressions(log_of(tmp_path, {"item": [7, 8]}))
    assert rows == {"user": [1, 1], "item": [7, 8], "time": [FIRST] * 2, "label": [1, 1]}


def test_kept_negatives_weigh_more(tmp_path: Path) -> None:
    source = log_of(tmp_path, {"label": [1, 0, 0]}, label="label", kept_negatives=0.25)
    assert impressions(source)["weight"] == [1, 4, 4]
    source = log_of(tmp_path, {"label": [1, 0, 0], "w": [2, 2, 0]}, label="label", weight="w", kept_negatives=0.25)
    assert impressions(source)["weight"] == [2, 8, 0]
    assert impressions(log_of(tmp_path, {"w": [2.5, 2, 0]}, weight="w"))["weight"] == [2.5, 2, 0]


def test_ids_that_are_text(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("user,item,time,shop\n007,0108775015,1700006400,01\n8,x,1700006400,\n")
    write_table(tmp_path / "items.parquet", {"item": ["0108775015", "x"]})
    keys = ImpressionsConfig(file="log.csv", user="user", item="item", time="time", columns={"shop": "hash"})
    items = ItemsConfig(file="items.parquet", item="item")
    with pytest.raises(DataError, match=r"(?s)log.csv:2: `user` .* '007'.*`impressions.text: \[user\]`"):
        impressions(LogSource(str(tmp_path), keys, items))
    keys.text = ["user"]
    with pytest.raises(DataError, match=r"(?s)log.csv:2: `shop` .* '01'.*`impressions.text: \[shop\]`"):
        impressions(LogSource(str(tmp_path), keys, items))
    keys.text = ["user", "shop"]
    rows = impressions(LogSource(str(tmp_path), keys, items))
    assert (rows["user"], rows["item"], rows["shop"]) == (["007", "8"], ["0108775015", "x"], ["01", None])


def test_whole_numbers_of_a_parquet_file_as_text(tmp_path: Path) -> None:
    source = log_of(
        tmp_path, {"user": [5, 6], "item": ["7", "8"], "c": [3, None]}, columns={"c": "id"}, text=["user", "c"]
    )
    rows = impressions(source)
    assert (rows["user"], rows["c"]) == (["5", "6"], ["3", None])


def test_ids_that_a_null_once_made_floats(tmp_path: Path) -> None:
    source = log_of(tmp_path, {"user": [5.0, 6.0], "c": [3.0, float("nan")]}, columns={"c": "id"})
    assert (impressions(source)["user"], impressions(source)["c"]) == ([5, 6], [3, None])
    source = log_of(
        tmp_path,
        {"c": [3.0, float("nan")], "d": pa.array([None, 2], pa.decimal128(5, 2))},
        columns={"c": "number", "d": "number"},
    )
    assert (impressions(source)["c"], impressions(source)["d"]) == ([3, None], [None, 2])


@pytest.mark.parametrize("file", ["log.parquet", "log.csv"])
def test_a_column_with_a_dot_in_its_name(file: str, tmp_path: Path) -> None:
    source = log_of(tmp_path, {"a.b": [1, 2], "a": [3, 4]}, name=file, user="a.b")
    assert impressions(source)["user"] == [1, 2]


@pytest.mark.parametrize("file", ["log.parquet", "log.csv"])
def test_several_ids(file: str, tmp_path: Path) -> None:
    source = log_of(
        tmp_path,
        {"text": ["a|b", "c", None, ""], "few": ["1", "2", "3", "4|5"]},
        name=file,
        columns={"text": "ids", "few": "ids"},
    )
    rows = impressions(source)
    assert rows["text"] == [["a", "b"], ["c"], None, None]
    assert rows["few"] == [["1"], ["2"], ["3"], ["4", "5"]]


def test_dictionaries_and_large_strings(tmp_path: Path) -> None:
    words = pa.array(["x", None, "x"]).dictionary_encode()
    columns = {
        "item": pa.array(["7", "8", "7"]).dictionary_encode(),
        "c": words,
        "d": pa.array(["a", "b", "c"], pa.large_string()),
    }
    source = log_of(tmp_path, columns, columns={"c": "id", "d": "id"})
    assert impressions(source)["item"] == ["7", "8", "7"]
    assert impressions(source)["c"] == ["x", None, "x"]
    assert {field.type for field in next(source.impressions("log.parquet")).schema if field.name in "cd"} == {
        pa.string()
    }


def test_the_splits_of_a_column(tmp_path: Path) -> None:
    assert impressions(log_of(tmp_path, {"part": ["train", "test"]}, split="part"))["split"] == ["train", "test"]


# --- histories that the log has ---


@pytest.mark.parametrize("file", ["log.parquet", "log.csv"])
def test_a_column_of_clicked_items(file: str, tmp_path: Path) -> None:
    columns = {"seen": [[8, 7, 8], None, [7]], "when": [[FIRST - 3, FIRST - 2, FIRST - 1], None, [FIRST - 9]]}
    source = log_of(
        tmp_path, columns, name=file, history=HistoryColumnConfig(column="seen", times="when", order="oldest_first")
    )
    rows = impressions(source)
    assert [[int(item) for item in row] for row in rows["history"]] == [[8, 7, 8], [], [7]]
    assert rows["history_time"] == [[FIRST - 1, FIRST - 2, FIRST - 3], [], [FIRST - 9]]
    source = log_of(tmp_path, columns, name=file, history=HistoryColumnConfig(column="seen"))
    assert "history_time" not in impressions(source)


def test_times_of_clicks_are_read_like_the_log(tmp_path: Path) -> None:
    stamps = pa.array([[FIRST * 1000 - 1500]], pa.list_(pa.timestamp("ms")))
    time = pa.array([FIRST], pa.timestamp("s"))
    history = HistoryColumnConfig(column="seen", times="when")
    source = log_of(tmp_path, {"seen": [["7"]], "when": stamps, "time": time}, history=history)
    assert impressions(source)["history_time"] == [[FIRST - 2]]
    source = log_of(
        tmp_path, {"seen": [["7"]], "when": [[FIRST * 1000 - 1500]], "time": [FIRST * 1000]}, history=history
    )
    assert impressions(source)["history_time"] == [[FIRST - 2]]


# --- filters ---


def test_rows_are_kept_by_value_and_by_day(tmp_path: Path) -> None:
    columns = {
        "item": [1, 2, 3, 4, 5, 6],
        "time": [FIRST - 1, FIRST, FIRST + 5, FIRST + DAY - 1, FIRST + DAY, FIRST + 7],
        "n": pa.array([1, 1, 2, 1, 1, None], pa.int8()),
        "s": ["a", "a", "a", "b", "a", "a"],
    }

    def kept(**keys: Any) -> list[int]:
        return impressions(log_of(tmp_path, columns, **keys))["item"]

    assert kept(where={"n": [1, 300]}) == [1, 2, 4, 5]
    assert kept(where={"n": [1], "s": ["b", "c"]}) == [4]
    assert kept(since="2023-11-15") == [2, 3, 4, 5, 6]
    assert kept(until="2023-11-15") == [1, 2, 3, 4, 6]
    assert kept(since="2023-11-15", until="2023-11-15", where={"s": ["a"]}) == [2, 3, 6]


def test_rows_that_a_filter_leaves_out_may_be_wrong(tmp_path: Path) -> None:
    columns = {"user": [1, None, 1], "time": [FIRST, None, FIRST * 1000], "n": [1, 2, 2]}
    assert impressions(log_of(tmp_path, columns, where={"n": [1]}))["user"] == [1]


def test_a_file_without_a_row_has_the_same_columns(tmp_path: Path) -> None:
    for day in range(2):
        write_table(tmp_path / f"log/{day}.csv", {"item": [7], "user": [1], "time": [FIRST + day * DAY]})
    write_table(tmp_path / "log/none.csv", {"item": [], "user": [], "time": []})
    write_table(tmp_path / "items.csv", {"item": [7]})
    keys = ImpressionsConfig(file="log", user="user", item="item", time="time", since="2023-11-16")
    source = LogSource(str(tmp_path), keys, ItemsConfig(file="items.csv", item="item"))
    made = {piece: pa.Table.from_batches(source.impressions(piece)) for piece in source.pieces}
    assert [len(table) for table in made.values()] == [0, 1, 0]
    assert len({table.schema for table in made.values()}) == 1


# --- what changes what ---


def test_the_fingerprint_is_of_how_the_log_is_read(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write_log(tmp_path / folder)
    first = little_log(tmp_path / "a").fingerprint
    assert little_log(tmp_path / "b").fingerprint == first
    assert little_log(tmp_path / "b", file="lo*.parquet").fingerprint == first
    others = [
        {"since": "2023-11-15"},
        {"where": {"channel": [1]}},
        {"label": None},
        {"time": "timestamp"},
        {"time_unit": "s"},
    ]
    assert len({first} | {little_log(tmp_path / "b", **other).fingerprint for other in others}) == 1 + len(others)


def test_pieces_and_snapshot_are_of_the_content(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        write_log(tmp_path / folder)
    before, same = little_log(tmp_path / "a"), little_log(tmp_path / "b")
    assert (before.pieces, before.snapshot) == (same.pieces, same.snapshot)
    write_table(tmp_path / "b/log.parquet", tables(seed=1)["log"])
    assert little_log(tmp_path / "b").pieces != before.pieces
    assert little_log(tmp_path / "b").snapshot == before.snapshot
    for name, columns in (("items", tables()["items"].slice(1)), ("users", tables()["users"].slice(1))):
        snapshot = little_log(tmp_path / "b").snapshot
        write_table(tmp_path / f"b/{name}.parquet", columns)
        assert little_log(tmp_path / "b").snapshot != snapshot


def test_the_snapshot_knows_the_list_of_pictures(tmp_path: Path) -> None:
    write_log(tmp_path)

    def snapshot() -> str:
        log = ImpressionsConfig(file="log.parquet", user="user_id", item="item_id", time="timestamp")
        items = ItemsConfig(file="items.parquet", item="item_id")
        return LogSource(str(tmp_path), log, items, pictures=PicturesConfig(folder="images")).snapshot

    first = snapshot()
    (tmp_path / "images/note.txt").write_text("no picture")
    assert snapshot() == first
    (tmp_path / "images/new.jpg").write_bytes(b"picture")
    second = snapshot()
    (tmp_path / "images/new.jpg").write_bytes(b"picture, larger")
    assert len({first, second, snapshot()}) == 3


def test_making_one_reads_no_rows(tmp_path: Path) -> None:
    """Content may be anything but the footer: `dicm check` is quick."""
    write_log(tmp_path)
    data = bytearray((tmp_path / "log.parquet").read_bytes())
    data[4:1000] = bytes(996)
    (tmp_path / "log.parquet").write_bytes(data)
    little_log(tmp_path)
