"""A sharded table on one rank; on several: tests/distributed/test_sharded_tables.py."""

import pytest
import torch

from dicm_kit.features.sharded import ShardedTable
from dicm_kit.features.tables import IdTable
from dicm_kit.types import Bag


def both(num_rows: int, dim: int) -> tuple[IdTable, ShardedTable]:
    torch.manual_seed(3)
    replicated = IdTable(num_rows, dim)
    after = torch.get_rng_state()
    torch.manual_seed(3)
    sharded = ShardedTable(num_rows, dim)
    assert torch.equal(torch.get_rng_state(), after)  # what is drawn next is the same
    sharded.hold()
    assert torch.equal(torch.get_rng_state(), after)
    return replicated, sharded


@pytest.mark.parametrize("size", [(1, 3), (5, 3), (16, 1), (65_536, 3), (65_537, 5), (131_075, 7), (200_001, 16)])
def test_rows_are_drawn_as_those_of_a_replicated_table(size: tuple[int, int]) -> None:
    replicated, sharded = both(*size)
    assert torch.equal(replicated.rows.weight, sharded.weight)


def test_no_row_before_it_is_said_which() -> None:
    sharded = ShardedTable(1000, 4)
    assert sharded.weight.shape == (0, 4)
    with pytest.raises(AssertionError, match="which rows to hold"):
        sharded(torch.tensor([1]))


def test_values_and_gradients_are_those_of_a_replicated_table() -> None:
    replicated, sharded = both(50, 3)
    ids = torch.tensor([[4, 0, 7], [4, 4, 49]])
    bag = Bag(torch.tensor([3, 4, 4, 9]), torch.tensor([0, 2, 2, 4]), (3,))
    for table in (replicated, sharded):
        (table(ids).square().sum() + table.pooled(bag, "mean").sum() + 2 * table.pooled(bag, "sum").sum()).backward()
    torch.testing.assert_close(sharded(ids), replicated(ids))
    torch.testing.assert_close(sharded.pooled(bag, "mean"), replicated.pooled(bag, "mean"))
    assert sharded.weight.grad.is_sparse
    torch.testing.assert_close(sharded.weight.grad.to_dense(), replicated.rows.weight.grad.to_dense())
    assert sharded.weight.grad.coalesce().indices()[0].tolist() == [0, 3, 4, 7, 9, 49]


def test_a_bag_without_ids() -> None:
    _, sharded = both(50, 3)
    empty = Bag(torch.empty(0, dtype=torch.int64), torch.zeros(4, dtype=torch.int64), (3,))
    pooled = sharded.pooled(empty, "mean")
    assert pooled.tolist() == [[0.0] * 3] * 3
    pooled.sum().backward()
    assert sharded.weight.grad.coalesce().values().shape == (0, 3)


def test_holding_again_keeps_what_was_trained() -> None:
    _, sharded = both(50, 3)
    with torch.no_grad():
        sharded.weight.add_(1)
    trained = sharded.weight
    sharded.hold()
    assert sharded.weight is trained
