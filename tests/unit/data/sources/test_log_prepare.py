"""From a log's files to the dataset folder: the same one whatever the format, and what stops on the way."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from little_log import DAY, FIRST, little_log, log_of, tables, write_log, write_table, write_tar
from little_shop import picture

from dicm_kit.data.dataset import Dataset
from dicm_kit.data.options import NegativeOptions
from dicm_kit.data.prepare import PrepareOptions, SplitOptions, prepare
from dicm_kit.data.sources.log import LogSource
from dicm_kit.data.sources.log_config import HistoryColumnConfig, ImpressionsConfig, ItemsConfig, PicturesConfig
from dicm_kit.errors import DataError

OPTIONS = PrepareOptions(lanes=2, partitions=2)


def made(folder: Path, source: LogSource, options: PrepareOptions = OPTIONS) -> Dataset:
    return prepare(source, options, folder, progress=False)


def content(folder: Path) -> dict[str, Any]:
    """Returns what a dataset folder holds but for its description, by file."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix in (".parquet", ".tar"))
    return {
        str(path.relative_to(folder)): pq.read_table(path, partitioning=None).to_pydict()
        if path.suffix == ".parquet"
        else path.read_bytes()
        for path in files
    }


def rejected(dataset: Dataset) -> dict[str, str]:
    rows = pq.read_table(dataset.folder / "images/rejected.parquet").to_pylist()
    return {row["name"]: row["reason"] for row in rows}


@pytest.mark.parametrize("ending", [".csv", ".tsv.gz"])
def test_csv_and_parquet_give_the_same_dataset(ending: str, tmp_path: Path) -> None:
    for name, kind in (("a", ".parquet"), ("b", ending)):
        write_log(tmp_path / name, kind)
        made(tmp_path / f"{name}-out", little_log(tmp_path / name, kind))
    first = content(tmp_path / "a-out")
    assert first == content(tmp_path / "b-out")
    assert {"items.parquet", "vocab/colour.parquet", "vocab/city.parquet"} <= first.keys()
    assert any(name.startswith("samples/") and file["user"] for name, file in first.items() if name.endswith("parquet"))


