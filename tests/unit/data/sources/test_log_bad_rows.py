"""Rows that cannot be used: file, rows or lines, how many, what to do."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from little_log import FIRST, impressions, log_of, write_table

from dicm_kit.data.sources.log import LogSource
from dicm_kit.data.sources.log_config import HistoryColumnConfig, ImpressionsConfig, ItemsConfig, UsersConfig
from dicm_kit.errors import DataError


def error(stream: Callable[[], Any]) -> str:
    """Returns the DataError that it ends with."""
    with pytest.raises(DataError) as caught:
        stream()
    return str(caught.value)


@pytest.mark.parametrize("name", ["log.parquet", "log.csv"])
def test_nulls_in_user_item_and_time(name: str, tmp_path: Path) -> None:
    columns = {
        "user": [1, None, 1, None, 1, 1, 1],
        "item": [7, 7, 7, 7, None, 7, 7],
        "time": [FIRST, FIRST, None, FIRST, FIRST, FIRST, None],
    }
    text = error(lambda: impressions(log_of(tmp_path, columns, name=name)))
    rows = (
        ["row 1, row 3", "row 4", "row 2, row 6"]
        if name == "log.parquet"
        else ["line 3, line 5", "line 6", "line 4, line 8"]
    )
    assert text.startswith(
        f"{tmp_path / name}: `time` is null in 2 rows ({rows[2]}); `user` is null in 2 rows ({rows[0]}); "
        f"`item` is null in 1 row ({rows[1]})"
    )
    assert "leave them out of the file" in text


def test_five_rows_are_named_and_all_are_counted(tmp_path: Path) -> None:
    count = 150_000
    user = pa.array([None if row % 10 == 3 else row for row in range(count)])
    text = error(lambda: impressions(log_of(tmp_path, {"user": user, "item": [7] * count})))
    assert "`user` is null in 15,000 rows (row 3, row 13, row 23, row 33, row 43)" in text


def test_a_missing_number_in_a_float_column_is_a_null(tmp_path: Path) -> None:
    assert "`user` is null in 1 row (row 1)" in error(
        lambda: impressions(log_of(tmp_path, {"user": [1.0, float("nan")]}))
    )


def test_ids_that_are_no_whole_numbers(tmp_path: Path) -> None:
    source = log_of(tmp_path, {"c": [1.0, 2.5, None, 1e300]}, columns={"c": "id"})
    text = error(lambda: impressions(source))
    assert text.startswith(f"{tmp_path / 'log.parquet'}: `c` is no whole number in 2 rows (row 1: 2.5, row 3: 1e+300)")
    (tmp_path / "log.csv").write_text(f"user,item,time\n1,7,{FIRST}\n12345678901234567890,7,{FIRST}\n")
    log = ImpressionsConfig(file="log.csv", user="user", item="item", time="time")
    numbers = LogSource(str(tmp_path), log, ItemsConfig(file="items.parquet", item="item"))
    text = error(lambda: impressions(numbers))
    assert "`user` is no whole number in 1 row (line 3: 1.2345678901234567e+19)" in text, "more than a number can hold"
    assert "`impressions.text: [user]`" in text
    big = pa.array([1, 2**63], pa.uint64())
    assert "`user` is no whole number in 1 row (row 1: 9223372036854775808)" in error(
        lambda: impressions(log_of(tmp_path, {"user": big}))
    )


@pytest.mark.parametrize(
    ("seen", "when", "says"),
    [
        ([[7], [7, None]], [[FIRST], [FIRST, FIRST]], "`seen` holds a null in 1 row (row 1)"),
        ([[7], [7, 7]], [[FIRST, FIRST], [FIRST]], "`when` is not as long as `seen` in 2 rows (row 0, row 1)"),
        ([[7], [7]], [[None], [FIRST]], "`when` holds what is no time in 1 row (row 0)"),
        ([[7], [7]], [[FIRST], [FIRST * 1000]], "times in `when` are in another unit"),
    ],
)
def test_histories_that_do_not_fit(seen: Any, when: Any, says: str, tmp_path: Path) -> None:
    source = log_of(tmp_path, {"seen": seen, "when": when}, history=HistoryColumnConfig(column="seen", times="when"))
    assert says in error(lambda: impressions(source))


def test_lists_of_other_lengths_do_not_disturb_their_neighbours(tmp_path: Path) -> None:
    columns = {"seen": [[7, 7, 7], [7], [8, 7]], "when": [[FIRST], [FIRST - 1], [FIRST - 2, FIRST - 3]]}
    source = log_of(tmp_path, columns, history=HistoryColumnConfig(column="seen", times="when"))
    batch = next(source.impressions("log.parquet"))
    assert batch["history"].to_pylist() == [[], [7], [8, 7]]
    assert batch["history_time"].to_pylist() == [[], [FIRST - 1], [FIRST - 2, FIRST - 3]]


def test_items_and_users_without_an_id(tmp_path: Path) -> None:
    write_table(tmp_path / "log.csv", {"user": [1], "item": [7], "time": [FIRST]})
    write_table(tmp_path / "items.parquet", {"item": [7, None]})
    write_table(tmp_path / "users.csv", {"user": [1, None, None]})
    source = LogSource(
        str(tmp_path),
        ImpressionsConfig(file="log.csv", user="user", item="item", time="time"),
        ItemsConfig(file="items.parquet", item="item"),
        UsersConfig(file="users.csv", user="user"),
    )
    assert "items.parquet: `item` is null in 1 row (row 1)" in error(lambda: list(source.items()))
    (tmp_path / "users.csv").write_text('user,city\n1,a\n,b\n2,"x\ny"\n,c\n')
    assert "users.csv: `user` is null in 2 rows (line 3, line 6)" in error(lambda: list(source.users()))


# --- filters that leave nothing ---


def test_the_filter_that_took_the_last_row_is_named(tmp_path: Path) -> None:
    columns = {"a": [1, 1, 2], "b": ["x", "y", "y"]}

    def left(**keys: Any) -> str:
        return error(lambda: impressions(log_of(tmp_path, columns, **keys)))

    text = left(where={"a": [1], "b": ["z"]})
    assert "no row is left after `impressions.where.b: ['z']`; 3 rows came in, 2 as far as this filter" in text
    assert "no row is left after `impressions.where.a: [9]`; 3 rows came in\n" in left(where={"a": [9], "b": ["z"]})
    text = left(where={"a": [1]}, since="2023-11-16", until="2023-11-17")
    assert "no row is left after `impressions.since: 2023-11-16`; 3 rows came in, 2 as far as this filter" in text
    assert "no row is left after `impressions.until: 2023-11-14`" in left(until="2023-11-14")


def test_one_file_that_is_left_with_nothing_is_no_error(tmp_path: Path) -> None:
    for day, channel in enumerate((1, 2)):
        write_table(tmp_path / f"log/{day}.csv", {"u": [1], "i": [7], "t": [FIRST], "c": [channel]})
    write_table(tmp_path / "items.csv", {"item": [7]})

    def source(channel: int) -> LogSource:
        keys = ImpressionsConfig(file="log", user="u", item="i", time="t", where={"c": [channel]})
        return LogSource(str(tmp_path), keys, ItemsConfig(file="items.csv", item="item"))

    assert impressions(source(1))["user"] == [1]
    assert impressions(source(2))["user"] == [1]
    assert "no row is left after `impressions.where.c: [3]`; 2 rows came in" in error(lambda: impressions(source(3)))
