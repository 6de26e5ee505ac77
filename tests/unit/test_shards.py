"""Shards: written whole, each picture once, read back, and every kind of damage named."""

import hashlib
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset
import yaml
from pictures import encoded, image, write_shards

from dicm_kit.errors import ImageError
from dicm_kit.shards import (
    PictureIndex,
    ShardWriter,
    check_shards,
    list_shards,
    partition_of,
    picture_key,
    read_shard,
    shard_keys,
)


def bytes_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_a_key_is_the_first_63_bits_of_the_sha256() -> None:
    bits = "".join(f"{byte:08b}" for byte in hashlib.sha256(b"picture").digest())
    assert picture_key(b"picture") == int(bits[:63], 2)
    assert 0 < picture_key(b"") < 2**63


def test_what_is_written_is_read_back_by_partition(tmp_path: Path) -> None:
    pictures = write_shards(tmp_path, range(30))
    found = {}
    for shard in list_shards(tmp_path):
        entries = list(read_shard(shard.path))
        assert shard.count == len(entries)
        assert all(partition_of(key, 4) == shard.partition for key, _ in entries)
        assert shard_keys(shard.path) == [key for key, _ in entries]
        found.update(entries)
    assert found == pictures
    assert check_shards(tmp_path) == 30


# webdataset 1.0.2 leaves the last file of each stream to the collector
@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_webdataset_and_tar_read_them(tmp_path: Path) -> None:
    pictures = write_shards(tmp_path, range(12), partitions=2)
    paths = [shard.path for shard in list_shards(tmp_path)]
    found = {}
    for sample in webdataset.WebDataset([str(path) for path in paths], shardshuffle=False):
        (data,) = [value for name, value in sample.items() if name in ("jpg", "png")]
        found[int(sample["__key__"])] = data
    assert found == pictures
    for path in paths:
        with tarfile.open(path) as archive:
            assert {member.mtime for member in archive} == {0}


def test_shards_that_webdataset_wrote_are_read(tmp_path: Path) -> None:
    data = encoded(image(0))
    with webdataset.TarWriter(str(tmp_path / "part-0000-00000.tar")) as writer:
        writer.write({"__key__": str(picture_key(data)), "jpg": data})
    assert list(read_shard(tmp_path / "part-0000-00000.tar")) == [(picture_key(data), data)]


def test_a_picture_is_written_once(tmp_path: Path) -> None:
    data = encoded(image(1))
    with ShardWriter(tmp_path, 2) as writer:
        assert writer.add("a", data) == writer.add("b", data) == picture_key(data)
        assert writer.num_pictures == 1
    assert sum(shard.count for shard in list_shards(tmp_path)) == 1


