"""Picture shards -> backbone vectors on disk, once: `features/<fingerprint>/part-<p>.{keys,vectors}.npy`."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from dicm_kit.errors import ImageError
from dicm_kit.exchange.owner import partition
from dicm_kit.images.features_file import FEATURES_FILE, features_fingerprint, plain, write_features
from dicm_kit.images.known import KnownVectors
from dicm_kit.images.parts import PartWriter, is_written
from dicm_kit.interfaces import ImageBackbone
from dicm_kit.memory import keep_pages
from dicm_kit.shards import PictureRejected, Shard, decode, list_shards, read_shard, shard_keys

Precision = Literal["auto", "float32", "bfloat16"]


@dataclass
class Extracted:
    """A feature folder, and what a call of `extract` did for it; all 0 where nothing was left to do."""

    folder: Path
    computed: int = 0
    """Pictures that went through the backbone."""
    taken_over: int = 0
    """Vectors copied from earlier feature folders."""
    rejected: int = 0
    """Pictures that could not be decoded."""

    def __str__(self) -> str:
        text = f"Vectors: {self.computed:,} computed, {self.taken_over:,} taken over from earlier ones"
        return f"{text}; pictures that cannot be decoded: {self.rejected:,}" if self.rejected else text


def extract(
    images_folder: Path,
    features_folder: Path,
    backbone: ImageBackbone,
    *,
    request: dict[str, Any],
    partitions: int,
    pictures_fingerprint: str,
    keys: np.ndarray | None = None,
    batch_size: int = 64,
    rank: int = 0,
    num_ranks: int = 1,
    progress: bool = True,
    device: torch.device | str = "cpu",
    precision: Precision = "auto",
    threads: int | None = None,
    say: Callable[[str], None] = print,
) -> Extracted:
    """Returns the folder with the vectors of the pictures `keys` (None: all in the shards), made as far as needed.

    Vectors that whole folders of the same backbone beside it hold are copied; `say` is told of a damaged one, which is
    not used. `pictures_fingerprint` must change with `keys`. A picture that cannot be decoded is listed in
    features.yaml and has no vector.

    New pictures are decoded in `threads` (None: as many as torch uses) while the backbone runs on `device`, where it
    stays. `precision: auto` is bfloat16 where the device is fast with it. `request` is the recipe's backbone section,
    kept for `find_features`, which finds the folder by it.

    `features.yaml` is written last, by the rank that finds every partition there; a folder without it is not whole.
    Rank r makes the partitions p with p % R = r, so with several ranks wait for all of them before opening the folder.
    """
    request = plain(request)  # now, and not after hours of work
    folder = Path(features_folder) / features_fingerprint(backbone, pictures_fingerprint)
    done = Extracted(folder)
    if (folder / FEATURES_FILE).exists():
        return done
    keep_pages()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        known = KnownVectors.find(features_folder, backbone, partitions, say)
        mine = [p for p in range(rank, partitions, num_ranks) if not is_written(folder, p)]
        wanted = None if keys is None else {p: keys[partition(keys, partitions) == p] for p in mine}
        parts = _planned(images_folder, mine, wanted, known)
        forward = _Forward(backbone, torch.device(device), precision)
        with _Bar(sum(len(part.new) for part in parts), progress) as bar:
            _write_parts(done, parts, known, forward, batch_size, threads or torch.get_num_threads(), bar)
        if all(is_written(folder, p) for p in range(partitions)):
            write_features(folder, backbone, request, partitions, pictures_fingerprint)
    except OSError as error:
        todo = "Make room and run again: the partitions that are whole are kept."
        raise ImageError(f"cannot write: {error.strerror or error}", where=str(folder), todo=todo) from error
    return done


def is_fast_in_bfloat16(device: torch.device) -> bool:
    """Says whether bfloat16 is worth it: on CPU where the processor multiplies matrices of it in hardware."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    able = torch.cpu.get_capabilities()
    return any(able.get(name, False) for name in ("avx512_bf16", "amx_bf16"))


class _Forward:
    """Pixels -> vectors in float16 on the CPU, as fast as the device can."""

    def __init__(self, backbone: ImageBackbone, device: torch.device, precision: Precision):
        self.backbone = backbone.eval().to(device).to(memory_format=torch.channels_last)
        self.device = device
        low = precision == "bfloat16" or (precision == "auto" and is_fast_in_bfloat16(device))
        self.cast: AbstractContextManager = torch.autocast(device.type, torch.bfloat16) if low else nullcontext()

    def __call__(self, pixels_U3HW: Float[Tensor, "U 3 H W"]) -> np.ndarray:
        with torch.inference_mode(), self.cast:
            return self.backbone(pixels_U3HW.to(self.device, non_blocking=True)).half().cpu().numpy()


