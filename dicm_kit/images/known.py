"""Vectors that earlier feature folders of the same backbone hold: they are copied and not computed again."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from dicm_kit.errors import ImageError
from dicm_kit.exchange.owner import partition
from dicm_kit.images.features_file import FEATURES_FILE, read_features
from dicm_kit.images.parts import read_part
from dicm_kit.interfaces import ImageBackbone

_BLOCK_BYTES = 2**24  # of vectors, at a time in memory


class KnownVectors:
    """What whole feature folders hold, partition by partition; the first folder that has a picture gives its vector."""

    def __init__(self, folders: Sequence[Path]):
        self.folders = list(folders)

    @classmethod
    def find(
        cls, features_folder: Path, backbone: ImageBackbone, partitions: int, say: Callable[[str], None]
    ) -> "KnownVectors":
        """Returns those of the folders that this backbone made, the newest first; a damaged one is said and left out.

        Made by this backbone: of the same fingerprint, so of the same weights, layer and transform.
        """
        found: list[tuple[int, Path]] = []
        for path in Path(features_folder).glob(f"*/{FEATURES_FILE}"):
            folder = path.parent
            try:
                meta = read_features(folder)
                if (meta.get("backbone"), meta.get("partitions")) != (backbone.fingerprint, partitions):
                    continue
                _check(folder, partitions, backbone.out_dim, meta.get("count"))
                found.append((path.stat().st_mtime_ns, folder))
            except (ImageError, OSError) as error:
                what = error.what if isinstance(error, ImageError) else error
                say(f"No vectors are taken from {folder}: {what}.")
        return cls([folder for _, folder in sorted(found, reverse=True)])

    def which(self, p: int, keys: np.ndarray) -> np.ndarray:
        """Returns for each key of partition p whether some folder holds its vector."""
        known = np.zeros(len(keys), dtype=bool)
        for folder in self.folders:
            known |= np.isin(keys, read_part(folder, p)[0])
        return known

    def blocks(self, p: int, keys: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yields (keys, vectors) of those keys of partition p that are known, each once, some MiB at a time."""
        for folder in self.folders:
            if not len(keys):
                return
            there, vectors = read_part(folder, p)
            rows = np.flatnonzero(np.isin(there, keys))
            size = max(1, _BLOCK_BYTES // (2 * vectors.shape[1]))
            for start in range(0, len(rows), size):
                block = rows[start : start + size]
                yield there[block], _finite(folder, there[block], vectors[block])
            keys = np.setdiff1d(keys, there[rows])


def _check(folder: Path, partitions: int, dim: int, count: object) -> None:
    """Raises ImageError when a partition cannot be read or does not belong here."""
    total = 0
    for p in range(partitions):
        keys, vectors = read_part(folder, p)
        if vectors.shape[1] != dim:
            raise ImageError(f"partition {p} has vectors of {vectors.shape[1]} numbers, not {dim}")
        if (partition(keys, partitions) != p).any():
            raise ImageError(f"partition {p} holds pictures of another partition")
        total += len(keys)
    if total != count:
        raise ImageError(f"its partitions hold {total} vectors, {FEATURES_FILE} says {count}")


def _finite(folder: Path, keys: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    bad = ~np.isfinite(vectors).all(axis=1)
    if bad.any():  # `extract` writes none, so the file has changed since
        todo = "Delete this feature folder and extract again."
        raise ImageError(f"the vector of picture {keys[bad][0]} is damaged", where=str(folder), todo=todo)
    return vectors
