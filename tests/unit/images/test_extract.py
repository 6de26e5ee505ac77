"""Shards -> feature store: exact vectors, whole or not at all, gone on with, and never larger than needed."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from pictures import MeanColour, write_shards

from dicm_kit.errors import ImageError
from dicm_kit.images import extract as extract_module
from dicm_kit.images.extract import extract, is_fast_in_bfloat16
from dicm_kit.images.features_file import features_fingerprint, find_features
from dicm_kit.images.parts import PartWriter
from dicm_kit.images.store import FeatureStore
from dicm_kit.shards import decode, list_shards

REQUEST = {"name": "mean_colour", "size": 8}


def run(folder: Path, backbone: MeanColour, **options) -> Path:
    given = {"request": REQUEST, "partitions": 4, "pictures_fingerprint": "p", "progress": False, "batch_size": 3}
    return extract(
        folder / "images", folder / "features", backbone, **given | {"precision": "float32"} | options
    ).folder


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def expected_vectors(pictures: dict[int, bytes]) -> torch.Tensor:
    backbone = MeanColour()
    return backbone(torch.stack([backbone.transform(decode(data)) for data in pictures.values()])).half()


def test_every_picture_gets_its_backbones_vector(tmp_path: Path) -> None:
    pictures = write_shards(tmp_path / "images", range(20), max_bytes=12_000)
    backbone = MeanColour()
    folder = run(tmp_path, backbone)
    assert folder == tmp_path / "features" / features_fingerprint(backbone, "p")
    assert sum(backbone.rows) == 20
    vectors_UC, found_U = FeatureStore.open(folder).lookup(torch.tensor(list(pictures)))
    assert found_U.all()
    torch.testing.assert_close(vectors_UC, expected_vectors(pictures), rtol=0, atol=1e-3)
    meta = yaml.safe_load((folder / "features.yaml").read_text())
    assert (meta["dim"], meta["count"], meta["request"], meta["rejected"]) == (3, 20, REQUEST, {})
    for partition in range(4):
        keys = np.load(folder / f"part-{partition:04d}.keys.npy")
        vectors = np.load(folder / f"part-{partition:04d}.vectors.npy")
        assert (keys.dtype, vectors.dtype, vectors.shape) == (np.int64, np.float16, (len(keys), 3))
        assert (np.diff(keys) > 0).all()


def test_done_once(tmp_path: Path) -> None:
    write_shards(tmp_path / "images", range(5))
    folder = run(tmp_path, MeanColour())
    again = MeanColour()
    assert run(tmp_path, again) == folder
    assert again.rows == []


def test_an_interrupted_run_goes_on_with_the_partitions_that_are_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_shards(tmp_path / "images", range(24))
    whole = files(run(tmp_path, MeanColour()))
    folder = tmp_path / "features"
    for path in folder.glob("*/*"):
        path.unlink()

    class Dies(MeanColour):
        def forward(self, pixels_U3HW: torch.Tensor) -> torch.Tensor:
            if len(self.rows) == 4:
                raise KeyboardInterrupt
            return super().forward(pixels_U3HW)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Dies())
    (made,) = folder.iterdir()
    done = sorted(path.name for path in made.iterdir())
    assert done
    assert all(name.endswith(".npy") for name in done)
    with pytest.raises(ImageError, match="not \\(wholly\\) extracted"):
        FeatureStore.open(made)
    assert find_features(folder, REQUEST, "p") is None
    (made / "part-0003.vectors.9999.tmp").write_bytes(b"what a killed process leaves")
    second = MeanColour()
    run(tmp_path, second)
    assert 0 < sum(second.rows) < 24
    assert files(made) == whole


def test_ranks_share_the_partitions(tmp_path: Path) -> None:
    pictures = write_shards(tmp_path / "images", range(12))
    first, second = MeanColour(), MeanColour()
    folder = run(tmp_path, first, rank=0, num_ranks=2)
    assert not (folder / "features.yaml").exists()
    run(tmp_path, second, rank=1, num_ranks=2)
    assert FeatureStore.open(folder).lookup(torch.tensor(list(pictures)))[1].all()
    assert sum(first.rows) + sum(second.rows) == 12
    assert all((sum(first.rows), sum(second.rows)))


def test_a_broken_picture_is_listed_and_has_no_vector(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = write_shards(tmp_path / "images", range(16))
    broken = sorted(pictures)[5]
    shard = next(shard for shard in list_shards(tmp_path / "images") if str(broken).encode() in shard.path.read_bytes())
    data = shard.path.read_bytes()
    start = data.index(pictures[broken])
    shard.path.write_bytes(data[: start + 3] + bytes(20) + data[start + 23 :])
    folder = run(tmp_path, MeanColour())
    meta = yaml.safe_load((folder / "features.yaml").read_text())
    assert list(meta["rejected"]) == [broken]
    assert meta["count"] == 15
    keys_U = torch.tensor(list(pictures))
    for mode in ("memory", "mmap"):
        vectors_UC, found_U = FeatureStore.open(folder, mode).lookup(keys_U)
        assert keys_U[~found_U].tolist() == [broken]
        expected = expected_vectors(pictures)
        torch.testing.assert_close(vectors_UC[found_U], expected[found_U], rtol=0, atol=1e-3)


def test_found_again_by_the_request_alone(tmp_path: Path) -> None:
    write_shards(tmp_path / "images", range(3))
    weights = tmp_path / "weights.pth"
    weights.write_bytes(b"1")
    request = REQUEST | {"weights": str(weights)}
    folder = run(tmp_path, MeanColour(), request=request)
    features = tmp_path / "features"
    assert find_features(features, request, "p") == folder
    assert find_features(features, request, "other pictures") is None
    assert find_features(features, request | {"size": 9}, "p") is None
    assert find_features(tmp_path / "absent", request, "p") is None
    (features / "0").mkdir()
    (features / "0/features.yaml").write_text("a: [")
    assert find_features(features, request, "p") == folder
    os.utime(weights, ns=(1, 1))
    assert find_features(features, request, "p") is None


def test_the_fingerprint_depends_on_pictures_and_backbone() -> None:
    other = MeanColour()
    other.fingerprint = "other"
    prints = {features_fingerprint(MeanColour(), "p"), features_fingerprint(MeanColour(), "q")}
    assert len(prints | {features_fingerprint(other, "p")}) == 3


def test_no_pictures_at_all(tmp_path: Path) -> None:
    write_shards(tmp_path / "images", range(0))
    store = FeatureStore.open(run(tmp_path, MeanColour()))
    vectors_UC, found_U = store.lookup(torch.tensor([1, 2]))
    assert vectors_UC.shape == (2, 3)
    assert found_U.tolist() == [False, False]


def test_a_full_disk_says_so_and_leaves_no_half_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_shards(tmp_path / "images", range(3))

    def full(*args: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(ImageError, match="cannot write: No space left on device"):
        run(tmp_path, MeanColour())
    assert not list(tmp_path.glob("features/*/*.tmp"))


def test_a_vector_that_is_not_finite_in_float16_is_an_error(tmp_path: Path) -> None:
    write_shards(tmp_path / "images", range(3))
    backbone = MeanColour()
    backbone.scale.data *= 1e9
    with pytest.raises(ImageError, match="is not finite in float16"):
        run(tmp_path, backbone)


def test_bfloat16_is_near_and_is_chosen_by_the_processor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Linear(MeanColour):
        def forward(self, pixels_U3HW: torch.Tensor) -> torch.Tensor:
            dtypes.append(torch.nn.functional.linear(torch.ones(1, 1), torch.ones(1, 1)).dtype)
            return super().forward(pixels_U3HW)

    write_shards(tmp_path / "images", range(3))
    for able, expected in ((True, torch.bfloat16), (False, torch.float32)):
        dtypes: list[torch.dtype] = []
        monkeypatch.setattr(extract_module, "is_fast_in_bfloat16", lambda device, able=able: able)
        backbone = Linear()
        backbone.fingerprint = str(able)
        run(tmp_path, backbone, precision="auto")
        assert set(dtypes) == {expected}
    assert isinstance(is_fast_in_bfloat16(torch.device("cpu")), bool)


def test_the_store_is_hardly_larger_than_its_vectors(tmp_path: Path) -> None:
    """2 C + 8 bytes a picture, and 128 for each file's header."""
    keys = np.arange(1, 2001, dtype=np.int64)
    writer = PartWriter(tmp_path, 0, keys, 64)
    writer.write(keys, np.zeros((2000, 64), dtype=np.float16))
    writer.finish()
    total = sum(path.stat().st_size for path in tmp_path.iterdir())
    assert total == 2000 * (2 * 64 + 8) + 2 * 128
    assert total <= 1.02 * 2000 * (2 * 64 + 8)


def test_shows_its_progress(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_shards(tmp_path / "images", range(7))
    run(tmp_path, MeanColour(), progress=True)
    assert "7/7" in capsys.readouterr().out


def test_a_request_is_compared_as_it_is_written(tmp_path: Path) -> None:
    write_shards(tmp_path / "images", range(1))
    request = REQUEST | {"mean": (0.5, 0.1), "arguments": {"pad_type": "same"}, "image_size": None}
    folder = run(tmp_path, MeanColour(), request=request)
    assert find_features(tmp_path / "features", request, "p") == folder
    assert find_features(tmp_path / "features", request | {"mean": [0.5, 0.1]}, "p") == folder
