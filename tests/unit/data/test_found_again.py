"""Impressions found again by user and item: their rows, their histories, their raw ids."""

from dataclasses import replace

import numpy as np
import pytest
from little_shop import random_shop

from dicm_kit.data.collate import ColumnsUsed, shuffled
from dicm_kit.data.dataset import Dataset
from dicm_kit.data.found_again import Wanted, find_again, keys_shown, raw_users
from dicm_kit.data.prepare import PrepareOptions, prepare
from dicm_kit.data.reader import read_batches

USED = ColumnsUsed(user=("user_id", "city"), target=("item_id",), context=("hour",), history=("item_id",))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    options = PrepareOptions(lanes=2, partitions=2)
    shop = random_shop(impressions=1200, strings=True)
    return prepare(shop, options, tmp_path_factory.mktemp("shop") / "out", progress=False)


def test_each_is_the_row_that_the_reader_gives(dataset: Dataset) -> None:
    batches = list(read_batches(dataset, "test", columns=USED, batch_size=64, max_history=8))
    whole = [
        (int(batch.user_id_N[n]), int(batch.item_N[n]), int(batch.label_N[n]), batch, n)
        for batch in batches
        for n in range(batch.num_impressions)
    ]
    wanted = [Wanted(*whole[place][:3]) for place in (0, 17, len(whole) - 1)]
    found = find_again(dataset, "test", wanted, columns=USED, max_history=8)
    assert found is not None
    assert set(found.wanted) == {0, 1, 2}
    alike = [each for each in whole for one in wanted if each[:3] == (one.user, one.item, one.label)]
    assert found.batch.num_impressions == len(alike)
    items = dataset.items["item"].to_pylist()
    index = np.array([dataset.items["item_id"][row].as_py() for row in range(len(items))])
    for row, number in enumerate(found.wanted):
        one = wanted[number]
        assert int(found.batch.user_id_N[row]) == one.user
        assert int(found.batch.item_N[row]) == one.item
        group = int(found.batch.group_N[row])
        length = int(found.batch.mask_GL[group].sum())
        assert len(found.history_item[row]) == length
        assert found.batch.history["item_id"][group, :length].tolist() == index[found.history_item[row]].tolist()
        same = [each for each in alike if each[:3] == (one.user, one.item, one.label)]
        ages = [batch.age_GL[int(batch.group_N[n])][: int(batch.mask_GL[int(batch.group_N[n])].sum())].tolist()
                for *_, batch, n in same]  # fmt: skip
        assert found.batch.age_GL[group, :length].tolist() in ages


def test_raw_ids_of_users(dataset: Dataset) -> None:
    rows = dataset.impressions("test", ["user", "item", "label"])
    users = np.unique(rows["user"])[:5]
    wanted = []
    for user in users:
        place = int(np.flatnonzero(rows["user"] == user)[0])
        wanted.append(Wanted(int(user), int(rows["item"][place]), int(rows["label"][place])))
    found = find_again(dataset, "test", wanted, columns=USED, max_history=8)
    assert found is not None
    named = raw_users(dataset, found.user_code)
    assert all(name is not None and name.startswith("u") for name in named)
    by_user = {(number, name) for number, name in zip(found.wanted, named, strict=True)}
    assert len(by_user) == len({name for _, name in by_user}) == 5, "one name each"
    assert raw_users(dataset, [0]) == [None], "the code of no value"


def test_what_is_not_there_is_not_found(dataset: Dataset) -> None:
    assert find_again(dataset, "test", [Wanted(1, 2, 0)], columns=USED, max_history=8) is None


def test_keys_as_the_model_sees_them(dataset: Dataset) -> None:
    own = dataset.items["picture_key"].to_numpy()
    assert keys_shown(dataset, USED).tolist() == own.tolist()
    assert keys_shown(dataset, replace(USED, shuffle_pictures=3)).tolist() == shuffled(own, 3).tolist()
