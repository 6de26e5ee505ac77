"""Sharded tables on disk: what is written is read, on any number of ranks; what is broken is named."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from dicm_kit.errors import RunError
from dicm_kit.exchange.all_to_all import LocalExchange
from dicm_kit.exchange.owner import partition
from dicm_kit.features.sharded import PARTITIONS, ShardedTable
from dicm_kit.training.optimizers import CtrOptimizer, OptimizerPlan
from dicm_kit.training.table_files import check_files, read_tables, table_file, write_tables

ROWS, DIM = 300, 3


class Rank(LocalExchange):
    """Knows its place and sends nothing."""

    def __init__(self, rank: int, num_ranks: int):
        super().__init__()
        self.rank, self.num_ranks = rank, num_ranks


def share(
    rank: int = 0, num_ranks: int = 1, seed: int = 0, plan: OptimizerPlan | None = None
) -> tuple[nn.Module, CtrOptimizer]:
    """Returns a module with a table, of which a rank holds its rows, and its optimizer."""
    torch.manual_seed(seed)
    module = nn.Module()
    module.table = table = ShardedTable(ROWS, DIM)
    table.hold()
    mine = partition(table.row_V, PARTITIONS) % num_ranks == rank
    table.row_V, table.rows.weight = table.row_V[mine], nn.Parameter(table.weight.detach()[mine])
    table.exchange = Rank(rank, num_ranks)
    return module, CtrOptimizer([nn.Parameter(torch.zeros(1))], [table.weight], plan or OptimizerPlan())


def trained(folder: Path, num_ranks: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Writes a table that has trained for a step, on several ranks; returns all its rows and their moments."""
    weight, moment = torch.zeros(ROWS, DIM), torch.zeros(ROWS, DIM)
    for rank in range(num_ranks):
        module, optimizer = share(rank, num_ranks)
        table = module.table
        few = torch.arange(0, len(table.row_V), 3)
        table.rows(few).square().sum().backward()
        optimizer.step()
        write_tables(module, optimizer, folder)
        weight[table.row_V] = table.weight.detach()
        moment[table.row_V] = optimizer.state[table.weight]["exp_avg"]
    return weight, moment


@pytest.mark.parametrize(("written", "read"), [(1, 1), (2, 3), (3, 1), (1, 4)])
def test_any_number_of_ranks_reads_what_others_wrote(tmp_path: Path, written: int, read: int) -> None:
    weight, moment = trained(tmp_path, written)
    check_files(tmp_path, ["table"])
    for rank in range(read):
        module, optimizer = share(rank, read, seed=1)
        read_tables(module, optimizer, tmp_path)
        table = module.table
        assert torch.equal(table.weight, weight[table.row_V])
        assert torch.equal(optimizer.state[table.weight]["exp_avg"], moment[table.row_V])
        assert optimizer.state[table.weight]["row_steps"].sum() > 0


def test_the_format(tmp_path: Path) -> None:
    trained(tmp_path, 1)
    tensors = load_file(table_file(tmp_path, "table", 5))
    assert set(tensors) == {"row", "weight", "exp_avg", "exp_avg_sq", "row_steps"}
    assert torch.equal(partition(tensors["row"], PARTITIONS), torch.full_like(tensors["row"], 5))


def test_lazy_adagrad_with_a_rank_that_has_not_made_a_step(tmp_path: Path) -> None:
    plan = OptimizerPlan(ids_rule="lazy_adagrad", ids_initial_accumulator=0.5)
    sums = torch.zeros(ROWS, DIM)
    for rank in range(2):
        module, optimizer = share(rank, 2, plan=plan)
        table = module.table
        if rank == 0:
            table.rows(torch.arange(9)).square().sum().backward()
            optimizer.step()
        write_tables(module, optimizer, tmp_path)
        sums[table.row_V] = optimizer.state[table.weight]["sum"] if rank == 0 else 0.5
    assert set(load_file(table_file(tmp_path, "table", 4))) == {"row", "weight", "sum"}
    assert set(load_file(table_file(tmp_path, "table", 5))) == {"row", "weight"}
    module, optimizer = share(seed=1, plan=plan)
    read_tables(module, optimizer, tmp_path)
    assert torch.equal(optimizer.state[module.table.weight]["sum"], sums)
    assert (sums > 0.5).any()


def test_rows_are_no_part_of_state_dict() -> None:
    module, _ = share()
    assert module.state_dict() == {}
    module.load_state_dict({})


@pytest.mark.parametrize("damage", ["missing", "cut", "another width", "another size"])
def test_broken_files_are_named(tmp_path: Path, damage: str) -> None:
    trained(tmp_path, 1)
    path = table_file(tmp_path, "table", 7)
    tensors = load_file(path)
    match damage:
        case "missing":
            path.unlink()
        case "cut":
            path.write_bytes(path.read_bytes()[:-9])
        case "another width":
            save_file(tensors | {"weight": torch.zeros(len(tensors["row"]), DIM + 1)}, path)
        case "another size":
            save_file(tensors | {"row": tensors["row"] + ROWS}, path)
    module, optimizer = share()
    words = {
        "missing": "a partition of a sharded table is missing",
        "cut": "cannot be read",
        "another width": f"is not of a table of width {DIM}",
        "another size": f"has rows beyond the table's {ROWS}",
    }
    with pytest.raises(RunError, match=words[damage]) as caught:
        read_tables(module, optimizer, tmp_path)
    assert caught.value.where == str(path)
    if damage in ("missing", "cut"):  # seen without reading the rows
        with pytest.raises(RunError, match=words[damage]) as caught:
            check_files(tmp_path, ["table"])
        assert caught.value.where == str(path)


def test_a_smaller_vocabulary_is_not_filled_up(tmp_path: Path) -> None:
    trained(tmp_path, 1)
    torch.manual_seed(0)
    module = nn.Module()
    module.table = ShardedTable(ROWS + 50, DIM)
    module.table.hold()
    with pytest.raises(RunError, match="holds 300 rows for this rank, the table has 350"):
        read_tables(module, None, tmp_path)
