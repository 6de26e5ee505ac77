"""No impression twice, none lost; global batches do not depend on ranks or workers; a step is all a resume needs."""

from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from little_shop import random_shop

from dicm_kit.data import lanes, windows
from dicm_kit.data.collate import ColumnsUsed
from dicm_kit.data.prepare import PrepareOptions, prepare
from dicm_kit.data.reader import num_steps, read_batches
from dicm_kit.errors import DataError
from dicm_kit.types import Batch

LANES = 4
USED = ColumnsUsed(
    user=("user_id", "likes"), target=("item_id", "tags"), context=("queries",), history=("item_id", "tags")
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """A dataset of several row groups per lane, and several windows per epoch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lanes, "ROW_GROUP", 16)
        folder = tmp_path_factory.mktemp("shop") / "out"
        return prepare(random_shop(impressions=1500, page=5), PrepareOptions(lanes=LANES), folder, progress=False)


@pytest.fixture(autouse=True)
def small_windows(monkeypatch):
    monkeypatch.setattr(windows, "WINDOW_GROUPS", 40)


def read(dataset, split="train", **changes) -> list[Batch]:
    reading = {"columns": USED, "batch_size": 32, "max_history": 8, "shuffle": True} | changes
    return list(read_batches(dataset, split, **reading))


def impressions(batch: Batch) -> Counter:
    """What each impression looks like, its group's history included; L may differ between ranks."""
    queries = batch.context["queries"]
    rows = []
    for index, group in enumerate(batch.group_N.tolist()):
        length = int(batch.mask_GL[group].sum())
        rows.append(
            (
                int(batch.user_id_N[index]),
                int(batch.item_N[index]),
                float(batch.label_N[index]),
                float(batch.weight_N[index]),
                int(batch.user["user_id"][group]),
                tuple(queries.values[queries.offsets[index] : queries.offsets[index + 1]].tolist()),
                tuple(batch.history["item_id"][group, :length].tolist()),
                tuple(batch.age_GL[group, :length].tolist()),
                tuple(batch.history_key_GL[group, :length].tolist()),
            )
        )
    return Counter(rows)


def same(left: Batch, right: Batch) -> bool:
    def flat(value: object) -> list[torch.Tensor]:
        if isinstance(value, torch.Tensor):
            return [value]
        if isinstance(value, dict):
            return [tensor for each in value.values() for tensor in flat(each)]
        return [] if value is None else [value.values, value.offsets]

    fields = left.__dataclass_fields__
    pairs = [(flat(getattr(left, name)), flat(getattr(right, name))) for name in fields]
    return all(torch.equal(a, b) for these, those in pairs for a, b in zip(these, those, strict=True))


def expected(dataset, split) -> Counter:
    """Every impression, as the files hold it."""
    flat = dataset.impressions(split, ["user", "item", "label", "weight"])
    return Counter(zip(*(flat[name].tolist() for name in ("user", "item", "label", "weight")), strict=True))


@settings(max_examples=12, deadline=None)
@given(st.integers(1, LANES), st.sampled_from([4, 12, 32, 100, 4000]), st.integers(0, 3), st.booleans())
def test_an_epoch_has_every_impression_once_and_no_global_batch_depends_on_the_ranks(
    dataset, num_ranks, batch_size, epoch, shuffle
):
    how = {"batch_size": batch_size, "epoch": epoch, "shuffle": shuffle}
    ranks = [read(dataset, rank=rank, num_ranks=num_ranks, **how) for rank in range(num_ranks)]
    steps = num_steps(dataset, "train", batch_size)
    assert [len(batches) for batches in ranks] == [steps] * num_ranks
    alone = [impressions(batch) for batch in read(dataset, **how)]
    together = [sum((impressions(rank[step]) for rank in ranks), Counter()) for step in range(steps)]
    assert together == alone
    short = Counter()
    for batch in alone:
        for row, times in batch.items():
            short[row[:4]] += times
    assert short == expected(dataset, "train")
    assert all(batch.total() <= batch_size for batch in alone)
    assert alone[0].total() == min(batch_size, short.total())


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 40), st.integers(1, 5), st.integers(1, 3), st.integers(0, 2))
def test_from_any_step_on_it_is_the_rest_of_the_whole(dataset, start, every, num_ranks, epoch):
    """`every`: a worker makes every W-th batch."""
    how = {"num_ranks": num_ranks, "rank": num_ranks - 1, "epoch": epoch}
    batches = read(dataset, **how)
    rest = read(dataset, **how, start_step=start, every=every)
    assert len(rest) == len(batches[start::every])
    assert all(same(left, right) for left, right in zip(rest, batches[start::every], strict=True))


def test_epochs_and_seeds_make_other_orders(dataset):
    orders = [[batch.item_N.tolist() for batch in read(dataset, **how)] for how in ({}, {"epoch": 1}, {"seed": 1})]
    assert orders[0] != orders[1] != orders[2] != orders[0]
    assert orders[0] == [batch.item_N.tolist() for batch in read(dataset)]


def test_a_group_larger_than_its_slice_goes_on_in_the_next_batch(dataset):
    batches = read(dataset, batch_size=LANES, shuffle=False)
    assert all(batch.num_impressions == batch.num_groups <= LANES for batch in batches)
    assert sum(batch.num_groups for batch in batches) > dataset.splits["train"].groups


def test_ranks_without_data_get_empty_batches(dataset):
    steps = num_steps(dataset, "val", LANES)
    last = [read(dataset, "val", batch_size=LANES, rank=rank, num_ranks=LANES)[-1] for rank in range(LANES)]
    assert steps > 1
    assert {batch.num_impressions for batch in last} == {0, 1}


def test_more_ranks_than_lanes(dataset):
    with pytest.raises(DataError, match="5 ranks cannot share the dataset's 4 lanes"):
        read(dataset, rank=4, num_ranks=5)


@pytest.mark.parametrize(("batch_size", "offer"), [(30, "28 or 32"), (2, "4 or 8"), (0, "4 or 8")])
def test_a_batch_that_lanes_do_not_divide(dataset, batch_size, offer):
    with pytest.raises(DataError, match=f"is not a multiple of the dataset's 4 lanes\n\n  Take {offer}"):
        read(dataset, batch_size=batch_size)