def test_the_same_pictures_give_the_same_bytes_and_shards_have_a_largest_size(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_shards(tmp_path / name, range(40), partitions=2, max_bytes=12_000)
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b")
    shards = list_shards(tmp_path / "a")
    assert len(shards) > 4
    assert all(sum(len(data) for _, data in read_shard(shard.path)) <= 12_000 for shard in shards)


def test_an_interrupted_writer_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    write_shards(tmp_path / "whole", range(40), partitions=2, max_bytes=12_000)

    def stream_that_dies() -> None:
        with ShardWriter(tmp_path / "broken", 2, max_bytes=12_000) as writer:
            for seed in range(25):
                writer.add(str(seed), encoded(image(seed), "PNG" if seed % 3 == 0 else "JPEG"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stream_that_dies()
    left = bytes_of(tmp_path / "broken")
    assert left
    assert all(name.endswith(".tar") for name in left)
    with pytest.raises(ImageError, match="not \\(wholly\\) prepared"):
        list_shards(tmp_path / "broken")
    (tmp_path / "broken" / "part-0000-00009.tar.tmp").write_bytes(b"what a killed process leaves")
    write_shards(tmp_path / "broken", range(40), partitions=2, max_bytes=12_000)
    assert bytes_of(tmp_path / "broken") == bytes_of(tmp_path / "whole")


def test_a_new_day_is_added_and_other_partitions_are_refused(tmp_path: Path) -> None:
    write_shards(tmp_path, range(10))
    before = bytes_of(tmp_path)
    pictures = write_shards(tmp_path, range(5, 20))
    assert check_shards(tmp_path) == 20
    after = bytes_of(tmp_path)
    assert all(after[name] == data for name, data in before.items() if name.endswith(".tar"))
    assert len(pictures) == 15
    with pytest.raises(ImageError, match="holds shards of 4 partitions, not 8"):
        ShardWriter(tmp_path, 8)


def test_adding_to_a_finished_folder_that_is_killed_and_repeated(tmp_path: Path) -> None:
    """Old shards and what lists them stay as they are until the end; then both are listed, each key once."""
    size = {"partitions": 2, "max_bytes": 12_000}
    for name in ("whole", "broken"):
        write_shards(tmp_path / name, range(30), **size)
    before = bytes_of(tmp_path / "broken")
    write_shards(tmp_path / "whole", range(25, 70), **size)

    def add(die_at: int) -> None:
        with ShardWriter(tmp_path / "broken", 2, max_bytes=12_000) as writer:
            assert writer.num_pictures >= 30
            for seed in range(25, die_at):
                writer.add(str(seed), encoded(image(seed), "PNG" if seed % 3 == 0 else "JPEG"))
            raise KeyboardInterrupt

    for die_at in (26, 45, 60):  # before the first new picture, and twice in the middle
        with pytest.raises(KeyboardInterrupt):
            add(die_at)
        left = bytes_of(tmp_path / "broken")
        assert {name: left[name] for name in before} == before
        assert check_shards(tmp_path / "broken") == 30, "readers see the pictures of before"
    assert len(left) > len(before)
    write_shards(tmp_path / "broken", range(25, 70), **size)
    after = bytes_of(tmp_path / "broken")
    assert after == bytes_of(tmp_path / "whole")
    assert check_shards(tmp_path / "broken") == 70
    assert {name: after[name] for name in before if name.endswith(".tar")} == {
        name: data for name, data in before.items() if name.endswith(".tar")
    }
    for partition in range(2):
        numbers = [int(name.split("-")[2][:5]) for name in after if name.startswith(f"part-{partition:04d}")]
        old = [name for name in before if name.startswith(f"part-{partition:04d}")]
        assert numbers == list(range(len(numbers)))
        assert len(numbers) > len(old)


def test_a_finished_folder_that_lost_a_shard_takes_no_more(tmp_path: Path) -> None:
    write_shards(tmp_path, range(10))
    lost = list_shards(tmp_path)[1].path
    lost.unlink()
    with pytest.raises(ImageError, match=f"lists shards that are not there: {lost.name}"):
        ShardWriter(tmp_path, 4)


def test_no_picture_is_no_picture(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, 2) as writer, pytest.raises(ImageError, match=r"broken\.jpg"):
        writer.add("broken.jpg", b"no picture")


@pytest.mark.parametrize("where", ["header", "middle", "between", "end mark"])
def test_a_cut_shard_names_the_file_and_the_last_good_key(tmp_path: Path, where: str) -> None:
    write_shards(tmp_path, range(8), partitions=1)
    (shard,) = list_shards(tmp_path)
    with tarfile.open(shard.path) as archive:
        members = archive.getmembers()
    cut, good = {
        "header": (members[3].offset + 100, 3),
        "middle": (members[3].offset_data + 10, 3),
        "between": (members[3].offset, 3),
        "end mark": (members[-1].offset_data + -(-members[-1].size // 512) * 512, 8),
    }[where]
    shard.path.write_bytes(shard.path.read_bytes()[:cut])
    last = members[good - 1].name.partition(".")[0]
    read = []
    with pytest.raises(ImageError, match=f"part-0000-00000.tar: the shard is cut; the last good picture is {last}"):
        read.extend(entry for entry in read_shard(shard.path))
    with pytest.raises(ImageError, match=last):
        check_shards(tmp_path)
    with pytest.raises(ImageError, match=last):
        PictureIndex(tmp_path)


def test_other_damage_is_named(tmp_path: Path) -> None:
    (tmp_path / "part-0000-00000.tar").write_bytes(b"no tar" * 200)
    with pytest.raises(ImageError, match="no tar header at byte 0"):
        list(read_shard(tmp_path / "part-0000-00000.tar"))
    with tarfile.open(tmp_path / "names.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("cat.jpg"))
    with pytest.raises(ImageError, match=r"`cat\.jpg` .* is no picture named by its key"):
        list(read_shard(tmp_path / "names.tar"))


def test_check_shards_finds_what_is_out_of_place(tmp_path: Path) -> None:
    write_shards(tmp_path, range(9), partitions=3)
    shards = list_shards(tmp_path)
    shards[0].path.write_bytes(shards[1].path.read_bytes())
    with pytest.raises(ImageError, match="belongs to another partition"):
        check_shards(tmp_path)
    data = bytearray(shards[1].path.read_bytes())
    data[600] ^= 1
    shards[0].path.unlink()
    with pytest.raises(ImageError, match=r"part-0000-00000\.tar"):
        list_shards(tmp_path)
    shards[0].path.write_bytes(bytes(data))
    with pytest.raises(ImageError, match="other bytes than its key says"):
        check_shards(tmp_path)


def test_another_version_is_refused(tmp_path: Path) -> None:
    write_shards(tmp_path, range(2))
    (tmp_path / "shards.yaml").write_text(yaml.safe_dump({"version": 99}))
    with pytest.raises(ImageError, match="version 1"):
        list_shards(tmp_path)


def test_the_index_finds_any_picture(tmp_path: Path) -> None:
    pictures = write_shards(tmp_path, range(20), max_bytes=12_000)
    index = PictureIndex(tmp_path)
    keys = np.array([*pictures, 5, 2**62], dtype=np.int64)
    row_U, found_U = index.find(keys)
    assert found_U.tolist() == [True] * 20 + [False] * 2
    assert [index.read(row) for row in row_U[:20]] == list(pictures.values())
    with ShardWriter(tmp_path / "none", 2):
        pass
    assert PictureIndex(tmp_path / "none").find(keys)[1].sum() == 0
