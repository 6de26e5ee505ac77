"""Picture shards -> backbone vectors on disk, once: `features/<fingerprint>/part-<p>.{keys,vectors}.npy`."""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import yaml
from jaxtyping import Float
from torch import Tensor

from dicm_kit.errors import ImageError
from dicm_kit.images.parts import VERSION, PartWriter, is_written, read_rejected
from dicm_kit.interfaces import ImageBackbone
from dicm_kit.memory import keep_pages
from dicm_kit.shards import PictureRejected, Shard, decode, list_shards, read_shard, shard_keys
from dicm_kit.whole_file import write_whole

Precision = Literal["auto", "float32", "bfloat16"]


def extract(
    images_folder: Path,
    features_folder: Path,
    backbone: ImageBackbone,
    *,
    request: dict[str, Any],
    partitions: int,
    pictures_fingerprint: str,
    batch_size: int = 64,
    rank: int = 0,
    num_ranks: int = 1,
    progress: bool = True,
    device: torch.device | str = "cpu",
    precision: Precision = "auto",
    threads: int | None = None,
) -> Path:
    """Returns the folder with the vectors of all pictures, made or gone on with as far as needed.

    Pictures are decoded in `threads` (None: as many as torch uses) while the backbone runs on `device`, where it stays.
    `features.yaml` is written last, by the rank that finds every partition there; a folder without it is not whole.
    Rank r makes the partitions p with p % R = r, so with several ranks wait for all of them before opening the folder.
    `request` is the recipe's backbone section, kept for `find_features`. A picture that cannot be decoded is listed in
    features.yaml and has no vector. `precision: auto` is bfloat16 where the device is fast with it.
    """
    request = _plain(request)  # now, and not after hours of work
    folder = Path(features_folder) / features_fingerprint(backbone, pictures_fingerprint)
    if (folder / "features.yaml").exists():
        return folder
    keep_pages()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        shards: dict[int, list[Shard]] = {
            p: [] for p in range(rank, partitions, num_ranks) if not is_written(folder, p)
        }
        for shard in list_shards(images_folder):
            assert shard.partition < partitions, "the shards and the dataset agree on the number of partitions"
            if shard.partition in shards:
                shards[shard.partition].append(shard)
        forward = _Forward(backbone, torch.device(device), precision)
        with _Bar(sum(shard.count for part in shards.values() for shard in part), progress) as bar:
            _write_parts(folder, shards, forward, batch_size, threads or torch.get_num_threads(), bar)
        if all(is_written(folder, p) for p in range(partitions)):
            _write_features(folder, backbone, request, partitions, pictures_fingerprint)
    except OSError as error:
        todo = "Make room and run again: the partitions that are whole are kept."
        raise ImageError(f"cannot write: {error.strerror or error}", where=str(folder), todo=todo) from error
    return folder


def features_fingerprint(backbone: ImageBackbone, pictures_fingerprint: str) -> str:
    """Returns 16 hex digits that change whenever a vector could: by the backbone, or by the pictures."""
    return sha256(f"{VERSION} {backbone.fingerprint} {pictures_fingerprint}".encode()).hexdigest()[:16]


def find_features(features_folder: Path, request: dict[str, Any], pictures_fingerprint: str) -> Path | None:
    """Returns the whole feature folder of a recipe's backbone section, without building the backbone; None if none.

    A file that the request names (its weights) must still have the size and time of change it had.
    """
    request = _plain(request)
    wanted = {"version": VERSION, "request": request, "pictures": pictures_fingerprint, "files": _files(request)}
    for path in sorted(Path(features_folder).glob("*/features.yaml")):
        found = yaml.safe_load(path.read_text())
        if isinstance(found, dict) and all(found.get(name) == value for name, value in wanted.items()):
            return path.parent
    return None


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


@dataclass
class _Job:
    """Some pictures of one partition; `pixels` and `rejected` come with decoding."""

    partition: int
    pictures: list[tuple[int, bytes]]
    is_last: bool
    keys: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    pixels: Tensor | None = None
    rejected: dict[int, str] = field(default_factory=dict)


def _write_parts(
    folder: Path, shards: dict[int, list[Shard]], forward: _Forward, batch_size: int, threads: int, bar: "_Bar"
) -> None:
    """Decodes in threads, ahead of the forward; a partition is put in place when its last picture is done."""
    writer: PartWriter | None = None
    try:
        for job in _decoded(_jobs(shards, batch_size), forward.backbone, threads, overlap=forward.device.type != "cpu"):
            if writer is None:
                keys = [key for shard in shards[job.partition] for key in shard_keys(shard.path)]
                writer = PartWriter(folder, job.partition, np.array(keys, dtype=np.int64), forward.backbone.out_dim)
            if job.pixels is not None:
                writer.write(job.keys, forward(job.pixels))
            writer.rejected.update(job.rejected)
            if job.is_last:
                writer.finish()
                writer = None
            bar.advance(len(job.pictures))
    finally:
        if writer is not None:
            writer.close()


def _jobs(shards: dict[int, list[Shard]], batch_size: int) -> Iterator[_Job]:
    for partition, part in shards.items():
        pictures = (picture for shard in part for picture in read_shard(shard.path))
        batch = list(islice(pictures, batch_size))
        while batch:
            following = list(islice(pictures, batch_size))
            yield _Job(partition, batch, is_last=not following)
            batch = following
        if not any(shard.count for shard in part):
            yield _Job(partition, [], is_last=True)


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


def _write_features(
    folder: Path, backbone: ImageBackbone, request: dict[str, Any], partitions: int, pictures_fingerprint: str
) -> None:
    rejected: dict[int, str] = {}
    count = 0
    for partition in range(partitions):
        rejected.update(read_rejected(folder, partition))
        count += len(np.load(folder / f"part-{partition:04d}.keys.npy", mmap_mode="r"))
    features = {
        "version": VERSION,
        "fingerprint": folder.name,
        "backbone": backbone.fingerprint,
        "pictures": pictures_fingerprint,
        "partitions": partitions,
        "dim": backbone.out_dim,
        "count": count,
        "request": request,
        "files": _files(request),
        "rejected": rejected,
    }
    write_whole(folder / "features.yaml", yaml.safe_dump(features, sort_keys=False).encode())


def _plain(request: dict[str, Any]) -> dict[str, Any]:
    """Returns the request as it will be read from features.yaml: tuples are lists there."""
    return yaml.safe_load(yaml.safe_dump(request))


def _files(request: dict[str, Any]) -> dict[str, list[int]]:
    """Returns size and time of change of every file that the request names."""
    files = {}
    for value in request.values():
        if isinstance(value, str) and value and Path(value).is_file():
            stat = Path(value).stat()
            files[value] = [stat.st_size, stat.st_mtime_ns]
    return files


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
