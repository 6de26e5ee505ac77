"""Bytes of tensors that are alive at once."""

import torch
from torch import nn

from dicm_kit.exchange.owner import owner, partition
from dicm_kit.features.sharded import _CHUNK, PARTITIONS, ShardedTable
from dicm_kit.training.live_bytes import LiveBytes, growing

KB = 256  # float32


def test_what_nobody_holds_does_not_count() -> None:
    with LiveBytes() as live:
        kept = torch.zeros(3 * KB)
        for _ in range(5):
            torch.zeros(2 * KB)
        kept[:KB].add_(1)  # a view, changed in place
    assert (live.now, live.peak) == (3 * 1024, 5 * 1024)
    del kept
    assert live.now == 0


def test_what_was_there_before_does_not_count() -> None:
    before = torch.zeros(KB)
    with LiveBytes() as live:
        after = before + 1
    assert live.peak == after.nbytes


def test_a_backward_counts() -> None:
    weight = nn.Parameter(torch.ones(KB))
    with LiveBytes() as live:
        product = weight * weight  # 1 KB
        square = product * product  # 2 KB
        loss = square.sum()
        forward = live.now
        del product, square
        loss.backward()
    assert forward == 2 * 1024 + 4
    assert live.peak > 3 * 1024  # what is saved, and gradients
    assert live.now == weight.nbytes + 4  # its gradient, and the loss


def test_a_sparse_gradient_counts() -> None:
    table = nn.Embedding(1000, 16, sparse=True)
    with LiveBytes() as live:
        table(torch.arange(10)).sum().backward()
    assert table.weight.grad is not None
    assert live.now == table.weight.grad._values().nbytes + table.weight.grad._indices().nbytes


def test_the_part_that_grows() -> None:
    assert growing((64, 1000), (128, 1640), 1000) == 10_000  # 10 each; 360 stay
    assert growing((64, 1000), (128, 900), 1000) == 0


def test_a_rank_finds_its_rows_without_holding_the_numbers_of_all() -> None:
    rows, ranks = 20 * _CHUNK + 5, 4
    table = ShardedTable(1, 1)
    table.num_rows = rows
    with LiveBytes() as live:
        row_V = table._rows_of(2, ranks)
    assert torch.equal(row_V, torch.arange(rows)[owner(partition(torch.arange(rows), PARTITIONS), ranks) == 2])
    assert live.peak < 2.5 * row_V.nbytes + 10 * 8 * _CHUNK
