"""Times of every unit and type become the same seconds; mixed and impossible ones are named with file and row."""

import time
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from little_log import DAY, FIRST, impressions, log_of, write_table

from dicm_kit.data.sources.log import LogSource
from dicm_kit.data.sources.log_config import HistoryColumnConfig, ImpressionsConfig, ItemsConfig
from dicm_kit.data.sources.log_time import PER_SECOND, UNITS, Clock, packed, units_of
from dicm_kit.errors import DataError, FieldError

SECONDS = [FIRST, FIRST + 1, FIRST + 2 * DAY]
STAMPS = pa.array(SECONDS, pa.timestamp("s"))


@pytest.mark.parametrize(
    "column",
    [
        SECONDS,
        [float(second) for second in SECONDS],
        [second * 1000 for second in SECONDS],
        [second * 10**6 for second in SECONDS],
        [second * 10**9 for second in SECONDS],
        pa.array(SECONDS, pa.uint32()),
        pa.array([second * 1000 for second in SECONDS], pa.uint64()),
        STAMPS,
        STAMPS.cast(pa.timestamp("ms", "Europe/Berlin")),
        STAMPS.cast(pa.timestamp("ns", "UTC")),
        ["2023-11-15T00:00:00", "2023-11-15 00:00:01", "2023-11-17"],
        ["2023-11-15T00:00:00Z", "2023-11-15 01:00:01+01:00", "2023-11-16T19:00:00-05:00"],
    ],
    ids=str,
)
def test_seconds_of_every_type(column: Any, tmp_path: Path) -> None:
    rows = impressions(log_of(tmp_path, {"time": column}))
    assert rows["time"] == SECONDS
    assert set(rows.get("order", [0])) == {0}


@pytest.mark.parametrize("kind", [pa.date32(), pa.date64()])
def test_dates(kind: pa.DataType, tmp_path: Path) -> None:
    days = pa.array([date(2023, 11, 15), date(2023, 11, 17)], kind)
    assert impressions(log_of(tmp_path, {"time": days}))["time"] == [FIRST, FIRST + 2 * DAY]