@dataclass(frozen=True)
class _Part:
    """The pictures of a partition: where they are, all that get a vector, and those whose vector nobody knows yet."""

    partition: int
    shards: list[Shard]
    keys: np.ndarray
    new: np.ndarray


def _planned(
    images_folder: Path, mine: list[int], wanted: dict[int, np.ndarray] | None, known: KnownVectors
) -> list[_Part]:
    """Returns the partitions in `mine`. Holds 8 bytes a picture, and as much again for each that is new."""
    shards: dict[int, list[Shard]] = {p: [] for p in mine}
    for shard in list_shards(images_folder):
        if shard.partition in shards:
            shards[shard.partition].append(shard)
    parts = []
    for p, those in shards.items():
        keys = np.array([key for shard in those for key in shard_keys(shard.path)], dtype=np.int64)
        keys = np.unique(keys) if wanted is None else np.intersect1d(keys, wanted[p])
        parts.append(_Part(p, those, keys, keys[~known.which(p, keys)]))
    return parts


@dataclass
class _Job:
    """Some new pictures of one partition; `pixels` and `rejected` come with decoding."""

    part: _Part
    pictures: list[tuple[int, bytes]]
    is_last: bool
    keys: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    pixels: Tensor | None = None
    rejected: dict[int, str] = field(default_factory=dict)


def _write_parts(
    done: Extracted,
    parts: list[_Part],
    known: KnownVectors,
    forward: _Forward,
    batch_size: int,
    threads: int,
    bar: "_Bar",
) -> None:
    """Decodes in threads, ahead of the forward; a partition is put in place when its last picture is done."""
    writer: PartWriter | None = None
    overlap = forward.device.type != "cpu"
    try:
        for job in _decoded(_jobs(parts, batch_size), forward.backbone, threads, overlap):
            if writer is None:
                part = job.part
                writer = PartWriter(done.folder, part.partition, part.keys, forward.backbone.out_dim)
                for keys, vectors in known.blocks(part.partition, np.setdiff1d(part.keys, part.new)):
                    writer.write(keys, vectors)
                    done.taken_over += len(keys)
            if job.pixels is not None:
                writer.write(job.keys, forward(job.pixels))
                done.computed += len(job.keys)
            writer.rejected.update(job.rejected)
            done.rejected += len(job.rejected)
            if job.is_last:
                writer.finish()
                writer = None
            bar.advance(len(job.pictures))
    finally:
        if writer is not None:
            writer.close()


def _jobs(parts: list[_Part], batch_size: int) -> Iterator[_Job]:
    """Yields at least one job for each partition, without a picture where all are known."""
    for part in parts:
        only = set(part.new.tolist())
        pictures = (picture for shard in part.shards for picture in read_shard(shard.path, only))
        batch = list(islice(pictures, batch_size))
        while True:
            following = list(islice(pictures, batch_size))
            yield _Job(part, batch, is_last=not following)
            if not following:
                break
            batch = following


def _decoded(jobs: Iterator[_Job], backbone: ImageBackbone, threads: int, overlap: bool) -> Iterator[_Job]:
    """Yields the jobs in order with their pixels.

    With `overlap` some are decoded while whoever asks works with others, as beside a GPU. Without, threads decode a few
    jobs and then rest: on the cores that the forward runs on, taking turns is faster than taking them from it.
    """
    ahead: deque[Future[_Job]] = deque()
    with ThreadPoolExecutor(threads, "decode") as pool:
        try:
            for job in jobs:
                ahead.append(pool.submit(_decode, job, backbone))
                if overlap and len(ahead) > threads + 1:
                    yield ahead.popleft().result()
                elif not overlap and len(ahead) == 2 * threads:
                    wait(ahead)
                    while ahead:
                        yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)


def _decode(job: _Job, backbone: ImageBackbone) -> _Job:
    pixels: list[np.ndarray] = []
    keys: list[int] = []
    for key, data in job.pictures:
        try:
            image = decode(data)
        except PictureRejected as error:
            job.rejected[key] = error.reason
            continue
        # numpy and not torch here: torch would start a team of threads of its own in each of ours
        pixels.append(backbone.transform(image).permute(1, 2, 0).numpy())
        keys.append(key)
    if pixels:
        job.keys = np.array(keys, dtype=np.int64)
        job.pixels = torch.from_numpy(np.stack(pixels)).permute(0, 3, 1, 2)  # channels last
    return job


class _Bar(AbstractContextManager["_Bar"]):
    """A progress bar with pictures per second, or nothing."""

    def __init__(self, total: int, show: bool):
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("extract"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, disable=not show)
        self._task = self._progress.add_task("extract", total=total, speed="")

    def __enter__(self) -> "_Bar":
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def advance(self, count: int) -> None:
        """Counts pictures that are done."""
        self._progress.advance(self._task, count)
        speed = self._progress.tasks[0].speed
        self._progress.update(self._task, speed=f"{speed:,.0f} pictures/s" if speed else "")
