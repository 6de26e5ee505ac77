"""A feature store grows with the pictures: what is known is copied, only the rest is computed."""

import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
import yaml
from little_shop import LittleShop, picture, random_shop
from pictures import MeanColour, write_shards

from dicm_kit.data.dataset import Dataset
from dicm_kit.data.options import SplitOptions
from dicm_kit.data.pictures import fingerprint_of
from dicm_kit.data.prepare import PrepareOptions, prepare
from dicm_kit.errors import ImageError
from dicm_kit.images import known
from dicm_kit.images.backbone import TimmBackbone
from dicm_kit.images.extract import Extracted, extract
from dicm_kit.images.store import FeatureStore
from dicm_kit.shards import list_shards

REQUEST = {"name": "mean_colour", "size": 8}


class Store:
    """A folder of pictures and feature stores; `extract` notes what it says, and how old a store is."""

    def __init__(self, folder: Path):
        self.folder, self.said, self._day = folder, list[str](), 0

    def pictures(self, seeds: range) -> list[int]:
        return list(write_shards(self.folder / "images", seeds))

    def extract(self, name: str, backbone: MeanColour | None = None, **options) -> Extracted:
        given = {"request": REQUEST, "partitions": 4, "progress": False, "batch_size": 3, "precision": "float32"}
        given |= {"pictures_fingerprint": name, "say": self.said.append} | options
        done = extract(self.folder / "images", self.folder / "features", backbone or MeanColour(), **given)
        if (done.folder / "features.yaml").exists():
            self._day += 1
            os.utime(done.folder / "features.yaml", (self._day, self._day))
        return done


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def counts(done: Extracted) -> tuple[int, int, int]:
    return done.computed, done.taken_over, done.rejected


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.npy"))}


def vectors(folder: Path, keys: list[int]) -> torch.Tensor:
    vectors_UC, found_U = FeatureStore.open(folder).lookup(torch.tensor(keys))
    assert found_U.all()
    return vectors_UC


def test_only_new_pictures_are_computed(store: Store) -> None:
    old = store.pictures(range(20))
    first = store.extract("monday")
    assert counts(first) == (20, 0, 0)
    assert str(first) == "Vectors: 20 computed, 0 taken over from earlier ones"
    before = contents(first.folder)
    new = [key for key in store.pictures(range(15, 27)) if key not in old]
    backbone = MeanColour()
    second = store.extract("tuesday", backbone)
    assert counts(second) == (7, 20, 0)
    assert sum(backbone.rows) == 7
    assert second.folder != first.folder
    assert contents(first.folder) == before, "the old store stays"
    assert torch.equal(vectors(second.folder, old), vectors(first.folder, old))
    assert yaml.safe_load((second.folder / "features.yaml").read_text())["count"] == 27
    scratch = Store(store.folder / "scratch")
    scratch.pictures(range(20))
    scratch.pictures(range(15, 27))
    assert contents(scratch.extract("tuesday").folder) == contents(second.folder)
    assert len(vectors(second.folder, new)) == 7
    assert counts(store.extract("tuesday")) == (0, 0, 0)
    assert store.said == []


