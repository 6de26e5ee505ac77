"""A source's pictures -> shards and names; new ones are added to a folder that is finished."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from little_shop import picture

from dicm_kit.data.pictures import store_pictures
from dicm_kit.shards import check_shards, list_shards, picture_key


def names_in(file: Path) -> dict[str, int]:
    table = pq.read_table(file)
    return dict(zip(table["name"].to_pylist(), table["key"].to_pylist(), strict=True))


def test_only_new_pictures_are_brought_to_a_finished_folder(tmp_path: Path) -> None:
    """As for a new day: names that are known are not asked for, and the names file holds the new ones alone."""
    everything = [(f"p{shade}", picture(shade)) for shade in range(40)] + [("same as p3", picture(3)), ("bad", b"no")]
    seen: list[int] = []
    images = tmp_path / "images"
    store_pictures(everything[:20], images, tmp_path / "monday.parquet", 2, seen.append)
    known = names_in(tmp_path / "monday.parquet")
    before = {shard.path: shard.path.read_bytes() for shard in list_shards(images)}
    new = [(name, data) for name, data in everything if name not in known]

    def dies():
        yield from new[:12]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store_pictures(dies(), images, tmp_path / "tuesday.parquet", 2, seen.append)
    assert not (tmp_path / "tuesday.parquet").exists()
    assert check_shards(images) == 20
    store_pictures(new, images, tmp_path / "tuesday.parquet", 2, seen.append)
    added = names_in(tmp_path / "tuesday.parquet")
    assert known | added == {name: picture_key(data) if name != "bad" else 0 for name, data in everything}
    assert not known.keys() & added.keys()
    assert added["same as p3"] == known["p3"], "a picture under another name is not stored twice"
    assert check_shards(images) == 40
    assert all(path.read_bytes() == data for path, data in before.items())
    assert sum(seen) >= len(everything)