@pytest.mark.parametrize(
    "values",
    [
        ["2023-11-15", "2023-11-15 00:00:01", "2023-11-17T00:00:00"],
        ["2023-11-15T00:00:00Z", "2023-11-15T00:00:01Z", "2023-11-17T01:00:00+01:00"],
        ["1700006400", "1700006401", "1700179200"],
        ["1700006400.0", "1700006401.0", "1700179200"],
    ],
)
def test_times_in_csv(values: list[str], tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("user,item,time\n" + "".join(f"1,7,{value}\n" for value in values))
    write_table(tmp_path / "items.csv", {"item": [7]})
    keys = ImpressionsConfig(file="log.csv", user="user", item="item", time="time")
    source = LogSource(str(tmp_path), keys, ItemsConfig(file="items.csv", item="item"))
    assert impressions(source)["time"] == SECONDS


def test_what_is_below_a_second_breaks_ties(tmp_path: Path) -> None:
    assert impressions(log_of(tmp_path, {"time": [FIRST * 1000 + 5, FIRST * 1000 - 1]}))["order"] == [5, 999]
    assert impressions(log_of(tmp_path, {"time": [FIRST + 0.25]}))["order"] == [250_000]
    texts = ["2023-11-15T00:00:00.000000002", "2023-11-14T23:59:59.5"]
    rows = impressions(log_of(tmp_path, {"time": texts}))
    assert (rows["time"], rows["order"]) == ([FIRST, FIRST - 1], [2, 500_000_000])
    stamps = pa.array([-1], pa.timestamp("us"))
    rows = impressions(log_of(tmp_path, {"time": stamps}))
    assert (rows["time"], rows["order"]) == ([-1], [999_999]), "before 1970 too"


def test_then_the_order_of_the_log(tmp_path: Path) -> None:
    columns = {"time": [FIRST * 1000 + milli for milli in (7, 7, 3, 8)], "place": [2, 1, 9, 0]}
    order = impressions(log_of(tmp_path, columns, time=["time", "place"]))["order"]
    assert np.argsort(order).tolist() == [2, 1, 0, 3]
    with pytest.raises(DataError, match=r"log.parquet: numbers of .* do not fit beside a time of 1,000 ticks"):
        impressions(log_of(tmp_path, columns | {"place": [0, 0, 0, 2**60]}, time=["time", "place"]))


@given(st.lists(st.tuples(st.integers(0, 999), st.integers(-(2**50), 2**50)), min_size=2, max_size=20))
@settings(deadline=None)
def test_packing_keeps_the_order(pairs: list[tuple[int, int]]) -> None:
    below, order = np.array(pairs).T
    assert (
        sorted(range(len(pairs)), key=pairs.__getitem__)
        == np.argsort(packed(order, below, 1000, "log"), kind="stable").tolist()
    )


@given(st.sampled_from(UNITS[1:]), st.integers(10**8, 4 * 10**9))
def test_the_unit_is_known_by_the_size(unit: str, second: int) -> None:
    """From 1973 to 2096, whatever the unit."""
    assert UNITS[units_of(np.array([second * PER_SECOND[unit]]))[0]] == unit


def test_small_numbers_are_an_order(tmp_path: Path) -> None:
    rows = impressions(log_of(tmp_path, {"time": [1, 2, 99_999_999]}))
    assert rows["time"] == [1, 2, 99_999_999]
    assert impressions(log_of(tmp_path, {"time": [1.0, 2.0]}))["time"] == [1, 2]
    with pytest.raises(DataError, match=r"`time` cannot be read as a time in 1 row \(row 1: 2.5\)"):
        impressions(log_of(tmp_path, {"time": [1.0, 2.5]}))


def test_a_unit_that_the_recipe_names(tmp_path: Path) -> None:
    assert impressions(log_of(tmp_path, {"time": [5, 3]}, time_unit="s"))["time"] == [5, 3]
    assert impressions(log_of(tmp_path, {"time": [5000, 10**12]}, time_unit="ms"))["time"] == [5, 10**9]
    assert impressions(log_of(tmp_path, {"time": [5, 10**12]}, time_unit="order"))["time"] == [5, 10**12]


@pytest.mark.parametrize("seconds_first", [True, False])
@pytest.mark.parametrize("of", [list, lambda values: [float(value) for value in values]], ids=["whole", "fraction"])
def test_a_unit_that_the_recipe_names_and_another_one(seconds_first: bool, of: Any, tmp_path: Path) -> None:
    """Seconds among milliseconds would be days of 1970, in one file or in two."""
    times = [[FIRST], [5, FIRST * 1000, FIRST * 1000]][:: 1 if seconds_first else -1]
    for name, columns in {"one": [times[0] + times[1]], "two": times}.items():
        for number, column in enumerate(columns):
            rows = {"u": [1] * len(column), "i": [7] * len(column), "t": of(column)}
            write_table(tmp_path / f"{name}/{number}.csv", rows)
        write_table(tmp_path / "items.csv", {"item": [7]})
        keys = ImpressionsConfig(file=name, user="u", item="i", time="t", time_unit="ms")
        with pytest.raises(DataError, match=r"mixes units: .*1 row in seconds .* 2 rows in milliseconds") as caught:
            impressions(LogSource(str(tmp_path), keys, ItemsConfig(file="items.csv", item="item")))
        assert "name it" not in str(caught.value)


def test_a_named_unit_whose_numbers_all_have_another_size(tmp_path: Path) -> None:
    """A clock that begins at 0: 1970 is meant."""
    rows = impressions(log_of(tmp_path, {"time": [0, 5 * 10**8, 7 * 10**10]}, time_unit="ms"))
    assert rows["time"] == [0, 5 * 10**5, 7 * 10**7]


def test_clicks_of_a_history_in_another_unit_than_the_named_one(tmp_path: Path) -> None:
    columns = {"time": [FIRST * 1000], "seen": [[7]], "when": [[FIRST]]}
    keys = {"time_unit": "ms", "history": HistoryColumnConfig(column="seen", times="when")}
    with pytest.raises(DataError, match="times in `when` are in another unit"):
        impressions(log_of(tmp_path, columns, **keys))


def test_a_number_that_is_none_has_no_unit(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"`time` is null in 1 row \(row 0\)"):
        impressions(log_of(tmp_path, {"time": [float("nan"), float(FIRST)]}))
    with pytest.raises(DataError, match=r"1 row in seconds .*; 1 row in milliseconds") as caught:
        impressions(log_of(tmp_path, {"time": [float("nan"), float(FIRST), FIRST * 1000.0]}))
    assert "nanoseconds" not in str(caught.value)


def test_no_time_at_all(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="the log has no rows"):
        impressions(log_of(tmp_path, {"item": pa.array([], pa.int64()), "time": pa.array([], pa.int64())}))
    with pytest.raises(DataError, match=r"`time` is null in 2 rows \(row 0, row 1\)"):
        impressions(log_of(tmp_path, {"time": pa.nulls(2)}))


# --- what is wrong ---


@pytest.mark.parametrize("ending", [".parquet", ".csv"])
def test_mixed_units_say_which_where_and_how_many(ending: str, tmp_path: Path) -> None:
    times = {"a": [FIRST] * 3, "b": [FIRST, FIRST * 1000, FIRST * 1000, 7]}
    for name, column in times.items():
        write_table(tmp_path / f"log/{name}{ending}", {"u": [1] * len(column), "i": [7] * len(column), "t": column})
    write_table(tmp_path / "items.csv", {"item": [7]})
    keys = ImpressionsConfig(file="log", user="u", item="i", time="t")
    source = LogSource(str(tmp_path), keys, ItemsConfig(file="items.csv", item="item"))
    with pytest.raises(DataError) as caught:
        impressions(source)
    b = tmp_path / f"log/b{ending}"
    at = ("row 3", "row 1") if ending == ".parquet" else ("line 5", "line 3")
    assert f"1 row in numbers below 100,000,000, which are no clock (first 7 in {b}, {at[0]})" in str(caught.value)
    first = "row 0" if ending == ".parquet" else "line 2"
    assert f"4 rows in seconds (first {FIRST} in {tmp_path / f'log/a{ending}'}, {first})" in str(caught.value)
    assert f"2 rows in milliseconds (first {FIRST * 1000} in {b}, {at[1]})" in str(caught.value)
    assert "time_unit" in str(caught.value)


def test_units_between_files_count_also_when_one_file_is_read(tmp_path: Path) -> None:
    for day, scale in enumerate((1, 1000)):
        write_table(tmp_path / f"log/{day}.csv", {"u": [1], "i": [7], "t": [FIRST * scale]})
    write_table(tmp_path / "items.csv", {"item": [7]})
    keys = ImpressionsConfig(file="log", user="u", item="i", time="t")
    source = LogSource(str(tmp_path), keys, ItemsConfig(file="items.csv", item="item"))
    with pytest.raises(DataError, match=r"mixes units: 1 row in seconds .* 1 row in milliseconds"):
        list(source.impressions("log/1.csv"))


def test_times_that_have_not_come_yet(tmp_path: Path) -> None:
    now = int(time.time())
    assert impressions(log_of(tmp_path, {"time": [now, now + DAY - 60]}))["time"]
    with pytest.raises(
        DataError, match=r"log.parquet: `time` lies in the future in 2 rows \(row 1: 2\d\d\d-.*, row 3: "
    ):
        impressions(log_of(tmp_path, {"time": [now, now + 2 * DAY, now, now + 9 * DAY]}))
    with pytest.raises(DataError, match=r"(?s)lies in the future .*time_unit"):
        impressions(log_of(tmp_path, {"time": [FIRST * 1000]}, time_unit="s"))


def test_text_that_is_no_time(tmp_path: Path) -> None:
    column = ["2023-11-15", "15.11.2023", "2023-13-01", None]
    with pytest.raises(DataError) as caught:
        impressions(log_of(tmp_path, {"time": column}))
    assert "`time` cannot be read as a time in 2 rows (row 1: '15.11.2023', row 2: '2023-13-01')" in str(caught.value)
    assert str(tmp_path / "log.parquet") in str(caught.value)


@pytest.mark.parametrize("bad_first", [True, False])
def test_text_that_is_no_time_in_one_of_several_files(bad_first: bool, tmp_path: Path) -> None:
    """It makes a CSV file's column text, and those of the others stay timestamps."""
    bad, good = ("a", "b") if bad_first else ("b", "a")
    (tmp_path / "log").mkdir()
    (tmp_path / f"log/{good}.csv").write_text("u,i,t\n1,7,2023-11-15T00:00:00\n1,7,2023-11-15T00:00:01\n")
    (tmp_path / f"log/{bad}.csv").write_text("u,i,t\n1,7,2023-11-17\n1,7,15.11.2023\n")
    write_table(tmp_path / "items.csv", {"item": [7]})
    keys = ImpressionsConfig(file="log", user="u", item="i", time="t")
    with pytest.raises(DataError) as caught:
        impressions(LogSource(str(tmp_path), keys, ItemsConfig(file="items.csv", item="item")))
    says = f"{tmp_path}/log/{bad}.csv: `t` cannot be read as a time in 1 row (line 3: '15.11.2023')"
    assert str(caught.value).startswith(says)
    (tmp_path / f"log/{bad}.csv").write_text("u,i,t\n1,7,2023-11-17\n1,7,2023-11-15T01:00:00+01:00\n")
    rows = impressions(LogSource(str(tmp_path), keys, ItemsConfig(file="items.csv", item="item")))
    assert sorted(rows["time"]) == [FIRST, FIRST, FIRST + 1, FIRST + 2 * DAY]


def test_days_without_a_clock(tmp_path: Path) -> None:
    with pytest.raises(FieldError, match=r"`impressions.time_unit`: is `order`: `since` and `until` have no days"):
        log_of(tmp_path, {"time": [1]}, time_unit="order", since="2020-01-01")
    with pytest.raises(DataError, match="no clock: `since` and `until` have no days"):
        impressions(log_of(tmp_path, {"time": [1]}, since="2020-01-01"))


def test_a_unit_for_times_that_have_one(tmp_path: Path) -> None:
    with pytest.raises(FieldError, match=r"`impressions.time_unit`: `time` holds no numbers"):
        log_of(tmp_path, {"time": STAMPS}, time_unit="ms")


def test_files_whose_timestamps_differ(tmp_path: Path) -> None:
    """The finest unit counts for all."""
    clock = Clock([pa.timestamp("s"), pa.timestamp("us"), pa.date32()], "auto", lambda: None, lambda _: False)
    assert clock.per_second == 10**6
    assert clock.ticks(pa.array([3], pa.timestamp("s")))[0].tolist() == [3_000_000]
    assert clock.ticks(pa.array([1], pa.date32()))[0].tolist() == [DAY * 10**6]
    far = pa.array([2**62], pa.timestamp("s"))
    assert clock.ticks(far)[1].tolist() == [False], "too far away for the finest unit"
