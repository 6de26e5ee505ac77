"""Rows of id tables from one placement into another."""

from pathlib import Path

import pytest
import torch
from torch import nn

from dicm_kit.features.sharded import ShardedTable
from dicm_kit.features.tables import IdTable
from dicm_kit.training.optimizers import CtrOptimizer, OptimizerPlan
from dicm_kit.training.table_files import OldRows, rows_in, write_tables
from dicm_kit.training.taking_over import _copy_rows

OLD, NEW, DIM = 200, 250, 3


def earlier(placement: str, folder: Path) -> tuple[dict[str, OldRows], torch.Tensor]:
    """Returns the rows of a table in a checkpoint, and the rows themselves."""
    torch.manual_seed(1)
    checkpoint = {"state_dict": {}, "dicm": {}}
    if placement == "replicated":
        table = IdTable(OLD, DIM)
        checkpoint["state_dict"]["column.rows.weight"] = table.rows.weight.detach()
        return rows_in(folder / "last.ckpt", checkpoint), table.rows.weight.detach()
    module = nn.Module()
    module.column = table = ShardedTable(OLD, DIM)
    table.hold()
    write_tables(module, CtrOptimizer([], [table.weight], OptimizerPlan()), folder / "last.tables")
    checkpoint["dicm"]["tables"] = {"folder": "last.tables", "sizes": {"column": [OLD, DIM]}}
    return rows_in(folder / "last.ckpt", checkpoint), table.weight.detach()


@pytest.mark.parametrize("there", ["replicated", "sharded"])
@pytest.mark.parametrize("here", ["replicated", "sharded", "a share"])
def test_rows_go_where_they_belong(there: str, here: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dicm_kit.training.table_files._CHUNK", 64)  # several chunks
    old, rows_there = earlier(there, tmp_path)
    torch.manual_seed(2)
    table = IdTable(NEW, DIM) if here == "replicated" else ShardedTable(NEW, DIM)
    own = torch.arange(NEW)
    if isinstance(table, ShardedTable):
        table.hold()
        if here == "a share":
            own = own[own % 3 == 1]
            table.row_V, table.rows.weight = own, nn.Parameter(table.weight.detach()[own])
    before = table.rows.weight.detach().clone()
    shuffled = torch.randperm(NEW)[:150]
    from_rows = torch.randperm(OLD)[:150]
    of = {"column.rows.weight": table if isinstance(table, ShardedTable) else table.rows}
    _copy_rows(of, old, dict.fromkeys(of, shuffled), dict.fromkeys(of, from_rows), {}, {})
    wanted = torch.full((NEW, DIM), torch.nan)
    wanted[shuffled] = rows_there[from_rows]
    wanted = torch.where(wanted[own].isnan(), before, wanted[own])
    assert torch.equal(table.rows.weight, wanted)
