"""Days that are added to a dataset: the same as one that was prepared at once, and earlier days are left alone."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from little_shop import DAY, LittleShop, picture, random_shop

from dicm_kit.data import preparation as preparation_module
from dicm_kit.data import prepare as prepare_module
from dicm_kit.data.collate import ColumnsUsed
from dicm_kit.data.dataset import SPLITS, Dataset
from dicm_kit.data.options import GroupOptions, HistoryOptions, PrepareOptions, SplitOptions
from dicm_kit.data.prepare import prepare
from dicm_kit.data.reader import num_steps, read_batches
from dicm_kit.errors import DataError

OPTIONS = PrepareOptions(lanes=2, partitions=2, min_count=3, history=HistoryOptions(max_length=4))


def made(folder: Path, source: LittleShop, options: PrepareOptions = OPTIONS) -> Dataset:
    return prepare(source, options, folder, progress=False)


def contents(dataset: Dataset) -> dict[str, Counter]:
    """Every group of every split, with raw values instead of codes and rows, and with indices: what a model sees."""
    item = dataset.items["item"].to_pylist()
    raw = {
        info.vocab: pq.read_table(dataset.vocab_file(info.vocab))["value"].to_pylist()
        for side in (dataset.user, dataset.context)
        for info in side.values()
        if info.vocab
    }
    infos = {f"user_{name}": info for name, info in dataset.user.items()}
    infos |= {f"context_{name}": info for name, info in dataset.context.items()}

    def decoded(name, value):
        if isinstance(value, list):
            return tuple(decoded(name, each) for each in value)
        if name in ("item", "history_item"):
            return item[value]
        if name in infos and infos[name].vocab:
            return raw[infos[name].vocab][value], int(dataset.index_of(infos[name].vocab)[value])
        return value

    found = {}
    for split in SPLITS:
        files = [file for lane in range(dataset.lanes) for file in dataset.lane_files(split, lane)]
        groups = [row for file in files for row in pq.read_table(file, partitioning=None).to_pylist()]
        found[split] = Counter(tuple((name, decoded(name, value)) for name, value in row.items()) for row in groups)
    return found


def files(folder: Path) -> dict[str, tuple[int, bytes]]:
    samples = folder / "samples"
    return {
        str(path.relative_to(folder)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in samples.rglob("*.parquet")
    }


@pytest.mark.parametrize("by", ["event", "session", "day"])
@pytest.mark.parametrize("strings", [False, True])
def test_it_is_what_preparing_all_at_once_makes(tmp_path, by, strings):
    shop = random_shop(strings=strings, impressions=1500, days=7)
    options = replace(OPTIONS, group=GroupOptions(by))
    made(tmp_path / "grown", shop.cut(3), options)
    made(tmp_path / "grown", shop.cut(3, 4), options)
    grown = made(tmp_path / "grown", shop.cut(3, 4, 7), options)
    whole = made(tmp_path / "whole", shop.cut(3, 4, 7), options)
    assert contents(grown) == contents(whole)
    assert grown.items.equals(whole.items)
    assert (grown.user, grown.item, grown.context) == (whole.user, whole.item, whole.context)
    assert grown.fingerprint == whole.fingerprint
    for split in SPLITS:
        one, other = (replace(dataset.splits[split], parts=()) for dataset in (grown, whole))
        assert one == other


def test_earlier_days_are_not_done_again(tmp_path):
    shop = random_shop(impressions=1500, days=6)
    made(tmp_path / "out", shop.cut(4, 5))
    before = files(tmp_path / "out")
    more = shop.cut(4, 5, 6)
    dataset = made(tmp_path / "out", more)
    assert more.asked == ["items", "users", "day 5", "pictures"], "no earlier piece is read"
    after = files(tmp_path / "out")
    assert {name: after[name] for name in before} == before, "no file is written again"
    assert list(dataset.parts) == ["1970-01-01_1970-01-03", "1970-01-04", "1970-01-05", "1970-01-06"]
    assert dataset.splits["train"].parts == ("1970-01-01_1970-01-03", "1970-01-04")
    assert dataset.splits["val"].parts == ("1970-01-05",)
    again = shop.cut(4, 5, 6)
    assert made(tmp_path / "out", again) == dataset
    assert again.asked == []


def test_a_grown_folder_keeps_the_code_of_its_first_days(tmp_path):
    shop = random_shop(impressions=600, days=6)
    prepare(shop.cut(5), OPTIONS, tmp_path / "out", progress=False, code="old")
    prepare(shop.cut(5, 6), OPTIONS, tmp_path / "out", progress=False, code="new")
    assert prepare_module.code_of(tmp_path / "out") == "old"


def test_a_user_that_was_new_in_the_test_is_known_when_that_day_is_for_training(tmp_path):
    impressions = {
        "user": [1, 1, 1, 1, 2, 2, 1, 1, 2, 2],
        "item": [10, 11] * 5,
        "time": [0, 0, DAY, DAY, 2 * DAY, 2 * DAY, 3 * DAY, 3 * DAY, 4 * DAY, 4 * DAY],
        "label": [1, 0] * 5,
    }
    shop = LittleShop(impressions, {"item": [10, 11], "picture": [None, None]})
    used = ColumnsUsed(user=("user_id",))
    options = PrepareOptions(lanes=1, partitions=1)
    dataset = made(tmp_path / "out", shop.cut(3), options)
    (batch,) = read_batches(dataset, "test", columns=used, batch_size=2, max_history=4)
    assert batch.user["user_id"].tolist() == [0], "unknown"
    dataset = made(tmp_path / "out", shop.cut(3, 5), options)
    seen = [
        each
        for batch in read_batches(dataset, "train", columns=used, batch_size=2, max_history=4)
        for each in batch.user["user_id"].tolist()
    ]
    assert seen == [1, 1, 2]
    (batch,) = read_batches(dataset, "test", columns=used, batch_size=2, max_history=4)
    assert batch.user["user_id"].tolist() == [2]
    assert dataset.items["item"][batch.history_key_GL.shape[0] - 1].as_py() == 10
    assert batch.mask_GL.sum() == 1, "the click of day 2, which was written before"


@pytest.mark.parametrize("shuffle", [False, True])
def test_the_reader_reads_all_parts_once(tmp_path, shuffle):
    shop = random_shop(impressions=1500, days=7)
    dataset = made(tmp_path / "out", shop.cut(3))
    for ends in ((3, 4), (3, 4, 7)):
        dataset = made(tmp_path / "out", shop.cut(*ends))
    used = ColumnsUsed(
        user=("user_id", "likes"), target=("item_id",), context=("hour", "queries"), history=("item_id",)
    )
    flat = dataset.impressions("train", ["user", "item", "label", "context_hour"])
    batches = list(read_batches(dataset, "train", columns=used, batch_size=64, max_history=4, shuffle=shuffle, seed=3))
    assert len(batches) == num_steps(dataset, "train", 64)
    found = Counter(
        row
        for batch in batches
        for row in zip(
            batch.user_id_N.tolist(),
            batch.item_N.tolist(),
            batch.label_N.tolist(),
            batch.context["hour"].tolist(),
            strict=True,
        )
    )
    assert found == Counter(
        zip(*(flat[name].tolist() for name in ("user", "item", "label", "context_hour")), strict=True)
    )
    assert sum(found.values()) == dataset.splits["train"].impressions


def test_new_items_and_pictures_come_and_old_ones_stay(tmp_path):
    shop = random_shop(impressions=1500, days=6, items=40)
    early = shop.cut(5)
    few = shop.tables["items"].slice(5)  # the first five items come later; the log of the first days has none of them
    first = shop.tables["items"]["item"].to_numpy()[:5]
    log = early.tables["day 0"]
    early.tables["day 0"] = log.filter(pa.array(~np.isin(log["item"].to_numpy(), first)))
    early.tables["items"], early.snapshot = few, "early"
    early.pieces = {"day 0": "early"}
    before = made(tmp_path / "out", early)
    rows = before.items["item"].to_pylist()
    late = shop.cut(5, 6)
    late.tables["day 0"], late.pieces["day 0"] = early.tables["day 0"], "early"
    late.tables["items"] = shop.tables["items"].slice(0, 30)  # and the last ten are gone
    late._pictures = [*shop._pictures, ("new", picture(77))]
    late.tables["day 5"] = late.tables["day 5"].filter(pa.array(late.tables["day 5"]["item"].to_numpy() < 30))
    late.snapshot = "late"
    dataset = made(tmp_path / "out", late)
    items = dataset.items["item"].to_pylist()
    assert items[:35] == rows, "rows stay"
    assert sorted(items[35:]) == first.tolist()
    assert dataset.num_pictures == before.num_pictures + 1
    assert dataset.pictures_fingerprint != before.pictures_fingerprint


def test_another_price_of_an_item_is_taken_over_without_a_new_day(tmp_path):
    shop = random_shop(impressions=600, days=5)
    made(tmp_path / "out", shop)
    before = files(tmp_path / "out")
    dearer = random_shop(impressions=600, days=5)
    items = dearer.tables["items"]
    index = items.column_names.index("price")
    dearer.tables["items"] = items.set_column(index, "price", pa.array([7.0] * len(items)))
    dearer.snapshot = "dearer"
    dataset = made(tmp_path / "out", dearer)
    assert dearer.asked == ["items", "users", "pictures"]
    assert set(dataset.items["price"].to_pylist()) == {7.0}
    assert files(tmp_path / "out") == before


def test_a_piece_that_changed_is_an_error_and_nothing_is_touched(tmp_path):
    shop = random_shop(impressions=900, days=5)
    dataset = made(tmp_path / "out", shop.cut(4, 5))
    changed = shop.cut(4, 5)
    changed.pieces["day 4"] = "other"
    with pytest.raises(DataError, match="the log changed since it was prepared: day 4 has another content now"):
        made(tmp_path / "out", changed)
    assert Dataset.open(tmp_path / "out") == dataset
    assert made(tmp_path / "out", shop.cut(4, 5)) == dataset


def test_rows_of_days_that_are_prepared_cannot_be_added(tmp_path):
    shop = random_shop(impressions=900, days=5)
    dataset = made(tmp_path / "out", shop.cut(4))
    late = shop.cut(4, 5)
    late.tables["day 4"] = pa.concat_tables(
        [
            late.tables["day 4"],
            shop.tables["impressions"].filter(pa.array(shop.tables["impressions"]["time"].to_numpy() // DAY == 2)),
        ]
    )
    with pytest.raises(DataError, match=r"new rows are of 1970-01-03 or later, but 1970-01-04 and the days before it"):
        made(tmp_path / "out", late)
    assert Dataset.open(tmp_path / "out") == dataset, "yesterday's dataset stays usable"


def test_a_wrong_new_day_leaves_the_dataset_as_it_is(tmp_path):
    shop = random_shop(impressions=900, days=5)
    dataset = made(tmp_path / "out", shop.cut(4))
    before = contents(dataset)
    wrong = shop.cut(4, 5)
    table = wrong.tables["day 4"]
    wrong.tables["day 4"] = table.set_column(3, "label", pa.array([3] * len(table)))
    with pytest.raises(DataError, match="impressions, day 4: `label` is neither 0 nor 1"):
        made(tmp_path / "out", wrong)
    assert contents(Dataset.open(tmp_path / "out")) == before
    right = shop.cut(4, 5)
    right.pieces["day 4"] = "mended"
    assert made(tmp_path / "out", right).splits["test"].parts == ("1970-01-05",)


def test_a_new_piece_without_rows_is_noted_and_changes_nothing(tmp_path):
    shop = random_shop(impressions=900, days=5)
    dataset = made(tmp_path / "out", shop.cut(4))
    empty = shop.cut(4, 5)
    empty.tables["day 4"] = empty.tables["day 4"].slice(0, 0)
    empty._stream = lambda name: iter(
        empty.tables[name].to_batches() or [pa.RecordBatch.from_pylist([], empty.tables[name].schema)]
    )
    before = files(tmp_path / "out")
    grown = made(tmp_path / "out", empty)
    assert grown.splits == dataset.splits
    assert files(tmp_path / "out") == before
    assert made(tmp_path / "out", empty).fingerprint == grown.fingerprint != dataset.fingerprint


def test_a_piece_that_is_gone_leaves_its_samples_and_the_fingerprint(tmp_path):
    shop = random_shop(impressions=1500, days=6)
    dataset = made(tmp_path / "out", shop.cut(4, 5))
    archived = shop.cut(4, 5)
    del archived.pieces["day 0"]
    assert made(tmp_path / "out", archived) == dataset
    assert archived.asked == []
    grown = shop.cut(4, 5, 6)
    del grown.pieces["day 0"]
    assert contents(made(tmp_path / "out", grown)) == contents(made(tmp_path / "whole", shop.cut(4, 5, 6)))
    assert grown.asked == ["items", "users", "day 5", "pictures"]
    assert made(tmp_path / "out", shop.cut(4, 5, 6)).fingerprint == made(tmp_path / "out", grown).fingerprint


def test_only_a_split_by_time_can_grow(tmp_path):
    shop = random_shop(impressions=900, days=5)
    options = replace(OPTIONS, split=SplitOptions(by="user_order"))
    made(tmp_path / "out", shop.cut(4), options)
    with pytest.raises(DataError, match=r"grown since it was prepared, by day 4, and with `split\.by: user_order`"):
        made(tmp_path / "out", shop.cut(4, 5), options)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("moved", range(6))
def test_killed_while_files_move_in_it_is_finished_by_the_next_run(tmp_path, monkeypatch, moved):
    shop = random_shop(impressions=900, days=5)
    made(tmp_path / "out", shop.cut(4))
    count, move = 0, prepare_module.move_in

    def cut_off(*args, **kwargs):
        nonlocal count
        if count == moved:
            raise Killed
        count += 1
        move(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(prepare_module, "move_in", cut_off)
        with pytest.raises(Killed):
            made(tmp_path / "out", shop.cut(4, 5))
    with pytest.raises(DataError, match="its preparation was not finished"):
        Dataset.open(tmp_path / "out")
    again = shop.cut(4, 5)
    dataset = made(tmp_path / "out", again)
    assert again.asked == [], "everything had been read"
    assert contents(dataset) == contents(made(tmp_path / "whole", shop.cut(4, 5)))


def test_a_piece_that_comes_while_a_run_is_cut_off_begins_it_anew(tmp_path, monkeypatch):
    shop = random_shop(impressions=900, days=5)
    with monkeypatch.context() as patch:
        patch.setattr(preparation_module, "write_lanes", lambda *_, **__: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            made(tmp_path / "out", shop.cut(4))
    dataset = made(tmp_path / "out", shop.cut(4, 5))
    assert contents(dataset) == contents(made(tmp_path / "whole", shop.cut(4, 5)))
