"""Thumbnails: the right picture, small whatever it shows, and no more read than is needed."""

from base64 import b64decode
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from little_shop import picture
from PIL import Image

from dicm_kit import shards
from dicm_kit.artifacts.report.thumbnails import MOST_BYTES, thumbnail, thumbnails
from dicm_kit.errors import ImageError
from dicm_kit.shards import ShardWriter


def noise(side: int) -> bytes:
    buffer = BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def opened(uri: str) -> Image.Image:
    head, _, data = uri.partition(",")
    assert head == "data:image/jpeg;base64"
    return Image.open(BytesIO(b64decode(data)))


def test_each_key_has_its_picture(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, 4) as writer:
        keys = {shade: writer.add(f"p{shade}", picture(shade)) for shade in range(0, 250, 10)}
    wanted = {keys[20]: 8, keys[200]: 4, 12345: 8, 0: 8}
    found = thumbnails(tmp_path, wanted, 4)
    assert set(found) == {keys[20], keys[200]}
    for shade, side in ((20, 8), (200, 4)):
        image = opened(found[keys[shade]])
        assert image.size == (side, side)
        assert np.asarray(image, np.int64)[0, 0] == pytest.approx((shade, shade // 2, 255 - shade), abs=6)


def test_shards_behind_the_last_wanted_picture_are_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with ShardWriter(tmp_path, 1, max_bytes=3_000) as writer:
        keys = [writer.add(f"p{shade}", noise(4) + bytes([shade])) for shade in range(40)]
    paths = sorted(tmp_path.glob("part-*.tar"))
    assert len(paths) > 3
    opened_paths: list[Path] = []
    members = shards._members
    monkeypatch.setattr(shards, "_members", lambda path: opened_paths.append(path) or members(path))
    assert len(thumbnails(tmp_path, {keys[0]: 8}, 1)) == 1
    assert opened_paths == paths[:1]


def test_a_large_and_noisy_picture_is_small() -> None:
    uri = thumbnail(noise(700), 224)
    assert uri is not None
    assert len(uri) < 1.4 * MOST_BYTES + 40
    assert opened(uri).size == (224, 224)


def test_what_does_not_decode_is_left_out(tmp_path: Path) -> None:
    assert thumbnail(noise(40)[:200], 64) is None
    with ShardWriter(tmp_path, 1) as writer:
        key = writer.add("cut", noise(40)[:200])
    assert thumbnails(tmp_path, {key: 8}, 1) == {}


def test_a_lost_shard_is_an_error(tmp_path: Path) -> None:
    with ShardWriter(tmp_path, 1) as writer:
        key = writer.add("p", picture(3))
    next(tmp_path.glob("part-*.tar")).unlink()
    with pytest.raises(ImageError, match="not there"):
        thumbnails(tmp_path, {key: 8}, 1)