def test_one_file_or_many_give_the_same_dataset(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_log(tmp_path / name)
    log = pq.read_table(tmp_path / "b/log.parquet")
    for number, rows in enumerate((slice(0, 150), slice(150, 170), slice(170, 400))):
        write_table(tmp_path / f"b/log/{number}.csv", log.slice(rows.start, rows.stop - rows.start))
    made(tmp_path / "a-out", little_log(tmp_path / "a"))
    made(tmp_path / "b-out", little_log(tmp_path / "b", file="log"))
    first, second = content(tmp_path / "a-out"), content(tmp_path / "b-out")
    assert {name: first[name] for name in first if not name.startswith("state/")} == {
        name: second[name] for name in second if not name.startswith("state/")
    }


def test_milliseconds_and_timestamps_make_the_same_groups(tmp_path: Path) -> None:
    """What is below a second is kept: at whole seconds it changes nothing."""
    log = tables()["log"]
    place = log.schema.get_field_index("timestamp")
    seconds = log["timestamp"].combine_chunks()
    milli = pa.array(seconds.to_numpy() * 1000)
    stamps = seconds.cast(pa.timestamp("s"))
    for name, column in (("a", seconds), ("b", milli), ("c", stamps)):
        write_log(tmp_path / name)
        write_table(tmp_path / f"{name}/log.parquet", log.set_column(place, "timestamp", column))
        made(tmp_path / f"{name}-out", little_log(tmp_path / name, time="timestamp"))
    samples = [
        {name: file for name, file in content(tmp_path / f"{each}-out").items() if name.startswith("samples/")}
        for each in "abc"
    ]
    assert samples[0] == samples[1] == samples[2]


# --- pictures ---


def test_missing_and_broken_pictures_are_listed_and_counted(tmp_path: Path) -> None:
    write_log(tmp_path / "log")
    (tmp_path / "log/images/1000.png").unlink()
    broken = tmp_path / "log/images/1001.png"
    broken.write_bytes(broken.read_bytes()[:40])
    (tmp_path / "log/images/1002.png").write_bytes(b"")
    items = tables()["items"].to_pydict()
    items["image"][7] = "../../../etc/passwd"
    write_table(tmp_path / "log/items.parquet", items)
    dataset = made(tmp_path / "out", little_log(tmp_path / "log"))
    reasons = rejected(dataset)
    assert reasons.keys() == {"../../../etc/passwd", *(f"images/{item}.png" for item in (1000, 1001, 1002))}
    assert reasons["../../../etc/passwd"] == "refused: no path inside `data.root`"
    assert "no such picture" in reasons["images/1000.png"]
    assert reasons["images/1002.png"] == "empty file"
    keys = dataset.items["picture_key"].to_pylist()
    assert [keys[row] for row in (0, 1, 2, 7)] == [0] * 4
    assert keys[3] != 0


@pytest.mark.parametrize("ids", ["numbers", "text"])
@pytest.mark.parametrize("where", ["folder", "tar"])
def test_pictures_named_after_items(ids: str, where: str, tmp_path: Path) -> None:
    made_of: Any = {"numbers": [7, 8, 9], "text": ["0007", "8", "x"]}[ids]
    log = {
        "item": made_of * 2,
        "time": [FIRST] * 3 + [FIRST + 5 * DAY] * 3,
        "label": [1, 0, 1] * 2,
        "user": [1, 2, 3] * 2,
    }
    write_table(tmp_path / "log.parquet", log)
    write_table(tmp_path / "items.parquet", {"item": made_of})
    found = {f"{item}.png": picture(shade) for shade, item in enumerate(made_of[:2])}
    write_tar(tmp_path / "posters.tar", found)
    for name, data in found.items():
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "images" / name).write_bytes(data)
    source = LogSource(
        str(tmp_path),
        ImpressionsConfig(file="log.parquet", user="user", item="item", time="time", label="label"),
        ItemsConfig(file="items.parquet", item="item"),
        pictures=PicturesConfig(folder="images") if where == "folder" else PicturesConfig(tar="*.tar"),
    )
    dataset = made(tmp_path / "out", source, replace(OPTIONS, split=SplitOptions(validation=0)))
    keys = dataset.items["picture_key"].to_pylist()
    assert [key != 0 for key in keys] == [True, True, False]
    assert rejected(dataset) == {str(made_of[2]): "the data source yields no such picture"}


# --- what is wrong ---


def _two_days(folder: Path, **columns: Any) -> LogSource:
    table = {
        "user": [1, 2, 1, 2],
        "item": [7, 8, 7, 8],
        "time": [FIRST, FIRST, FIRST + DAY, FIRST + DAY],
        "label": [1, 0, 1, 0],
    }
    return log_of(folder, table | columns, label="label")


TWO_DAYS = replace(OPTIONS, split=SplitOptions(validation=0))


def test_an_item_that_is_there_twice(tmp_path: Path) -> None:
    source = _two_days(tmp_path)
    write_table(tmp_path / "items.parquet", {"item": [7, 8, 7]})
    with pytest.raises(DataError, match=r"items: .*7"):
        made(tmp_path / "out", source, TWO_DAYS)


def test_an_item_that_is_not_among_the_items(tmp_path: Path) -> None:
    source = _two_days(tmp_path)
    write_table(tmp_path / "items.parquet", {"item": [7, 9]})
    with pytest.raises(DataError, match=r"item.* 8"):
        made(tmp_path / "out", source, TWO_DAYS)
    dropped = made(tmp_path / "dropped", source, replace(TWO_DAYS, unlisted="drop", negatives=NegativeOptions()))
    assert sum(split.positives for split in dropped.splits.values()) == 2


def test_labels_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"`label` is neither 0 nor 1 in 1 rows \(row 3: 5\)"):
        made(tmp_path / "out", _two_days(tmp_path, label=[1, 0, 1, 5]), TWO_DAYS)


def test_nulls_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"log.parquet: `user` is null in 1 row \(row 2\)"):
        made(tmp_path / "out", _two_days(tmp_path, user=[1, 2, None, 2]), TWO_DAYS)


