"""Vectors by key, in memory and on disk; pixels by key, cached."""

from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from pictures import MeanColour, write_shards

from dicm_kit.errors import ImageError
from dicm_kit.exchange.owner import partition
from dicm_kit.images.parts import PartWriter
from dicm_kit.images.store import FeatureStore, PixelStore
from dicm_kit.shards import decode


def write_features(folder: Path, keys: np.ndarray, dim: int = 5, partitions: int = 3) -> np.ndarray:
    """Writes a feature folder; row i of what is returned belongs to keys[i]."""
    folder.mkdir(exist_ok=True)
    vectors = np.random.default_rng(0).normal(size=(len(keys), dim)).astype(np.float16)
    part = partition(keys, partitions)
    for p in range(partitions):
        writer = PartWriter(folder, p, keys[part == p], dim)
        writer.write(keys[part == p], vectors[part == p])
        writer.finish()
    meta = {"version": 1, "dim": dim, "count": len(keys), "partitions": partitions}
    (folder / "features.yaml").write_text(yaml.safe_dump(meta))
    return vectors


@pytest.mark.parametrize("mode", ["memory", "mmap"])
def test_vectors_come_in_the_order_of_the_keys(tmp_path: Path, mode: str) -> None:
    keys = np.random.default_rng(1).permutation(np.r_[np.arange(1, 60) * 7, 2**63 - 1, 2**62])
    vectors = write_features(tmp_path, keys)
    store = FeatureStore.open(tmp_path, mode)
    assert (store.dim, store.count) == (5, 61)
    found, known = store.lookup(torch.from_numpy(keys))
    assert known.all()
    assert found.dtype == torch.float16
    assert np.array_equal(found.numpy(), vectors)
    mixed = torch.tensor([3, int(keys[4]), 2**63 - 2, int(keys[0])])
    found, known = store.lookup(mixed)
    assert known.tolist() == [False, True, False, True]
    assert np.array_equal(found[known].numpy(), vectors[[4, 0]])
    assert found.isfinite().all()
    found, known = store.lookup(torch.empty(0, dtype=torch.int64))
    assert (found.shape, known.shape) == ((0, 5), (0,))


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="not \\(wholly\\) extracted"):
        FeatureStore.open(tmp_path)
    write_features(tmp_path, np.arange(1, 30))
    meta = yaml.safe_load((tmp_path / "features.yaml").read_text())
    (tmp_path / "features.yaml").write_text(yaml.safe_dump(meta | {"count": 7}))
    with pytest.raises(ImageError, match="do not belong together"):
        FeatureStore.open(tmp_path)
    (tmp_path / "features.yaml").write_text(yaml.safe_dump(meta | {"version": 7}))
    with pytest.raises(ImageError, match="version 1"):
        FeatureStore.open(tmp_path)
    (tmp_path / "features.yaml").write_text("version: [")
    with pytest.raises(ImageError, match="is garbled"):
        FeatureStore.open(tmp_path)
    (tmp_path / "features.yaml").write_text(yaml.safe_dump(meta))
    path = tmp_path / "part-0001.vectors.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[:-3])
    with pytest.raises(ImageError, match="partition 1 cannot be read"):
        FeatureStore.open(tmp_path, "mmap")
    path.write_bytes((tmp_path / "part-0000.vectors.npy").read_bytes())
    with pytest.raises(ImageError, match="partition 1 is no sorted keys with one float16 vector each"):
        FeatureStore.open(tmp_path)


