"""Batches against the rows of the lane files, joined in plain Python."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from little_shop import random_shop

from dicm_kit.data.collate import ColumnsUsed, ItemTables, empty_batch, shuffled
from dicm_kit.data.prepare import PrepareOptions, prepare
from dicm_kit.data.reader import num_steps, read_batches
from dicm_kit.errors import DataError
from dicm_kit.types import Bag

USED = ColumnsUsed(
    user=("user_id", "city", "likes"),
    target=("item_id", "brand", "tags", "price", "shop"),
    context=("hour", "queries"),
    history=("item_id", "price", "tags"),
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    options = PrepareOptions(lanes=1, partitions=2)
    return prepare(random_shop(impressions=400), options, tmp_path_factory.mktemp("shop") / "out", progress=False)


@pytest.fixture(scope="module")
def rows(dataset):
    import pyarrow.parquet as pq

    return pq.read_table(dataset.lane_files("train", 0)[0], partitioning=None).to_pylist()


def whole(dataset, **changes):
    reading = {"columns": USED, "batch_size": 100_000, "max_history": 64} | changes
    (batch,) = read_batches(dataset, "train", **reading)
    return batch


def bag(rows: list[list[int]]) -> tuple[list[int], list[int]]:
    offsets = [0]
    for row in rows:
        offsets.append(offsets[-1] + len(row))
    return [value for row in rows for value in row], offsets


def listed(column: Bag) -> tuple[list[int], list[int]]:
    return column.values.tolist(), column.offsets.tolist()


def test_groups_and_impressions(dataset, rows):
    batch = whole(dataset)
    sizes = [len(row["item"]) for row in rows]
    assert max(sizes) > 1
    assert batch.group_N.tolist() == [number for number, size in enumerate(sizes) for _ in range(size)]
    for name, column in (("item", batch.item_N), ("label", batch.label_N), ("weight", batch.weight_N)):
        assert column.tolist() == [value for row in rows for value in row[name]], name
    assert batch.user_id_N.tolist() == [row["user"] for row in rows for _ in row["item"]]
    assert batch.user["city"].tolist() == [row["user_city"] for row in rows]
    assert listed(batch.user["likes"]) == bag([row["user_likes"] for row in rows])
    assert batch.context["hour"].tolist() == [value for row in rows for value in row["context_hour"]]
    assert listed(batch.context["queries"]) == bag([values for row in rows for values in row["context_queries"]])
    assert batch.context["queries"].shape == (batch.num_impressions,)


def test_item_columns_are_joined_to_targets_and_histories(dataset, rows):
    batch, items = whole(dataset), dataset.items.to_pylist()
    longest = max(len(row["history_item"]) for row in rows)
    assert batch.mask_GL.shape == (len(rows), min(32, -(-longest // 8) * 8))
    assert batch.mask_GL.sum(1).tolist() == [len(row["history_item"]) for row in rows]
    empty = dict.fromkeys(items[0], 0) | {"tags": []}
    slots = [
        [items[item] for item in row["history_item"]] + [empty] * (batch.mask_GL.shape[1] - len(row["history_item"]))
        for row in rows
    ]
    targets = [items[item] for row in rows for item in row["item"]]
    for name in ("item_id", "brand", "shop", "price"):
        assert batch.target[name].tolist() == [item[name] for item in targets]
    for name in ("item_id", "price"):
        assert batch.history[name].tolist() == [[item[name] for item in slot] for slot in slots]
    assert listed(batch.target["tags"]) == bag([item["tags"] for item in targets])
    assert listed(batch.history["tags"]) == bag([item["tags"] for slot in slots for item in slot])
    assert batch.history["tags"].shape == tuple(batch.mask_GL.shape)
    assert batch.target_key_N.tolist() == [item["picture_key"] for item in targets]
    assert batch.history_key_GL.tolist() == [[item["picture_key"] for item in slot] for slot in slots]
    ages = [row["history_age"] + [0.0] * (batch.mask_GL.shape[1] - len(row["history_age"])) for row in rows]
    assert batch.age_GL.tolist() == ages


def test_types(dataset):
    batch = whole(dataset)
    whole_numbers = [batch.target["item_id"], batch.history["item_id"], batch.user["city"], batch.context["hour"]]
    whole_numbers += [batch.target_key_N, batch.history_key_GL, batch.user_id_N, batch.item_N, batch.group_N]
    assert {tensor.dtype for tensor in whole_numbers} == {torch.int64}
    floats = [batch.target["price"], batch.history["price"], batch.age_GL, batch.label_N, batch.weight_N]
    assert {tensor.dtype for tensor in floats} == {torch.float32}
    assert all(tensor.is_contiguous() for tensor in whole_numbers + floats)


@pytest.mark.parametrize("longest", [1, 3])
def test_max_history_keeps_the_newest(dataset, longest):
    short, long = whole(dataset, max_history=longest), whole(dataset)
    assert short.mask_GL.shape[1] == longest
    assert torch.equal(short.age_GL, long.age_GL[:, :longest])
    assert torch.equal(short.history["item_id"], long.history["item_id"][:, :longest])
    assert torch.equal(short.mask_GL, long.mask_GL[:, :longest])


def test_pictures_that_are_not_used_have_no_keys(dataset):
    batch = whole(dataset, columns=ColumnsUsed(target_picture=False, history_picture=False))
    assert batch.target_key_N.shape == batch.item_N.shape
    assert batch.history_key_GL.shape == batch.mask_GL.shape
    assert not batch.target_key_N.any()
    assert not batch.history_key_GL.any()
    assert (batch.target, batch.history) == ({}, {})


def test_an_empty_batch_has_all_columns(dataset):
    empty, full = empty_batch(dataset, USED), whole(dataset)
    assert (empty.num_impressions, empty.num_groups) == (0, 0)
    for side in ("user", "target", "context", "history"):
        here, there = getattr(empty, side), getattr(full, side)
        assert set(here) == set(there)
        for name, column in here.items():
            assert type(column) is type(there[name])
            if isinstance(column, Bag):
                assert column.offsets.tolist() == [0]
                assert len(column.shape) == len(there[name].shape)
            else:
                assert column.dtype == there[name].dtype
                assert column.ndim == there[name].ndim


def test_a_column_that_is_not_there(dataset):
    with pytest.raises(DataError, match=r"has no context column `hours`\n\n  Did you mean `hour`\?"):
        next(read_batches(dataset, "train", columns=ColumnsUsed(context=("hours",)), batch_size=8, max_history=4))


def test_item_tables_can_be_read_once(dataset):
    tables = ItemTables.read(dataset, USED)
    assert torch.equal(whole(dataset, tables=tables).target["shop"], whole(dataset).target["shop"])


def test_steps_count_the_longest_lane(dataset):
    assert num_steps(dataset, "train", 7) == -(-dataset.splits["train"].impressions // 7)


# --- the control: shuffled pictures ---


def test_shuffled_keys_are_the_same_keys_on_the_same_rows():
    keys = np.array([7, 0, 3, 9, 0, 3, 5, 8], dtype=np.int64)
    found = {seed: shuffled(keys, seed).tolist() for seed in range(20)}
    for mixed in found.values():
        assert sorted(mixed) == sorted(keys)
        assert [key == 0 for key in mixed] == [key == 0 for key in keys]
    assert len({tuple(mixed) for mixed in found.values()}) > 15
    assert found[4] == shuffled(keys.copy(), 4).tolist()
    assert shuffled(np.arange(1, 9), 0).tolist() == [1, 5, 2, 7, 8, 3, 6, 4], "the same in every version"
    assert shuffled(np.zeros(3, np.int64), 1).tolist() == [0, 0, 0]


def test_few_items_keep_their_picture():
    """An item keeps its picture with the share that its picture has: 1 / n where each has its own."""
    keys = np.repeat(np.arange(1, 501), 2)
    kept = [np.mean(shuffled(keys, seed) == keys) for seed in range(50)]
    assert 0 < np.mean(kept) < 2 * 2 / 1000


def test_shuffled_pictures_are_the_same_in_targets_and_histories(dataset, rows):
    batch = whole(dataset, columns=replace(USED, target=(*USED.target, "picture"), shuffle_pictures=5))
    items = dataset.items.to_pylist()
    own = [item["picture_key"] for item in items]
    mixed = shuffled(np.array(own), 5).tolist()
    assert mixed != own
    assert batch.target_key_N.tolist() == [mixed[item] for row in rows for item in row["item"]]
    width = batch.mask_GL.shape[1]
    assert batch.history_key_GL.tolist() == [
        [mixed[item] for item in row["history_item"]] + [0] * (width - len(row["history_item"])) for row in rows
    ]
    assert batch.target["picture"].tolist() == [items[item]["picture"] for row in rows for item in row["item"]]
    plain = whole(dataset)
    assert torch.equal(batch.target["item_id"], plain.target["item_id"])
    assert not torch.equal(batch.target_key_N, plain.target_key_N)
    for used in ({"target_picture": False}, {"history_picture": False}):  # the same order, whatever is looked at
        alone = whole(dataset, columns=replace(USED, shuffle_pictures=5, **used))
        assert torch.equal(alone.target_key_N, batch.target_key_N) or "target_picture" in used
        assert torch.equal(alone.history_key_GL, batch.history_key_GL) or "history_picture" in used
