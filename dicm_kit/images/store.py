"""Picture key -> backbone vector, or pixels for a backbone that is trained."""

import threading
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dicm_kit.errors import ImageError
from dicm_kit.exchange.owner import partition
from dicm_kit.images.features_file import read_features
from dicm_kit.images.parts import read_part
from dicm_kit.shards import PictureIndex, PictureRejected, decode, describe_shards

if TYPE_CHECKING:
    from PIL.Image import Image


class PictureStore(Protocol):
    """What the image server looks pictures up in."""

    def lookup(self, keys_U: Int[Tensor, " U"]) -> tuple[Tensor, Bool[Tensor, " U"]]:
        """Returns (rows, found) on the keys' device: one row per key, anything finite where `found` is False."""


class PartitionedStore(PictureStore, Protocol):
    """A store that can hold some of the partitions, so that ranks share the pictures out."""

    num_partitions: int
    """P"""
    num_bytes: int | None
    """Of all partitions together, where that is known without opening them."""
    identity: str
    """Says what is stored; equal on ranks whose partitions belong together."""

    def serve(self, partitions: Collection[int]) -> None:
        """Opens these partitions, and lets go of all others; ImageError when one is missing or damaged."""


class FeatureStore:
    """The backbone vectors of a feature folder.

    `memory` holds them all, on any device; `mmap` leaves them on disk and reads the rows that are asked for.
    """

    def __init__(
        self,
        folder: Path,
        mode: Literal["memory", "mmap"],
        device: torch.device | str,
        partitions: Collection[int] | None = None,
    ):
        """Opens all partitions, or the given ones; `serve` changes that."""
        self._folder, self._mode = folder, mode
        self.device = torch.device(device) if mode == "memory" else torch.device("cpu")
        """Where the vectors are looked up."""
        meta = read_features(folder)
        self.num_partitions: int = meta["partitions"]
        """P"""
        self.dim: int = meta["dim"]
        """C"""
        self.count: int = meta["count"]
        """How many pictures have a vector, in all partitions."""
        self.num_bytes: int | None = self.count * (8 + 2 * self.dim)
        """Of keys and vectors, in all partitions."""
        self.identity = f"features {meta.get('fingerprint')}, {self.count} pictures in {self.num_partitions} partitions"
        self.serve(range(self.num_partitions) if partitions is None else partitions)

    @classmethod
    def open(
        cls,
        folder: Path,
        mode: Literal["memory", "mmap"] = "memory",
        device: torch.device | str = "cpu",
        partitions: Collection[int] | None = None,
    ) -> "FeatureStore":
        """Returns the store of a folder that `extract` made; ImageError when it is not whole."""
        return cls(Path(folder), mode, device, partitions)

    def serve(self, partitions: Collection[int]) -> None:
        """Opens these partitions, and lets go of all others; ImageError when one is missing or damaged."""
        self._vectors_SC: Tensor | None = None
        self._parts = {p: read_part(self._folder, p) for p in sorted(partitions)}
        self._held = sum(len(keys) for keys, _ in self._parts.values())
        wrong = any(vectors.shape[1] != self.dim for _, vectors in self._parts.values())
        if wrong or (self._held != self.count and len(self._parts) == self.num_partitions):
            raise ImageError("features.yaml and the partitions do not belong together", where=str(self._folder))
        if self._mode == "memory":
            self._load(self.device)

    def lookup(self, keys_U: Int[Tensor, " U"]) -> tuple[Float[Tensor, "U C"], Bool[Tensor, " U"]]:
        """Returns (vectors, found): float16 [U, C] in the keys' order, some vector where `found` is False."""
        if self._vectors_SC is None:
            vectors_UC, found_U = self._lookup_mapped(keys_U.cpu().numpy())
            return vectors_UC.to(keys_U.device), found_U.to(keys_U.device)
        keys = keys_U.to(self._keys_S.device)
        if not self._held:
            vectors_UC = torch.zeros(len(keys), self.dim, dtype=torch.float16, device=keys_U.device)
            return vectors_UC, torch.zeros_like(keys_U, dtype=torch.bool)
        row_U = torch.searchsorted(self._keys_S, keys).clamp_max_(self._held - 1)
        found_U = self._keys_S[row_U] == keys
        return self._vectors_SC.index_select(0, row_U).to(keys_U.device), found_U.to(keys_U.device)

    def statistics(self, most: int = 65_536) -> tuple[Float[Tensor, " C"], Float[Tensor, " C"]]:
        """Returns (mean, deviation) of each dimension, float32, over at most `most` pictures of all partitions.

        Keys are hashes, so the first rows of every partition are a fair sample, and the same one on every rank.
        """
        assert len(self._parts) == self.num_partitions, "the statistics are those of all pictures, on every rank"
        if self._vectors_SC is not None:
            blocks = [self._vectors_SC[:most].cpu().numpy()]
        else:
            share = -(-most // max(1, len(self._parts)))
            blocks = [np.asarray(vectors[:share]) for _, vectors in self._parts.values()]
        count = sum(len(block) for block in blocks)
        if not count:
            return torch.zeros(self.dim), torch.ones(self.dim)
        mean_C = sum(block.sum(0, dtype=np.float64) for block in blocks) / count
        spread_C = sum(np.square(block.astype(np.float64) - mean_C).sum(0) for block in blocks) / count
        return torch.from_numpy(mean_C).float(), torch.from_numpy(np.sqrt(spread_C)).float()

    def _load(self, device: torch.device) -> None:
        """Copies all vectors into one tensor, sorted by key over all partitions."""
        keys_S = np.concatenate([np.empty(0, np.int64), *(keys for keys, _ in self._parts.values())])
        order = np.argsort(keys_S, kind="stable")
        row_S = np.empty(self._held, dtype=np.int64)
        row_S[order] = np.arange(self._held)
        vectors_SC, start = np.empty((self._held, self.dim), dtype=np.float16), 0
        for keys, vectors in self._parts.values():
            vectors_SC[row_S[start : start + len(keys)]] = vectors
            start += len(keys)
        self._parts = {p: (keys[:0], vectors[:0]) for p, (keys, vectors) in self._parts.items()}
        self._keys_S = torch.from_numpy(keys_S[order]).to(device)
        self._vectors_SC = torch.from_numpy(vectors_SC).to(device)

    def _lookup_mapped(self, keys_U: np.ndarray) -> tuple[Tensor, Tensor]:
        vectors_UC = np.zeros((len(keys_U), self.dim), dtype=np.float16)
        found_U = np.zeros(len(keys_U), dtype=bool)
        part_U = partition(keys_U, self.num_partitions)
        for p in np.unique(part_U):
            assert p in self._parts, "keys of other partitions are asked of other ranks"
            keys, vectors = self._parts[p]
            if not len(keys):
                continue
            here = np.flatnonzero(part_U == p)
            row = np.searchsorted(keys, keys_U[here]).clip(max=len(keys) - 1)
            hit = keys[row] == keys_U[here]
            found_U[here[hit]] = True
            vectors_UC[here[hit]] = vectors[row[hit]]
        return torch.from_numpy(vectors_UC), torch.from_numpy(found_U)


class PixelStore:
    """The pixels of a dataset's pictures, read out of the shards; for backbones that are trained.

    Keeps the pixels of the last pictures it decoded, up to `cache_bytes` (a picture of 224 x 224 takes 600 kB).
    A picture that cannot be decoded counts as not found, and is not tried again; `rejected` says why.
    """

    def __init__(
        self,
        images_folder: Path,
        transform: Callable[["Image"], Tensor],
        *,
        cache_bytes: int = 2**30,
        threads: int | None = None,
        partitions: Collection[int] | None = None,
    ):
        """Opens all partitions, or the given ones; `serve` changes that."""
        from PIL import Image

        self._folder, self._transform, self._cache_bytes = images_folder, transform, cache_bytes
        self._one_at_a_time = threading.Lock()  # a step may look pictures up while the next one's are looked up, too
        self._threads = threads or torch.get_num_threads()
        self.rejected: dict[int, str] = {}
        """Key -> why it could not be decoded."""
        _, self._height, self._width = transform(Image.new("RGB", (8, 8))).shape
        self.num_partitions, self.identity = describe_shards(images_folder)
        self.num_bytes: int | None = None
        self.serve(range(self.num_partitions) if partitions is None else partitions)

    def serve(self, partitions: Collection[int]) -> None:
        """Opens the shards of these partitions, and lets go of all others; ImageError when one is missing or cut."""
        height, width = self._height, self._width
        self._index = PictureIndex(self._folder, partitions)
        num_pictures = len(self._index.keys_S)
        capacity = min(num_pictures, self._cache_bytes // (12 * height * width))
        # Channels last, as convolutions like it. Pages of the cache exist from the first time they are written to.
        self._cache_SHW3 = np.empty((capacity, height, width, 3), dtype=np.float32)
        self._slot_of_row = np.full(num_pictures, -1, dtype=np.int64)
        self._row_of_slot = np.full(capacity, -1, dtype=np.int64)
        self._next_slot = 0
        self._is_broken = np.zeros(num_pictures, dtype=bool)

    def lookup(self, keys_U: Int[Tensor, " U"]) -> tuple[Float[Tensor, "U 3 H W"], Bool[Tensor, " U"]]:
        """Returns (pixels, found): float32 [U, 3, H, W] in the keys' order, black where `found` is False."""
        with self._one_at_a_time:
            return self._look_up(keys_U)

    def _look_up(self, keys_U: Tensor) -> tuple[Tensor, Tensor]:
        keys = keys_U.cpu().numpy()
        row_U, found_U = self._index.find(keys)
        pixels_UHW3 = np.zeros((len(keys), *self._cache_SHW3.shape[1:]), dtype=np.float32)
        slot_U = np.full(len(keys), -1, dtype=np.int64)
        slot_U[found_U] = self._slot_of_row[row_U[found_U]]
        hit_U = slot_U >= 0
        pixels_UHW3[hit_U] = self._cache_SHW3[slot_U[hit_U]]
        missed = np.flatnonzero(found_U & ~hit_U)
        missed = missed[~self._is_broken[row_U[missed]]]
        if len(missed):
            with ThreadPoolExecutor(self._threads, "decode") as pool:
                rows = row_U[missed].tolist()
                list(pool.map(self._decode, rows, (pixels_UHW3[place] for place in missed)))
            self._keep(row_U[missed], pixels_UHW3, missed)
        found_U[found_U] = ~self._is_broken[row_U[found_U]]
        pixels_U3HW = torch.from_numpy(pixels_UHW3).permute(0, 3, 1, 2)
        return pixels_U3HW.to(keys_U.device), torch.from_numpy(found_U).to(keys_U.device)

    def _decode(self, row: int, pixels_HW3: np.ndarray) -> None:
        try:
            image = decode(self._index.read(row))
        except PictureRejected as error:
            self._is_broken[row] = True
            self.rejected[int(self._index.keys_S[row])] = error.reason
            return
        pixels_HW3[:] = self._transform(image).permute(1, 2, 0).numpy()

    def _keep(self, rows: np.ndarray, pixels_UHW3: np.ndarray, places: np.ndarray) -> None:
        """Puts pictures into the cache, round and round: the oldest make room."""
        good = ~self._is_broken[rows]
        capacity = len(self._row_of_slot)
        rows, places = rows[good][:capacity], places[good][:capacity]
        if not len(rows):
            return
        slots = (self._next_slot + np.arange(len(rows))) % capacity
        self._next_slot = (self._next_slot + len(rows)) % capacity
        old = self._row_of_slot[slots]
        self._slot_of_row[old[old >= 0]] = -1
        self._cache_SHW3[slots] = pixels_UHW3[places]
        self._row_of_slot[slots], self._slot_of_row[rows] = rows, slots
