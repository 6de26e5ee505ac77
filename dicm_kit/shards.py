"""Picture shards: WebDataset tars of `<key>.jpg`, split by partition. Write, list, read, check, find one picture.

`images/part-<partition>-<number>.tar`, and `images/shards.yaml` with how many pictures each holds, written last.
"""

import hashlib
import os
from collections.abc import Container, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from tarfile import BLOCKSIZE, RECORDSIZE, USTAR_FORMAT, TarInfo
from types import TracebackType
from typing import BinaryIO

import numpy as np
import yaml

from dicm_kit.errors import ImageError, some
from dicm_kit.pixels import MAX_BYTES, PictureRejected, check_picture, decode, extension
from dicm_kit.whole_file import sync_folder, write_whole

__all__ = [
    "PictureIndex",
    "PictureRejected",
    "Shard",
    "ShardWriter",
    "check_picture",
    "check_shards",
    "decode",
    "describe_shards",
    "list_shards",
    "partition_of",
    "picture_key",
    "read_shard",
    "shard_keys",
]

VERSION = 1
COUNTS = "shards.yaml"
_MASK = 2**64 - 1


def picture_key(data: bytes) -> int:
    """Returns the key of a picture: the first 63 bits of the SHA-256 of its bytes, never 0."""
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big") >> 1 or 1


def partition_of(key: int, num_partitions: int) -> int:
    """Returns mix64(key) % P of one key; `exchange.owner.partition` is the same for arrays."""
    mixed = key & _MASK
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB & _MASK
    return (mixed ^ mixed >> 31) % num_partitions


@dataclass(frozen=True)
class Shard:
    """One picture shard and what `shards.yaml` says of it."""

    path: Path
    partition: int
    count: int


class ShardWriter(AbstractContextManager["ShardWriter"]):
    """Writes pictures into shards, each key once, in the order they come.

    A shard appears under its name when it is full, whole and synced; `shards.yaml` when all are done. The same pictures
    in the same order give the same bytes. A folder that holds whole shards is gone on with: their pictures are skipped,
    so an interrupted writer that is given the same stream again ends as if nothing had happened. A finished folder
    takes more pictures in the same way: they go into new shards with the next numbers, and until `close` `shards.yaml`
    lists the old ones alone. Memory: the keys.
    """

    def __init__(self, folder: Path, num_partitions: int, *, max_bytes: int = 256 * 2**20):
        self.folder, self.num_partitions, self.max_bytes = Path(folder), num_partitions, max_bytes
        self.folder.mkdir(parents=True, exist_ok=True)
        for leftover in self.folder.glob("part-*.tar.tmp"):
            leftover.unlink()
        if (self.folder / COUNTS).exists():
            known = _read_counts(self.folder)
            if known["partitions"] != num_partitions:
                raise ImageError(
                    f"holds shards of {known['partitions']} partitions, not {num_partitions}",
                    where=str(self.folder),
                    todo="Delete the folder, or keep the number of partitions.",
                )
            list_shards(self.folder)  # who adds pictures brings only the new ones: a lost shard would stay lost
        self._counts: dict[str, int] = {}
        self._keys: set[int] = set()
        for path in sorted(self.folder.glob("part-*.tar")):
            keys = shard_keys(path)
            self._keys.update(keys)
            self._counts[path.name] = len(keys)
        self._next = [0] * num_partitions
        for name in self._counts:
            partition, number = _numbers(self.folder / name)
            self._next[partition] = max(self._next[partition], number + 1)
        self._open: dict[int, tuple[BinaryIO, int]] = {}  # partition -> file and its number of pictures

    def add(self, name: str, data: bytes) -> int:
        """Writes a picture unless its key is there already; returns its key. `name` is for the error message."""
        kind = extension(data)
        if kind is None or len(data) > MAX_BYTES:
            raise ImageError(f"not a JPEG, PNG or WebP file of at most {MAX_BYTES:,} bytes", where=name)
        key = picture_key(data)
        if key not in self._keys:
            self._keys.add(key)
            self._write(key, kind, data)
        return key

    @property
    def num_pictures(self) -> int:
        """Distinct pictures so far, those found in the folder included."""
        return len(self._keys)

    def close(self) -> None:
        """Puts the last shards in place and writes `shards.yaml`."""
        for partition in sorted(self._open):
            self._finish(partition)
        counts = {"version": VERSION, "partitions": self.num_partitions, "shards": dict(sorted(self._counts.items()))}
        write_whole(self.folder / COUNTS, yaml.safe_dump(counts, sort_keys=False).encode())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
            return
        for file, _ in self._open.values():
            Path(file.name).unlink(missing_ok=True)
            with suppress(OSError):  # what was buffered does not fit on a full disk either; `error` already says so
                file.close()

    def _write(self, key: int, kind: str, data: bytes) -> None:
        partition = partition_of(key, self.num_partitions)
        if partition in self._open and self._open[partition][0].tell() + len(data) > self.max_bytes:
            self._finish(partition)
        if partition not in self._open:
            path = self.folder / f"part-{partition:04d}-{self._next[partition]:05d}.tar.tmp"
            self._next[partition] += 1
            self._open[partition] = path.open("wb"), 0
        file, count = self._open[partition]
        info = TarInfo(f"{key}.{kind}")
        info.size = len(data)
        file.write(info.tobuf(USTAR_FORMAT) + data + bytes(-len(data) % BLOCKSIZE))
        self._open[partition] = file, count + 1

    def _finish(self, partition: int) -> None:
        file, count = self._open[partition]
        file.write(bytes(2 * BLOCKSIZE))
        file.write(bytes(-file.tell() % RECORDSIZE))
        _sync(file)
        file.close()
        del self._open[partition]
        path = Path(file.name).with_suffix("")
        Path(file.name).replace(path)
        sync_folder(self.folder)
        self._counts[path.name] = count


