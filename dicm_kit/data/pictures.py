"""A source's pictures -> shards by partition, the key of each name, and a list of those that cannot be used."""

import hashlib
from collections.abc import Callable, Container, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np

from dicm_kit.data.steps import parquet_file, publish
from dicm_kit.shards import ShardWriter, check_picture

if TYPE_CHECKING:
    import pyarrow as pa

NOT_YIELDED = "the data source yields no such picture"
"""Why a picture that items name counts as missing, where nothing is wrong with its bytes."""
_AT_ONCE = 256
_THREADS = 2  # decoding leaves Python's lock; more would not wait for the one stream any less


def store_pictures(
    pictures: Iterable[tuple[str, bytes | str]],
    images: Path,
    names: Path,
    partitions: int,
    advance: Callable[[int], None],
) -> None:
    """Writes the shards into `images` and name -> key into `names`; a picture with a reason against it has key 0.

    An interrupted call that is repeated finds its whole shards again (see ShardWriter).
    """
    import pyarrow as pa

    schema = pa.schema([("name", pa.string()), ("key", pa.int64()), ("reason", pa.string())])
    aside = names.with_name(names.name + ".tmp")
    with (
        ThreadPoolExecutor(_THREADS) as pool,
        ShardWriter(images, partitions) as shards,
        parquet_file(aside, schema) as table,
    ):
        for some in _runs(pictures):
            reasons = list(pool.map(_reason, [data for _, data in some]))
            keys = [
                shards.add(name, cast(bytes, data)) if reason is None else 0
                for (name, data), reason in zip(some, reasons, strict=True)
            ]
            rows = {"name": [name for name, _ in some], "key": keys, "reason": reasons}
            table.write_table(pa.table(rows, schema=schema))
            advance(len(some))
    publish(aside, names)


class KnownNames(Container[str]):
    """The names of pictures that are stored: 8 bytes each, since there may be a hundred million."""

    def __init__(self, hashes: np.ndarray):
        self._hashes = np.sort(hashes)

    @classmethod
    def read(cls, file: Path) -> "KnownNames":
        """Returns those of a state; refused pictures are not among them, they may have been mended since."""
        import pyarrow.compute as pc
        import pyarrow.parquet as pq

        if not file.exists():
            return cls(np.zeros(0, np.uint64))
        with pq.ParquetFile(file) as table:
            hashes = [
                hash_of_name(name)
                for batch in table.iter_batches(columns=["name", "key"])
                for name in batch.filter(pc.field("key") != 0)["name"].to_pylist()
            ]
        return cls(np.array(hashes, np.uint64))

    @classmethod
    def of(cls, names: Iterable[str]) -> "KnownNames":
        """Returns these names."""
        return cls(np.fromiter((hash_of_name(name) for name in names), np.uint64))

    def __contains__(self, name: object) -> bool:
        wanted = hash_of_name(str(name))
        place = int(np.searchsorted(self._hashes, np.uint64(wanted)))
        return place < len(self._hashes) and int(self._hashes[place]) == wanted


def hash_of_name(name: str) -> int:
    """Returns 64 bits that stand for a picture's name."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


def fingerprint_of(keys: "pa.ChunkedArray") -> tuple[int, str]:
    """Returns how many distinct pictures there are, and 16 hex digits that change whenever the set does."""
    distinct = np.unique(keys.to_numpy())
    distinct = distinct[distinct != 0]
    return len(distinct), hashlib.sha256(distinct.astype("<i8").tobytes()).hexdigest()[:16]


def _reason(data: bytes | str) -> str | None:
    """Returns why a picture cannot be used: the source's own reason, or what is wrong with the bytes."""
    return data if isinstance(data, str) else check_picture(data)


def _runs(pictures: Iterable[tuple[str, bytes | str]]) -> Iterator[list[tuple[str, bytes | str]]]:
    stream = iter(pictures)
    while some := list(islice(stream, _AT_ONCE)):
        yield some
