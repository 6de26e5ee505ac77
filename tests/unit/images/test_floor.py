"""The floor of the picture part: operations counted by hand, rates of this machine."""

import pytest
import torch
from torch import nn
from toy import ToyStore

from dicm_kit.images.embedder import Embedder
from dicm_kit.images.floor import copy_rate, embedder_operations, floor_of, matrix_rate
from dicm_kit.images.server import ImageServer

CPU = torch.device("cpu")


def test_operations_of_the_papers_embedder() -> None:
    embedder = Embedder(4096, (256, 64), 12)
    others = 256 * 64 + 64 * 12
    assert embedder_operations(embedder, to_input=False) == 4 * 4096 * 256 + 6 * others
    assert embedder_operations(embedder, to_input=True) == 6 * 4096 * 256 + 6 * others
    # neither what stands before the layers nor what stands between them is a product
    assert embedder_operations(Embedder(10, (5,), 2, dropout=0.5, standardize=True), to_input=False) == 200 + 60


def test_operations_are_those_that_torch_counts() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    embedder, wide = Embedder(40, (20, 10), 3), torch.randn(7, 40)
    for to_input in (False, True):
        counter = FlopCounterMode(display=False)
        with counter:
            embedder(wide.requires_grad_(to_input)).sum().backward()
        assert counter.get_total_flops() == 7 * embedder_operations(embedder, to_input)


def test_floor_of_a_frozen_and_of_a_trained_backbone() -> None:
    embedder = Embedder(8, (7,), 6)
    frozen = floor_of(ImageServer(ToyStore(), embedder), 3, CPU, torch.float32)
    assert frozen.operations == 3 * (4 * 8 * 7 + 6 * 7 * 6)
    assert frozen.bytes == 3 * 2 * 8
    assert frozen.embedder == frozen.operations / frozen.operations_per_second
    assert frozen.gather == frozen.bytes / frozen.bytes_per_second
    trained = floor_of(ImageServer(ToyStore(), embedder, nn.Flatten()), 3, CPU, torch.bfloat16)  # type: ignore[arg-type]
    assert (trained.operations, trained.bytes, trained.gather) == (3 * 6 * (8 * 7 + 7 * 6), 0, 0)


def test_rates_are_of_the_machine_and_not_made_up(monkeypatch: pytest.MonkeyPatch) -> None:
    from dicm_kit.images import floor

    times = iter(range(10_000))
    monkeypatch.setattr(floor.time, "perf_counter", lambda: float(next(times)))  # every product takes a second
    assert matrix_rate(CPU, torch.float32) == 2 * 1024**3
    assert copy_rate(CPU) == 2**27