def describe_shards(folder: Path) -> tuple[int, str]:
    """Returns the number of partitions, and a text that is equal for folders of the same shards."""
    counts = _read_counts(Path(folder))
    shards = counts["shards"]
    digest = hashlib.sha256(repr(sorted(shards.items())).encode()).hexdigest()[:16]
    partitions = counts["partitions"]
    return partitions, f"{sum(shards.values())} pictures in {len(shards)} shards of {partitions} partitions, {digest}"


def list_shards(folder: Path, partitions: Container[int] | None = None) -> list[Shard]:
    """Returns the shards of all or some partitions, by partition and number, after a look that none is missing."""
    folder = Path(folder)
    counts = _read_counts(folder)["shards"]
    if partitions is not None:
        counts = {name: count for name, count in counts.items() if _numbers(folder / name)[0] in partitions}
    missing = [name for name in counts if not (folder / name).exists()]
    if missing:
        raise ImageError(f"{COUNTS} lists shards that are not there: {some(missing)}", where=str(folder))
    return [Shard(folder / name, _numbers(folder / name)[0], count) for name, count in sorted(counts.items())]


def shard_keys(path: Path) -> list[int]:
    """Returns the keys of a shard in file order, without reading the pictures."""
    return [key for key, _, _ in _members(path)]


def read_shard(path: Path, only: Container[int] | None = None) -> Iterator[tuple[int, bytes]]:
    """Yields (key, bytes) in file order, where `only` is given of those keys; the others are passed over unread.

    A cut or garbled shard is an ImageError with file and last good key.
    """
    with Path(path).open("rb") as file:
        for key, offset, size in _members(path):
            if only is not None and key not in only:
                continue
            file.seek(offset)
            yield key, file.read(size)


def check_shards(folder: Path) -> int:
    """Returns the number of pictures, after reading all: each under its own key, in its partition, none twice."""
    seen: set[int] = set()
    num_partitions = _read_counts(Path(folder))["partitions"]
    for shard in list_shards(folder):
        count = 0
        for key, data in read_shard(shard.path):
            if key != picture_key(data):
                raise ImageError(f"picture {key} has other bytes than its key says", where=str(shard.path))
            if partition_of(key, num_partitions) != shard.partition:
                raise ImageError(f"picture {key} belongs to another partition", where=str(shard.path))
            if key in seen:
                raise ImageError(f"picture {key} is there twice", where=str(shard.path))
            seen.add(key)
            count += 1
        if count != shard.count:
            raise ImageError(f"holds {count} pictures, {COUNTS} says {shard.count}", where=str(shard.path))
    return len(seen)


