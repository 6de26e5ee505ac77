"""Errors of format: a sound folder, damaged in one place, and the problem that the audit names."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from damage import change_groups, change_rows, change_table, change_yaml, lanes

from dicm_kit.data.audit import audit, complaints
from dicm_kit.data.dataset import Dataset


def of_train(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    return lambda folder: change_groups(folder, "train", change)


def of_lane(change: Callable[[pa.Table], pa.Table]) -> Callable[[Path], None]:
    return lambda folder: change_table(lanes(folder, "train")[0], change)


def of_file(name: str, change: Callable[[pa.Table], pa.Table]) -> Callable[[Path], None]:
    return lambda folder: change_table(folder / name, change)


def of_rows(name: str, change: Callable[[list[dict[str, Any]]], Any]) -> Callable[[Path], None]:
    return lambda folder: change_rows(folder / name, change)


def of_yaml(change: Callable[[dict[str, Any]], Any], name: str = "dataset.yaml") -> Callable[[Path], None]:
    return lambda folder: change_yaml(folder, change, name)


def with_column(table: pa.Table, name: str, values: Any, kind: pa.DataType) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), name, pa.array(values, kind))


def cast(name: str, kind: pa.DataType) -> Callable[[pa.Table], pa.Table]:
    return lambda table: with_column(table, name, table[name].to_pylist(), kind)


def cut(name: str, keep: int = -100) -> Callable[[Path], Any]:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:keep])


def write(row: dict[str, Any], name: str, value: Any) -> None:
    """Puts a value in the place of the first one of a list, or of a list of lists."""
    row[name][0] = [value] if isinstance(row[name][0], list) else value


LANES = "samples/1970-01-01_1970-01-04/lane-000.parquet and 1 more files: "
DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    # --- samples: types ---
    "missing_column": (of_lane(lambda t: t.drop_columns("weight")), "lane-000.parquet: has no column `weight`"),
    "wrong_type": (of_lane(cast("label", pa.list_(pa.float64()))), "`label` is list<double>. Write it as list<float>"),
    "wrong_user": (of_lane(cast("user", pa.int32())), "`user` is int32. Write it as int64"),
    "cut_lane": (lambda folder: cut(str(lanes(folder, "test")[1]))(folder), "/lane-001.parquet: cannot be read: "),
    # --- samples: values ---
    "null_user": (of_train(lambda row: row.update(user=None)), "{groups} nulls in `user`"),
    "null_in_list": (of_train(lambda row: write(row, "item", None)), "{groups} nulls in `item`"),
    "null_tag": (
        of_train(lambda row: row.update(context_queries=[[None]] * len(row["item"]))),
        "nulls in `context_queries`",
    ),
    "short_list": (
        of_train(lambda row: row.update(time=row["time"][1:])),
        LANES + "{groups} groups whose lists `time` and `item` have different lengths",
    ),
    "short_history": (
        of_train(lambda row: row.update(history_age=[*row["history_age"], 1.0])),
        "{groups} groups whose lists `history_age` and `history_item` have different lengths",
    ),
    "empty_group": (
        of_train(lambda row: row.update({name: [] for name, value in row.items() if _of_impressions(name)})),
        "{groups} groups without an impression",
    ),
    "unknown_item": (
        of_train(lambda row: write(row, "item", 40)),
        "{groups} values of `item` that are no row of items",
    ),
    "negative_item": (
        of_train(lambda row: write(row, "item", -1)),
        "{groups} values of `item` that are no row of items",
    ),
    "unknown_history": (
        of_train(lambda row: row.update(history_item=[99], history_age=[1.0])),
        "{groups} values of `history_item` that are no row of items.parquet",
    ),
    "unknown_code": (
        of_train(lambda row: row.update(user_city=6)),
        "{groups} values of `user_city` that are no row of vocab/city.parquet",
    ),
    "unknown_context_code": (
        of_train(lambda row: write(row, "context_hour", 25)),
        "{groups} values of `context_hour` that are no row of vocab/hour.parquet",
    ),
    "unknown_code_in_list": (
        of_train(lambda row: write(row, "context_queries", 77)),
        "{groups} values of `context_queries` that are no row of vocab/queries.parquet",
    ),
    "label": (of_train(lambda row: write(row, "label", 0.5)), "{groups} labels that are neither 0 nor 1"),
    "weight": (of_train(lambda row: write(row, "weight", -1.0)), "{groups} weights that are below 0 or not finite"),
    "no_weight": (
        of_train(lambda row: write(row, "weight", np.nan)),
        "{groups} weights that are below 0 or not finite",
    ),
    "probability": (
        of_train(lambda row: write(row, "click_probability", 1.5)),
        "{groups} click probabilities that are not between 0 and 1",
    ),
    "age": (
        of_train(lambda row: row.update(history_item=[1], history_age=[np.inf])),
        "{groups} ages that are not finite",
    ),
    "backwards": (
        of_train(lambda row: row.update(time=[row["time"][0] + 1, *row["time"][1:]])),
        "impressions that are earlier than the one before in their group",
    ),
    "milliseconds": (
        of_train(lambda row: row.update(time=[10**13] * len(row["time"]))),
        "times beyond the year 2242 (10000000000000). Write seconds since 1970 in UTC",
    ),
    "long_history": (
        of_train(lambda row: row.update(history_item=[1] * 33, history_age=[1.0] * 33)),
        "{groups} histories longer than history_max_length 32",
    ),
    # --- vocabularies ---
    "no_null_row": (
        of_file("vocab/city.parquet", lambda t: t.slice(1)),
        "vocab/city.parquet: its first row is not that of null",
    ),
    "another_null": (
        of_rows("vocab/city.parquet", lambda rows: rows[2].update(value=None)),
        "vocab/city.parquet: its first row is not that of null (null, 0, 0), or it has another null",
    ),
    "gap": (
        of_rows("vocab/city.parquet", lambda rows: rows[2].update(index=9)),
        "vocab/city.parquet: its indices are not 1, 2, ... without a gap",
    ),
    "value_twice": (
        of_rows("vocab/city.parquet", lambda rows: rows[2].update(value=rows[1]["value"])),
        "vocab/city.parquet: 1 values come more than once (c",
    ),
    "count_below_0": (
        of_rows("vocab/city.parquet", lambda rows: rows[2].update(count=-1)),
        "vocab/city.parquet: 1 counts are below 0",
    ),
    "no_counts": (
        of_file("vocab/city.parquet", lambda t: t.drop_columns("count")),
        "vocab/city.parquet: has no column `count`",
    ),
    "index_type": (of_file("vocab/city.parquet", cast("index", pa.int32())), "vocab/city.parquet: `index` is int32"),
    "num_ids": (
        of_yaml(lambda content: content["columns"]["user"]["city"].update(num_ids=9)),
        "dataset.yaml: `city` says num_ids 9; vocab/city.parquet has 5 indices. Write num_ids: 6",
    ),
    # --- items ---
    "no_keys": (
        of_file("items.parquet", lambda t: t.drop_columns("picture_key")),
        "items.parquet: has no column `picture_key`",
    ),
    "items_lost": (
        of_file("items.parquet", lambda t: t.slice(1)),
        "items.parquet: has 39 rows, dataset.yaml says 40 items",
    ),
    "null_item_column": (
        of_rows("items.parquet", lambda rows: rows[3].update(price=None)),
        "items.parquet: has nulls in price",
    ),
    "null_in_tags": (
        of_rows("items.parquet", lambda rows: rows[3].update(tags=[None])),
        "items.parquet: has nulls in tags",
    ),
    "item_twice": (
        of_rows("items.parquet", lambda rows: rows[3].update(item=2)),
        "items.parquet: 1 items come more than once (2)",
    ),
    "key_below_0": (
        of_rows("items.parquet", lambda rows: rows[3].update(picture_key=-5)),
        "1 values of `picture_key` are below 0",
    ),
    "price": (
        of_rows("items.parquet", lambda rows: rows[3].update(price=np.inf)),
        "1 values of `price` are not finite",
    ),
    "index_of_no_value": (
        of_rows("items.parquet", lambda rows: rows[3].update(brand=99)),
        "items.parquet: 1 indices of `brand` are not in its vocabulary",
    ),
    "index_of_another": (
        of_rows("items.parquet", lambda rows: rows[3].update(item_id=rows[4]["item_id"])),
        "items.parquet: 1 items have the index of another `item` in `item_id`",
    ),
    "picture_of_another": (
        of_rows("items.parquet", lambda rows: rows[0].update(picture=rows[4]["picture"])),
        "items.parquet: 1 items have the index of another `picture_key` in `picture`",
    ),
    # --- dataset.yaml ---
    "impressions": (
        of_yaml(lambda content: content["splits"]["train"].update(impressions=7)),
        "dataset.yaml: split train says impressions 7; the samples have ",
    ),
    "users": (
        of_yaml(lambda content: content["parts"]["1970-01-05"].update(users=1)),
        "dataset.yaml: part 1970-01-05 says users 1; the samples have ",
    ),
    "unseen": (
        of_yaml(lambda content: content["splits"]["test"].update(unseen_items=99)),
        "dataset.yaml: split test says unseen_items 99; the samples have ",
    ),
    "kind": (
        of_yaml(lambda content: content["columns"]["context"]["hour"].update(kind="text")),
        "the context column `hour` is of kind `text`",
    ),
    "no_vocab": (
        of_yaml(lambda content: content["columns"]["context"]["hour"].pop("vocab")),
        "the context column `hour` of kind `id` has no vocabulary",
    ),
    "no_user_id": (
        of_yaml(lambda content: content["columns"]["user"].pop("user_id")),
        "dataset.yaml: the user columns lack user_id",
    ),
    "part_in_no_split": (
        of_yaml(lambda content: content["splits"]["val"].update(parts=[])),
        "dataset.yaml: no split has the parts 1970-01-05",
    ),
    "part_in_two_splits": (
        of_yaml(lambda content: content["splits"]["val"]["parts"].append("1970-01-06")),
        "dataset.yaml: more than one split has the parts 1970-01-06",
    ),
    # --- pictures ---
    "lost_shard": (
        lambda folder: next(folder.glob("images/part-0001-*.tar")).unlink(),
        "images/shards.yaml: shards.yaml lists shards that are not there: part-0001-00000.tar",
    ),
    "no_shards": (lambda folder: (folder / "images/shards.yaml").unlink(), "images/shards.yaml: no such file"),
    "strange_shards": (
        of_yaml(lambda content: content.pop("shards"), "images/shards.yaml"),
        "images/shards.yaml: cannot be read: KeyError 'shards'",
    ),
    "wrong_count": (
        of_yaml(lambda content: content["shards"].update({"part-0000-00000.tar": 99}), "images/shards.yaml"),
        "images/part-0000-00000.tar: holds ",
    ),
    "too_few": (
        of_yaml(lambda content: content.update(num_pictures=77)),
        "images/shards.yaml: counts 20 pictures; dataset.yaml says num_pictures 77",
    ),
    "other_partitions": (
        of_yaml(lambda content: content.update(partitions=1)),
        "images/shards.yaml: lists shards of partition 1; dataset.yaml says partitions 1",
    ),
    "cut_shard": (cut("images/part-0000-00000.tar", 3000), "images/part-0000-00000.tar: "),
    "lost_picture": (
        of_rows("items.parquet", lambda rows: rows[0].update(picture_key=12345, picture=0)),
        "items.parquet: 1 pictures of items are in no shard (key 12345)",
    ),
    "no_reasons": (
        of_file("images/rejected.parquet", lambda t: t.drop_columns("reason")),
        "images/rejected.parquet: has no column `reason`",
    ),
}


GROUPS = 211  # of train
MORE = {
    "kind",
    "no_vocab",
    "no_user_id",
    "part_in_no_split",
    "part_in_two_splits",
    "other_partitions",
    "item_twice",
    "key_below_0",
}
"""They break more than one thing."""


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_named(case: str, copied: Callable[[str], Path]) -> None:
    damage, expected = DAMAGE[case]
    folder = copied("every kind")
    damage(folder)
    found = audit(Dataset.open(folder))
    said = [f"{problem.where}: {problem.what}. {problem.todo}" for problem in found.problems]
    assert [line for line in said if expected.format(groups=GROUPS) in line], said
    assert len(said) == 1 or case in MORE, said
    assert (found.checks, found.examples, found.warnings) == ([], [], []) or "says" in expected, "not looked at"
    assert all(problem.todo for problem in found.problems)
    assert complaints(found).startswith("PROBLEM: ")


@pytest.mark.parametrize(("state", "error"), [('{"pieces": {"a.cs', "JSONDecodeError"), ('{"files": 3}', "TypeError")])
def test_a_broken_state_is_named_beside_all_that_is_looked_at(
    state: str, error: str, copied: Callable[[str], Path]
) -> None:
    folder = copied("every kind")
    (folder / "state/log.json").write_text(state)
    found = audit(Dataset.open(folder))
    (problem,) = found.problems
    assert problem.where == "state/log.json"
    assert problem.what.startswith(f"cannot be read: {error} ")
    assert found.checks


def _of_impressions(name: str) -> bool:
    return name in ("item", "label", "weight", "time", "click_probability") or name.startswith("context_")
