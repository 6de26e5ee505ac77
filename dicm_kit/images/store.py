"""Picture key -> backbone vector, or pixels for a backbone that is trained."""

from collections.abc import Callable
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
from dicm_kit.shards import PictureIndex, PictureRejected, decode

if TYPE_CHECKING:
    from PIL.Image import Image


class PictureStore(Protocol):
    """What the image server looks pictures up in."""

    def lookup(self, keys_U: Int[Tensor, " U"]) -> tuple[Tensor, Bool[Tensor, " U"]]:
        """Returns (rows, found) on the keys' device: one row per key, anything finite where `found` is False."""


class FeatureStore:
    """The backbone vectors of a feature folder.

    `memory` holds them all, on any device; `mmap` leaves them on disk and reads the rows that are asked for.
    """

    def __init__(self, folder: Path, mode: Literal["memory", "mmap"], device: torch.device | str):
        meta = read_features(folder)
        self.dim: int = meta["dim"]
        """C"""
        self.count: int = meta["count"]
        """How many pictures have a vector."""
        self._parts = [read_part(folder, p) for p in range(meta["partitions"])]
        wrong = [p for p, (_, vectors) in enumerate(self._parts) if vectors.shape[1] != self.dim]
        if wrong or sum(len(keys) for keys, _ in self._parts) != self.count:
            raise ImageError("features.yaml and the partitions do not belong together", where=str(folder))
        self._vectors_SC: Tensor | None = None
        if mode == "memory":
            self._load(torch.device(device))

    @classmethod
    def open(
        cls, folder: Path, mode: Literal["memory", "mmap"] = "memory", device: torch.device | str = "cpu"
    ) -> "FeatureStore":
        """Returns the store of a folder that `extract` made; ImageError when it is not whole."""
        return cls(Path(folder), mode, device)

    def lookup(self, keys_U: Int[Tensor, " U"]) -> tuple[Float[Tensor, "U C"], Bool[Tensor, " U"]]:
        """Returns (vectors, found): float16 [U, C] in the keys' order, some vector where `found` is False."""
        if self._vectors_SC is None:
            vectors_UC, found_U = self._lookup_mapped(keys_U.cpu().numpy())
            return vectors_UC.to(keys_U.device), found_U.to(keys_U.device)
        keys = keys_U.to(self._keys_S.device)
        if not self.count:
            vectors_UC = torch.zeros(len(keys), self.dim, dtype=torch.float16, device=keys_U.device)
            return vectors_UC, torch.zeros_like(keys_U, dtype=torch.bool)
        row_U = torch.searchsorted(self._keys_S, keys).clamp_max_(self.count - 1)
        found_U = self._keys_S[row_U] == keys
        return self._vectors_SC.index_select(0, row_U).to(keys_U.device), found_U.to(keys_U.device)

    def statistics(self, most: int = 65_536) -> tuple[Float[Tensor, " C"], Float[Tensor, " C"]]:
        """Returns (mean, deviation) of each dimension, float32, over at most `most` pictures.

        Keys are hashes, so the first rows of every partition are a fair sample, and the same one on every rank.
        """
        if self._vectors_SC is not None:
            blocks = [self._vectors_SC[:most].cpu().numpy()]
        else:
            share = -(-most // max(1, len(self._parts)))
            blocks = [np.asarray(vectors[:share]) for _, vectors in self._parts]
        count = sum(len(block) for block in blocks)
        if not count:
            return torch.zeros(self.dim), torch.ones(self.dim)
        mean_C = sum(block.sum(0, dtype=np.float64) for block in blocks) / count
        spread_C = sum(np.square(block.astype(np.float64) - mean_C).sum(0) for block in blocks) / count
        return torch.from_numpy(mean_C).float(), torch.from_numpy(np.sqrt(spread_C)).float()

    def _load(self, device: torch.device) -> None:
        """Copies all vectors into one tensor, sorted by key over all partitions."""
        keys_S = np.concatenate([keys for keys, _ in self._parts])
        order = np.argsort(keys_S, kind="stable")
        row_S = np.empty(self.count, dtype=np.int64)
        row_S[order] = np.arange(self.count)
        vectors_SC, start = np.empty((self.count, self.dim), dtype=np.float16), 0
        for keys, vectors in self._parts:
            vectors_SC[row_S[start : start + len(keys)]] = vectors
            start += len(keys)
        self._parts = []
        self._keys_S = torch.from_numpy(keys_S[order]).to(device)
        self._vectors_SC = torch.from_numpy(vectors_SC).to(device)

    def _lookup_mapped(self, keys_U: np.ndarray) -> tuple[Tensor, Tensor]:
        vectors_UC = np.zeros((len(keys_U), self.dim), dtype=np.float16)
        found_U = np.zeros(len(keys_U), dtype=bool)
        part_U = partition(keys_U, len(self._parts))
        for p in np.unique(part_U):
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
    ):
        from PIL import Image

        self._index, self._transform = PictureIndex(images_folder), transform
        self._threads = threads or torch.get_num_threads()
        self.rejected: dict[int, str] = {}
        """Key -> why it could not be decoded."""
        _, height, width = transform(Image.new("RGB", (8, 8))).shape
        num_pictures = len(self._index.keys_S)
        capacity = min(num_pictures, cache_bytes // (12 * height * width))
        # Channels last, as convolutions like it. Pages of the cache exist from the first time they are written to.
        self._cache_SHW3 = np.empty((capacity, height, width, 3), dtype=np.float32)
        self._slot_of_row = np.full(num_pictures, -1, dtype=np.int64)
        self._row_of_slot = np.full(capacity, -1, dtype=np.int64)
        self._next_slot = 0
        self._is_broken = np.zeros(num_pictures, dtype=bool)

    def lookup(self, keys_U: Int[Tensor, " U"]) -> tuple[Float[Tensor, "U 3 H W"], Bool[Tensor, " U"]]:
        """Returns (pixels, found): float32 [U, 3, H, W] in the keys' order, black where `found` is False."""
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