class PictureIndex:
    """Finds a picture's bytes by its key. Holds 24 bytes a picture; made by one pass over the shards' headers."""

    def __init__(self, folder: Path, partitions: Container[int] | None = None):
        """Takes which partitions to index; None: all."""
        shards = list_shards(folder, partitions)
        self._paths = [shard.path for shard in shards]
        rows = [
            (key, number, offset, size)
            for number, path in enumerate(self._paths)
            for key, offset, size in _members(path)
        ]
        table = np.array(rows, dtype=np.int64).reshape(-1, 4)
        table = table[np.argsort(table[:, 0], kind="stable")]
        self.keys_S = np.ascontiguousarray(table[:, 0])
        """The keys of all pictures, sorted."""
        self._shard, self._offset, self._size = (
            table[:, 1].astype(np.int32),
            table[:, 2].copy(),
            table[:, 3].astype(np.int32),
        )

    def find(self, keys_U: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Returns (row, found) of each key; `row` means nothing where `found` is False."""
        row_U = np.searchsorted(self.keys_S, keys_U)
        row_U[row_U == len(self.keys_S)] = 0
        found_U = self.keys_S[row_U] == keys_U if len(self.keys_S) else np.zeros(len(keys_U), dtype=bool)
        return row_U, found_U

    def read(self, row: int) -> bytes:
        """Returns the bytes of the picture in this row. Any number of threads and processes may read at once."""
        path = self._paths[self._shard[row]]
        with path.open("rb") as file:
            file.seek(self._offset[row])
            data = file.read(self._size[row])
        if len(data) < self._size[row]:
            raise ImageError(f"cut after the index was made: picture {self.keys_S[row]} is not whole", where=str(path))
        return data


def _members(path: Path) -> Iterator[tuple[int, int, int]]:
    """Yields (key, offset, size) of each picture by walking over the headers; demands the end mark of a whole tar."""
    last: int | None = None
    with Path(path).open("rb", buffering=0) as file:
        total, position = os.fstat(file.fileno()).st_size, 0
        while True:
            file.seek(position)
            header = file.read(BLOCKSIZE)
            if header == bytes(BLOCKSIZE):
                return
            if len(header) < BLOCKSIZE:
                raise _cut(path, last)
            try:
                info = TarInfo.frombuf(header, "ascii", "strict")
            except Exception as error:
                raise _cut(path, last, f"no tar header at byte {position} ({error})") from error
            start = position + BLOCKSIZE
            position = start + info.size + -info.size % BLOCKSIZE
            if info.size < 0 or position > total:
                raise _cut(path, last)
            if not info.isreg():
                continue  # folders, and the extra headers that other writers put before a file
            stem = info.name.rpartition("/")[2].partition(".")[0]
            if not stem.isdecimal() or not 0 < int(stem) < 2**63 or info.size > MAX_BYTES:
                raise _cut(path, last, f"`{info.name}` ({info.size:,} bytes) is no picture named by its key")
            last = int(stem)
            yield last, start, info.size


def _cut(path: Path, last: int | None, what: str = "the shard is cut") -> ImageError:
    good = "there is no good picture before it" if last is None else f"the last good picture is {last}"
    return ImageError(f"{what}; {good}", where=str(path), todo="Delete the shard and shards.yaml and prepare again.")


def _numbers(path: Path) -> tuple[int, int]:
    """Returns (partition, number) of a shard by its file name."""
    parts = path.stem.split("-")
    if len(parts) != 3 or not (parts[1].isdecimal() and parts[2].isdecimal()):
        raise ImageError("a shard is called part-<partition>-<number>.tar", where=str(path))
    return int(parts[1]), int(parts[2])


def _read_counts(folder: Path) -> dict:
    path = folder / COUNTS
    if not path.exists():
        raise ImageError("no such file: the pictures are not (wholly) prepared", where=str(path))
    counts = yaml.safe_load(path.read_text())
    if not isinstance(counts, dict) or counts.get("version") != VERSION:
        raise ImageError(f"not a list of shards of version {VERSION}", where=str(path), todo="Prepare again.")
    return counts


def _sync(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())
