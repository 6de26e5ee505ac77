"""One partition of backbone vectors on disk, written and read.

`part-<p>.keys.npy`, sorted int64 [n], and `part-<p>.vectors.npy`, float16 [n, C].
"""

import os
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from dicm_kit.errors import ImageError
from dicm_kit.whole_file import write_whole

VERSION = 1


def keys_path(folder: Path, partition: int) -> Path:
    """Returns the file of a partition's keys; it is put in place last, so it says that the partition is whole."""
    return folder / f"part-{partition:04d}.keys.npy"


def vectors_path(folder: Path, partition: int) -> Path:
    """Returns the file of a partition's vectors."""
    return folder / f"part-{partition:04d}.vectors.npy"


def is_written(folder: Path, partition: int) -> bool:
    """Says whether a partition is whole."""
    return keys_path(folder, partition).exists()


def read_rejected(folder: Path, partition: int) -> dict[int, str]:
    """Returns key -> reason of the partition's pictures that have no vector."""
    path = _rejected_path(folder, partition)
    return yaml.safe_load(path.read_text()) if path.exists() else {}


def read_part(folder: Path, partition: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (keys, vectors) of a partition; the vectors stay on disk until they are used."""
    try:
        keys = np.load(keys_path(folder, partition))
        vectors = np.load(vectors_path(folder, partition), mmap_mode="r")
    except (OSError, ValueError, EOFError) as error:
        todo = "Delete the feature folder and extract again."
        raise ImageError(f"partition {partition} cannot be read: {error}", where=str(folder), todo=todo) from error
    if vectors.dtype != np.float16 or vectors.ndim != 2 or len(keys) != len(vectors) or (np.diff(keys) <= 0).any():
        raise ImageError(f"partition {partition} is no sorted keys with one float16 vector each", where=str(folder))
    return keys, vectors


class PartWriter:
    """Puts a partition's vectors in the order of their keys, whatever order they come in, without holding them."""

    def __init__(self, folder: Path, partition: int, keys: np.ndarray, dim: int):
        self.folder, self.partition, self.dim = folder, partition, dim
        self.keys = np.unique(keys)
        self.rejected: dict[int, str] = {}
        self._aside = vectors_path(folder, partition).with_suffix(f".{os.getpid()}.tmp")
        # written and not mapped: on a full disk a mapping ends the process, a write says so
        self._file = self._aside.open("wb+", buffering=0)
        self._start = _write_header(self._file, len(self.keys), dim)

    def write(self, keys: np.ndarray, vectors: np.ndarray) -> None:
        """Takes the vectors [n, C] float16 of some keys."""
        bad = ~np.isfinite(vectors).all(axis=1)
        if bad.any():
            what = f"the vector of picture {keys[bad][0]} is not finite in float16"
            raise ImageError(what, todo="Check the backbone's weights, and mean and std.")
        for row, vector in zip(np.searchsorted(self.keys, keys), vectors, strict=True):
            os.pwrite(self._file.fileno(), vector.data, self._start + int(row) * 2 * self.dim)

    def finish(self) -> None:
        """Puts the partition in place, the pictures that were rejected left out."""
        if self.rejected:
            self._leave_out_rejected()
            text = yaml.safe_dump(dict(sorted(self.rejected.items())), sort_keys=False)
            write_whole(_rejected_path(self.folder, self.partition), text.encode())
        os.fsync(self._file.fileno())
        self._file.close()
        try:
            self._aside.replace(vectors_path(self.folder, self.partition))
        except FileNotFoundError:
            if not is_written(self.folder, self.partition):
                raise
            return  # another process made the same partition meanwhile, and cleared up
        keys = BytesIO()
        np.save(keys, self.keys)
        write_whole(keys_path(self.folder, self.partition), keys.getvalue())
        for leftover in self.folder.glob(
            f"{self._aside.name.partition('.')[0]}.*.tmp"
        ):  # of processes that were killed
            leftover.unlink(missing_ok=True)

    def close(self) -> None:
        """Lets go of an unfinished partition."""
        self._file.close()
        self._aside.unlink(missing_ok=True)

    def _leave_out_rejected(self) -> None:
        kept = np.flatnonzero(~np.isin(self.keys, list(self.rejected)))
        width = 2 * self.dim
        for row, before in enumerate(kept.tolist()):  # rows only move to the front, so nothing unread is overwritten
            if row != before:
                vector = os.pread(self._file.fileno(), width, self._start + before * width)
                os.pwrite(self._file.fileno(), vector, self._start + row * width)
        self.keys = self.keys[kept]
        self._file.seek(0)
        start = _write_header(self._file, len(kept), self.dim)
        assert start == self._start, "numpy pads its header so that a smaller number fits into the same place"
        self._file.truncate(self._start + len(kept) * width)


def _write_header(file: Any, rows: int, dim: int) -> int:
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.float16)), "fortran_order": False, "shape": (rows, dim)}
    np.lib.format.write_array_header_1_0(file, header)
    return file.tell()


def _rejected_path(folder: Path, partition: int) -> Path:
    return folder / f"part-{partition:04d}.rejected.yaml"
