"""The least time that a step's picture part can take on this machine: its operations and bytes at measured rates."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from dicm_kit.images.embedder import Embedder
from dicm_kit.images.server import ImageServer

_SIDE = {"cpu": 1024, "cuda": 8192}  # of the square matrices that are multiplied
_BYTES = {"cpu": 2**27, "cuda": 2**30}  # copied at once: more than a cache holds
_SECONDS = 0.3  # for each rate


@dataclass(frozen=True)
class Floor:
    """Seconds of a step, on one rank, for V distinct pictures."""

    operations: float
    """Of the embedder, forward and backward: 4 V C H1 for its first layer behind a frozen backbone, 6 for others."""
    bytes: float
    """Gathered: 2 V C behind a frozen backbone, 0 behind a trained one."""
    operations_per_second: float
    bytes_per_second: float

    @property
    def embedder(self) -> float:
        """Seconds of the matrix products."""
        return self.operations / self.operations_per_second

    @property
    def gather(self) -> float:
        """Seconds of copying the vectors out of the store."""
        return self.bytes / self.bytes_per_second


def floor_of(server: ImageServer, pictures: float, device: torch.device, dtype: torch.dtype) -> Floor:
    """Returns the floor for so many distinct pictures; measures the machine, for less than a second.

    `dtype`: what the embedder's products are computed in. With a trained backbone it is the embedder's alone: neither
    decoding nor the backbone is in it.
    """
    trained = server.backbone is not None
    store_device = getattr(server.store, "device", torch.device("cpu"))
    return Floor(
        operations=pictures * embedder_operations(server.embedder, to_input=trained),
        bytes=0.0 if trained else pictures * 2 * server.embedder.in_dim,
        operations_per_second=matrix_rate(device, dtype),
        bytes_per_second=copy_rate(store_device),
    )


def embedder_operations(embedder: Embedder, to_input: bool) -> int:
    """Returns the multiplications and additions of one picture's forward and backward, those of Linear layers.

    Three products a layer: its output, the gradient of its weights, the gradient of its input; the first layer has the
    last one only with `to_input`.
    """
    layers = [layer for layer in embedder if isinstance(layer, nn.Linear)]
    products = [3 if to_input or place else 2 for place in range(len(layers))]
    return sum(
        2 * count * layer.in_features * layer.out_features for count, layer in zip(products, layers, strict=True)
    )


def matrix_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Returns operations per second of a product of large square matrices, the best of several."""
    side = _SIDE[device.type]
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in "ab")
    return 2 * side**3 / _best(lambda: left @ right, device)


def copy_rate(device: torch.device) -> float:
    """Returns bytes per second, each counted once, of copying a large float16 tensor, the best of several."""
    source = torch.ones(_BYTES[device.type] // 2, dtype=torch.float16, device=device)
    target = torch.empty_like(source)
    return _BYTES[device.type] / _best(lambda: target.copy_(source), device)


def wait_for(device: torch.device) -> None:
    """Waits until the device has done what it was asked for; a CPU always has."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _best(work: Callable[[], object], device: torch.device) -> float:
    work()
    wait_for(device)
    took: list[float] = []
    until = time.perf_counter() + _SECONDS
    while time.perf_counter() < until or len(took) < 3:
        start = time.perf_counter()
        work()
        wait_for(device)
        took.append(time.perf_counter() - start)
    return min(took)