@pytest.mark.parametrize("cache_pictures", [0, 4, 100])
def test_pixels_are_the_backbones_whatever_the_cache_holds(tmp_path: Path, cache_pictures: int) -> None:
    pictures = write_shards(tmp_path, range(12))
    backbone = MeanColour()
    calls = []

    def transform(picture) -> torch.Tensor:
        calls.append(picture.size)
        return backbone.transform(picture)

    store = PixelStore(tmp_path, transform, cache_bytes=cache_pictures * 8 * 8 * 12, threads=2)
    calls.clear()
    keys = list(pictures)
    rng = np.random.default_rng(0)
    for _ in range(6):
        asked = [keys[i] for i in rng.permutation(12)[:5]]
        pixels_U3HW, found_U = store.lookup(torch.tensor([*asked, 99]))
        assert found_U.tolist() == [True] * 5 + [False]
        for key, pixels in zip(asked, pixels_U3HW, strict=False):
            assert torch.equal(pixels, backbone.transform(decode(pictures[key])))
        assert not pixels_U3HW[-1].any()
    assert pixels_U3HW.is_contiguous(memory_format=torch.channels_last)
    if cache_pictures == 100:
        assert len(calls) <= 12
    if cache_pictures == 0:
        assert len(calls) == 30
    empty, found = store.lookup(torch.empty(0, dtype=torch.int64))
    assert (tuple(empty.shape), tuple(found.shape)) == ((0, 3, 8, 8), (0,))


def test_a_picture_that_cannot_be_decoded_is_not_found_and_not_tried_again(tmp_path: Path) -> None:
    pictures = write_shards(tmp_path, range(3), partitions=1)
    broken = list(pictures)[1]
    path = tmp_path / "part-0000-00000.tar"
    data = path.read_bytes()
    start = data.index(pictures[broken])
    path.write_bytes(data[:start] + bytes(len(pictures[broken])) + data[start + len(pictures[broken]) :])
    store = PixelStore(tmp_path, MeanColour().transform)
    for _ in range(2):
        pixels_U3HW, found_U = store.lookup(torch.tensor(list(pictures)))
        assert found_U.tolist() == [True, False, True]
        assert not pixels_U3HW[1].any()
    assert store.rejected == {broken: "not a JPEG, PNG or WebP file"}


@pytest.mark.parametrize("mode", ["memory", "mmap"])
def test_a_store_of_some_partitions_needs_no_other_files(tmp_path: Path, mode: str) -> None:
    keys = np.arange(1, 60)
    vectors = write_features(tmp_path, keys)
    store = FeatureStore.open(tmp_path, mode, partitions=())
    own = partition(keys, store.num_partitions) == 1
    assert own.any()
    for path in tmp_path.glob("part-*"):
        if not path.name.startswith("part-0001"):
            path.unlink()
    store.serve([1])
    found, known = store.lookup(torch.from_numpy(keys[own]))
    assert known.all()
    assert np.array_equal(found.numpy(), vectors[own])
    assert store.count == 59
    with pytest.raises(ImageError, match="partition 0 cannot be read"):
        store.serve([0, 1])
    with pytest.raises(AssertionError, match="the statistics are those of all pictures"):
        FeatureStore.open(tmp_path, mode, partitions=[1]).statistics()


def test_no_partitions_hold_no_picture(tmp_path: Path) -> None:
    write_features(tmp_path, np.arange(1, 60))
    for mode in ("memory", "mmap"):
        found, known = FeatureStore.open(tmp_path, mode, partitions=()).lookup(torch.empty(0, dtype=torch.int64))
        assert (found.shape, known.shape) == ((0, 5), (0,))


def test_pixels_of_some_partitions(tmp_path: Path) -> None:
    keys = torch.tensor(list(write_shards(tmp_path, range(12), partitions=3)))
    transform = MeanColour().transform
    whole, some = PixelStore(tmp_path, transform), PixelStore(tmp_path, transform, partitions=())
    assert (some.num_partitions, some.identity) == (3, whole.identity)
    own = partition(keys, 3) == 2
    for path in tmp_path.glob("part-*.tar"):
        if not path.name.startswith("part-0002"):
            path.unlink()
    some.serve([2])
    pixels, known = some.lookup(keys)
    assert torch.equal(known, own)
    with pytest.raises(ImageError, match="shards that are not there"):
        some.serve([1, 2])
    assert pixels[own].abs().sum() > 0
