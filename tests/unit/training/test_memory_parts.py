"""What a rank holds: each formula with numbers worked out by hand."""

from dataclasses import replace
from typing import Literal

import pytest
import torch
from torch import nn

from dicm_kit.features.encoders import HashEncoder, IdEncoder
from dicm_kit.training import memory_parts as parts
from dicm_kit.training.memory_parts import Estimate, Part, Table
from dicm_kit.training.optimizers import CtrOptimizer, OptimizerPlan


def test_a_replicated_table_is_whole_on_every_rank() -> None:
    table = Table("features.user.city", rows=1000, dim=16, sharded=False)
    assert parts.weight_bytes(table, ranks=4) == 64_000  # 16 float32
    assert parts.state_bytes(table, ranks=4) == 132_000  # two moments of 16, and the row's steps


def test_a_sharded_table_is_shared_out_with_the_numbers_of_the_rows() -> None:
    table = Table("features.user.city", rows=6400, dim=16, sharded=True)
    assert parts.rows_on_rank(table, ranks=2) == 3200
    assert parts.rows_on_rank(table, ranks=3) == 2200  # 22 of 64 partitions
    assert parts.weight_bytes(table, ranks=2) == 3200 * (64 + 8)
    assert parts.state_bytes(table, ranks=2) == 3200 * 132


@pytest.mark.parametrize(
    ("rule", "l2", "kept", "counted", "of_row"),
    [
        ("lazy_adam", 0.0, 2, True, 36),  # four numbers: two moments, and the row's steps
        ("lazy_adagrad", 0.0, 1, False, 16),
        ("lazy_adagrad", 0.1, 1, True, 20),
    ],
)
def test_what_the_optimizer_keeps_is_what_the_formula_says(
    rule: Literal["lazy_adam", "lazy_adagrad"], l2: float, kept: int, counted: bool, of_row: int
) -> None:
    encoder, net = IdEncoder(50, 4), nn.Linear(4, 3)
    plan = OptimizerPlan(ids_rule=rule, ids_l2=l2)
    optimizer = CtrOptimizer(net.parameters(), encoder.parameters(), plan)
    net(encoder(torch.tensor([1, 2]))).sum().backward()
    optimizer.step()
    (table,) = (replace(each, kept=kept, counted=counted) for each in parts.tables_of("features.user.city", encoder))
    assert parts.state_bytes(table, 1) == 50 * of_row
    state = optimizer.state[encoder.table.rows.weight]
    assert sum(each.nbytes for each in state.values()) == parts.state_bytes(table, 1)
    dense = sum(each.nbytes for every in net.parameters() for each in optimizer.state[every].values() if each.ndim)
    numbers = 4 * 3 + 3
    assert dense == 8 * numbers
    assert parts.dense_bytes(numbers, 0, ranks=1) == dense + 8 * numbers  # and value and gradient


def test_the_tables_of_an_encoder() -> None:
    with torch.device("meta"):
        replicated, sharded = HashEncoder(8, 10**6), HashEncoder(8, 10**6, placement="sharded")
    assert parts.tables_of("a", replicated) == [Table("a", 10**6 + 1, 8, False)]
    assert parts.tables_of("a", sharded) == [Table("a", 10**6 + 1, 8, True)]


def test_dense_parameters() -> None:
    assert parts.dense_bytes(trained=100, frozen=10, ranks=1) == 1640  # 4 x 4 x 100, and 4 x 10
    assert parts.dense_bytes(trained=100, frozen=10, ranks=2) == 2040  # and DDP's copy of the gradient


def test_a_checkpoint_holds_replicated_tables_and_adams_moments() -> None:
    tables = [Table("a", 10, 4, False), Table("b", 10**9, 4, True)]
    # ten rows of 16 bytes, 32 bytes of moments and 4 of steps; a dense parameter and its two moments
    assert parts.checkpoint_bytes(tables, trained=7, frozen=2) == 10 * 52 + 7 * 12 + 2 * 4


def test_pictures() -> None:
    assert parts.share_of_partitions(16, 3) == 6 / 16
    assert parts.store_bytes(1000, 4096, 0.5) == 500 * 8200
    assert parts.statistics_bytes(1_000_000, 4096, 16) == 3 * 8 * 4096 * 4096  # 65,536 pictures in 16 parts
    assert parts.ahead_bytes(100, 4096, trained=False) == 100 * 8192
    assert parts.ahead_bytes(100, 3 * 32 * 32, trained=True) == 100 * 12 * 32 * 32
    assert parts.pixel_cache_bytes(100, 32, 32, 0.5) == 50 * 3 * 4 * 32 * 32
    assert parts.pixel_cache_bytes(10**6, 224, 224, 1.0) == 2**30 // 602_112 * 602_112


def test_data() -> None:
    # a group: 4 slots of item and age, its number, user and one column; an impression: 12 bytes, its group, 2 columns
    assert parts.window_bytes(2, 100, 4, 3.0, (1, 2)) == 2 * 100 * (4 * 8 + 8 * 3 + 3 * (12 + 8 * 3))
    assert parts.item_table_bytes(9, 3) == 2 * 8 * 3 * 10


def test_an_estimate_adds_what_is_held_and_the_largest_moment() -> None:
    held = [
        Part("process", 100, sure=True),
        Part("table", 50, "features.a", "fewer rows", sure=True, on_device=True),
        Part("samples", 7),
    ]
    moments = [Part("step", 20, "batch_size", "smaller", on_device=True), Part("test", 30, "data", "smaller")]
    found = Estimate(held, moments)
    assert found.total() == 187
    assert (found.total(False), found.total(True)) == (137, 70)
    assert (found.sure(), found.sure(False), found.sure(True)) == (150, 100, 50)
    assert [each.name for each in found.largest()] == ["table", "test", "step"]
    assert [each.name for each in found.largest(sure=True)] == ["table"]


@pytest.mark.parametrize(("partitions", "ranks"), [(64, 1), (64, 7), (16, 16)])
def test_no_rank_has_more_than_the_share(partitions: int, ranks: int) -> None:
    most = max(len(range(rank, partitions, ranks)) for rank in range(ranks))
    assert parts.share_of_partitions(partitions, ranks) == most / partitions
