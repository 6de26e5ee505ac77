"""Small copies of pictures as data: URIs, read from the shards by key."""

from base64 import b64encode
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

from dicm_kit.shards import PictureRejected, decode, list_shards, partition_of, read_shard

MOST_BYTES = 6_000
"""Of one JPEG: a page of 300 pictures stays below 3 MB, whatever they show."""
_QUALITIES = (80, 60, 40, 20, 5)


def thumbnails(folder: Path, sides: Mapping[int, int], partitions: int) -> dict[int, str]:
    """Returns pictures by key as data: URIs of JPEGs that fit into a square of their side; lost ones are left out.

    One pass: of each partition, shards are read until its pictures are found.

    Raises:
        ImageError: a shard is missing or damaged.
    """
    wanted: dict[int, set[int]] = {}
    for key in sides:
        if key:
            wanted.setdefault(partition_of(key, partitions), set()).add(key)
    found: dict[int, str] = {}
    for shard in list_shards(folder, wanted) if wanted else ():
        missing = wanted[shard.partition]
        if not missing:
            continue
        for key, data in read_shard(shard.path, only=set(missing)):
            missing.discard(key)
            uri = thumbnail(data, sides[key])
            if uri is not None:
                found[key] = uri
            if not missing:
                break
    return found


def thumbnail(data: bytes, side: int) -> str | None:
    """Returns a picture as a small JPEG's data: URI; None for one that does not decode."""
    try:
        image = decode(data)
    except PictureRejected:
        return None
    image.thumbnail((side, side))
    for quality in _QUALITIES:
        buffer = BytesIO()
        image.save(buffer, "JPEG", quality=quality, optimize=True)
        if buffer.tell() <= MOST_BYTES:
            break
    return f"data:image/jpeg;base64,{b64encode(buffer.getvalue()).decode()}"