def test_a_log_that_changed_since_it_was_prepared(tmp_path: Path) -> None:
    made(tmp_path / "out", _two_days(tmp_path), TWO_DAYS)
    assert made(tmp_path / "out", _two_days(tmp_path), TWO_DAYS).splits["test"].impressions == 2, "the same"
    with pytest.raises(DataError, match=r"log.parquet"):
        made(tmp_path / "out", _two_days(tmp_path, item=[7, 8, 8, 7]), TWO_DAYS)
    with pytest.raises(DataError, match=r"was prepared from another source"):
        made(tmp_path / "out", log_of(tmp_path, {"label": [1]}, label="label", since="2020-01-01"), TWO_DAYS)


# --- growing, filters, histories, clicks only ---


def _day(folder: Path, day: int, channel: int = 1) -> None:
    """Writes a day of the log."""
    time = [FIRST + day * DAY + hour * 3600 for hour in range(4)]
    columns = {
        "user": [1, 2, 1, 2],
        "item": [7, 8, 8, 7],
        "time": time,
        "label": [1, 0, 1, 0],
        "channel": [channel] * 4,
    }
    write_table(folder / f"log/day-{day}.csv", columns)


def _days(folder: Path, **keys: Any) -> LogSource:
    write_table(folder / "items.csv", {"item": [7, 8]})
    log = ImpressionsConfig(file="log/day-*.csv", user="user", item="item", time="time", label="label", **keys)
    return LogSource(str(folder), log, ItemsConfig(file="items.csv", item="item"))


def test_a_new_day_is_added_and_no_earlier_file_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for day in range(3):
        _day(tmp_path, day)
    before = made(tmp_path / "out", _days(tmp_path), TWO_DAYS)
    assert [part.impressions for part in before.parts.values()] == [8, 4]
    _day(tmp_path, 3)
    source, read = _days(tmp_path), list[str]()
    impressions = source.impressions
    monkeypatch.setattr(source, "impressions", lambda piece: read.append(piece) or impressions(piece))
    after = made(tmp_path / "out", source, TWO_DAYS)
    assert read == ["log/day-3.csv"]
    assert [part.impressions for part in after.parts.values()] == [8, 4, 4]


def test_files_that_a_filter_leaves_empty_are_passed_over(tmp_path: Path) -> None:
    for day in range(4):
        _day(tmp_path, day, channel=day % 2)
    for name, keys in {"days": {"since": "2023-11-17"}, "channel": {"where": {"channel": [1]}}}.items():
        dataset = made(tmp_path / name, _days(tmp_path, **keys), TWO_DAYS)
        assert [part.impressions for part in dataset.parts.values()] == [4, 4]


def test_clicks_only_with_negatives_that_are_drawn(tmp_path: Path) -> None:
    write_log(tmp_path / "log")
    log = tables()["log"]
    write_table(tmp_path / "log/log.parquet", log.filter(pa.compute.equal(log["clicked"], 1)))
    dataset = made(
        tmp_path / "out", little_log(tmp_path / "log", label=None), replace(OPTIONS, negatives=NegativeOptions(2))
    )
    assert all(each.impressions > each.positives for each in dataset.splits.values())
    with pytest.raises(DataError, match="needs `negatives`"):
        made(tmp_path / "none", little_log(tmp_path / "log", label=None))


def test_splits_and_histories_that_the_log_has(tmp_path: Path) -> None:
    columns = {
        "user": ["a", "a", "b", "b"],
        "item": ["7", "8", "7", "8"],
        "label": [1, 0, 1, 0],
        "part": ["train", "train", "test", "test"],
        "seen": ["7|8", "7|8", "8", None],
        "when": [f"{FIRST - 9}|{FIRST - 5}"] * 2 + [str(FIRST - 3), None],
    }
    history = HistoryColumnConfig(column="seen", times="when", order="oldest_first")
    source = log_of(tmp_path, columns, name="log.csv", label="label", split="part", history=history, text=["item"])
    dataset = made(tmp_path / "out", source, replace(OPTIONS, split=SplitOptions(by="column", validation=0)))
    groups = [
        row
        for lane in range(2)
        for path in dataset.lane_files("train", lane)
        for row in pq.read_table(path).to_pylist()
    ]
    assert [row["history_item"] for row in groups if row["history_item"]] == [[1, 0]], "8, then 7"
    assert dataset.splits["test"].with_history >= 1