def test_copied_vectors_are_the_old_ones_to_the_last_bit(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A backbone that says something else the second time shows which vectors are copied; blocks may be small."""
    monkeypatch.setattr(known, "_BLOCK_BYTES", 2 * 3 * 2)
    old = store.pictures(range(20))
    first = store.extract("monday")
    new = [key for key in store.pictures(range(20, 25)) if key not in old]
    other = MeanColour()
    other.scale.data *= 100
    second = store.extract("tuesday", other)
    assert counts(second) == (5, 20, 0)
    assert torch.equal(vectors(second.folder, old), vectors(first.folder, old))
    assert (vectors(second.folder, new) > 10).all()


def test_pictures_that_vanished_are_left_out(store: Store) -> None:
    keys = store.pictures(range(12))
    store.extract("monday")
    few = store.extract("tuesday", keys=np.array([0, *keys[:7], keys[2]]))
    assert counts(few) == (0, 7, 0)
    assert FeatureStore.open(few.folder).lookup(torch.tensor(keys))[1].tolist() == [True] * 7 + [False] * 5
    for shard in list_shards(store.folder / "images"):
        shard.path.unlink()
    (store.folder / "images/shards.yaml").unlink()
    store.pictures(range(10, 14))
    after = store.extract("wednesday")
    assert counts(after) == (2, 2, 0)
    assert FeatureStore.open(after.folder).count == 4


def test_a_picture_that_comes_back_is_found_in_an_older_store(store: Store) -> None:
    keys = np.array(store.pictures(range(9)))
    store.extract("monday")
    assert counts(store.extract("tuesday", keys=keys[3:])) == (0, 6, 0)
    store.pictures(range(9, 11))
    assert counts(store.extract("wednesday")) == (2, 9, 0)


def test_stores_of_other_backbones_are_not_used(store: Store) -> None:
    store.pictures(range(6))
    other = MeanColour()
    other.fingerprint = "other weights"
    store.extract("monday", other)
    assert counts(store.extract("tuesday")) == (6, 0, 0)
    assert store.said == []


def test_a_broken_picture_is_tried_again_and_listed_again(store: Store) -> None:
    keys = store.pictures(range(8))
    shard = list_shards(store.folder / "images")[0]
    data = shard.path.read_bytes()
    shard.path.write_bytes(data[:515] + bytes(20) + data[535:])  # within the first picture
    assert counts(store.extract("monday")) == (7, 0, 1)
    store.pictures(range(8, 10))
    done = store.extract("tuesday")
    assert counts(done) == (2, 7, 1)
    assert str(done) == "Vectors: 2 computed, 7 taken over from earlier ones; pictures that cannot be decoded: 1"
    (broken,) = yaml.safe_load((done.folder / "features.yaml").read_text())["rejected"]
    assert broken in keys


def cut_vectors(folder: Path) -> str:
    path = folder / "part-0001.vectors.npy"
    path.write_bytes(path.read_bytes()[:-3])
    return "partition 1 cannot be read"


def no_keys(folder: Path) -> str:
    (folder / "part-0002.keys.npy").unlink()
    return "partition 2 cannot be read"


def another_partition(folder: Path) -> str:
    for kind in ("keys", "vectors"):
        (folder / f"part-0000.{kind}.npy").write_bytes((folder / f"part-0003.{kind}.npy").read_bytes())
    return "partition 0 holds pictures of another partition"


def none_of_them(folder: Path) -> str:
    for kind, empty in (("keys", np.zeros(0, dtype=np.int64)), ("vectors", np.zeros((0, 3), dtype=np.float16))):
        np.save(folder / f"part-0000.{kind}.npy", empty)
    return "features.yaml says 30"


def unsorted_keys(folder: Path) -> str:
    path = folder / "part-0000.keys.npy"
    np.save(path, np.load(path)[::-1])
    return "partition 0 is no sorted keys"


def other_width(folder: Path) -> str:
    path = folder / "part-0003.vectors.npy"
    np.save(path, np.zeros((len(np.load(path)), 5), dtype=np.float16))
    return "partition 3 has vectors of 5 numbers, not 3"


def garbled(folder: Path) -> str:
    (folder / "features.yaml").write_text("a: [")
    os.utime(folder / "features.yaml", (100, 100))
    return "is garbled"


DAMAGES = [cut_vectors, no_keys, another_partition, none_of_them, unsorted_keys, other_width, garbled]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_store_is_said_and_not_used(store: Store, damage) -> None:
    store.pictures(range(10))
    store.extract("monday")
    store.pictures(range(10, 30))
    damaged = store.extract("tuesday").folder
    reason = damage(damaged)
    store.pictures(range(30, 32))
    done = store.extract("wednesday")
    assert counts(done) == (22, 10, 0), "monday's is good"
    (said,) = store.said
    assert said.startswith(f"No vectors are taken from {damaged}: ")
    assert reason in said
    assert FeatureStore.open(done.folder).count == 32


def test_a_vector_that_is_damaged_is_no_vector(store: Store) -> None:
    store.pictures(range(30))
    damaged = store.extract("monday").folder
    path = damaged / "part-0000.vectors.npy"
    np.save(path, np.full_like(np.load(path), np.nan))
    store.pictures(range(30, 31))
    with pytest.raises(ImageError, match=r"the vector of picture \d+ is damaged") as caught:
        store.extract("tuesday")
    assert str(damaged) in str(caught.value)
    assert not list(store.folder.glob("features/*/*.tmp"))


def test_an_interrupted_growth_goes_on(store: Store) -> None:
    store.pictures(range(20))
    store.extract("monday")
    store.pictures(range(20, 40))

    class Dies(MeanColour):
        def forward(self, pixels_U3HW: torch.Tensor) -> torch.Tensor:
            if len(self.rows) == 5:
                raise KeyboardInterrupt
            return super().forward(pixels_U3HW)

    cut = Dies()
    with pytest.raises(KeyboardInterrupt):
        store.extract("tuesday", cut)
    whole = [len(np.load(path)) for path in store.folder.glob("features/*/part-*.keys.npy")]
    assert len(whole) > 4, "some partitions of the second store were whole"
    in_second = sum(whole) - 20
    backbone = MeanColour()
    done = store.extract("tuesday", backbone)
    assert done.computed == sum(backbone.rows) < 20
    assert done.computed + done.taken_over == 40 - in_second
    scratch = Store(store.folder / "scratch")
    scratch.pictures(range(20))
    scratch.pictures(range(20, 40))
    assert contents(scratch.extract("tuesday").folder) == contents(done.folder)


def test_an_unfinished_store_gives_nothing(store: Store) -> None:
    store.pictures(range(6))
    (store.extract("monday").folder / "features.yaml").unlink()
    store.pictures(range(6, 8))
    assert counts(store.extract("tuesday")) == (8, 0, 0)


def test_ranks_share_growth_too(store: Store) -> None:
    store.pictures(range(20))
    store.extract("monday")
    store.pictures(range(20, 30))
    halves = [store.extract("tuesday", rank=rank, num_ranks=2) for rank in range(2)]
    assert sum(half.computed for half in halves) == 10
    assert sum(half.taken_over for half in halves) == 20
    assert all(half.computed and half.taken_over for half in halves)
    assert FeatureStore.open(halves[0].folder).count == 30


def test_another_batch_changes_a_vector_by_rounding_at_most(store: Store) -> None:
    """Kernels may add in another order for a batch of another size: the last bit of some numbers, in float16."""
    backbone = TimmBackbone("resnet10t", weights="none", image_size=64)
    keys = store.pictures(range(20))
    whole = store.extract("monday", backbone, batch_size=20)
    shutil.copytree(store.folder / "images", store.folder / "apart/images")
    apart = Store(store.folder / "apart").extract("monday", backbone, batch_size=1)
    one, other = vectors(whole.folder, keys).float(), vectors(apart.folder, keys).float()
    assert ((one - other).abs() <= 2**-10 * one.abs() + 1e-5).all()


def test_a_day_is_added_to_a_dataset(tmp_path: Path) -> None:
    """Through prepare: on the second day one picture is new, and one is no item's any more."""
    options = PrepareOptions(lanes=2, partitions=4, split=SplitOptions(test=1, validation=1))
    shop = random_shop()

    def prepared(shop: LittleShop, *ends: int) -> tuple[Dataset, Extracted]:
        dataset = prepare(shop.cut(*ends), options, tmp_path / "out", progress=False)
        done = extract(
            dataset.images_folder,
            dataset.features_folder,
            MeanColour(),
            request=REQUEST,
            partitions=4,
            pictures_fingerprint=fingerprint_of(dataset.items["picture_key"])[1],
            keys=dataset.items["picture_key"].to_numpy(),
            progress=False,
        )
        return dataset, done

    first, done = prepared(shop, 4)
    every = counts(done)[0]
    assert counts(done) == (first.num_pictures, 0, 0)
    shown = shop.tables["items"]["picture"].to_pylist()
    shop.tables["items"] = shop.tables["items"].set_column(
        1, "picture", pa.array(["new" if name == "p4" else name for name in shown])
    )
    shop._pictures.append(("new", picture(250)))
    shop.snapshot = "tuesday"
    second, done = prepared(shop, 4, 6)
    assert counts(done) == (1, every - 1, 0)
    keys = np.unique(second.items["picture_key"].to_numpy())
    assert FeatureStore.open(done.folder).count == every == len(keys[keys != 0])
    assert len(list(first.features_folder.glob("*/features.yaml"))) == 2
