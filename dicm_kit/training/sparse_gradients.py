"""Id tables' gradients and the ranks: the mean of replicated ones, and an overflow in sharded ones.

The mean is of all tables at once: DDP on gloo has three collectives for each.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, distributed, nn


@torch.no_grad()
def average_sparse(tables: Sequence[nn.Parameter], group: distributed.ProcessGroup) -> None:
    """Replaces each table's gradient [rows, D] by its mean over ranks, a rank without one counting with zeros.

    Collective: three all-gathers, of counts, of row numbers and of their gradients. Every rank adds up the same numbers
    in the same order, so replicas stay equal to the bit.
    """
    num_ranks = distributed.get_world_size(group)
    mine = [_coalesced(table) for table in tables]
    device = tables[0].device
    counts_T = torch.tensor([grad._nnz() for grad in mine], device=device)
    counts_RT = _gathered(counts_T, len(tables), group)
    row_counts_R = counts_RT.sum(dim=1).tolist()
    widths_T = torch.tensor([table.shape[1] for table in tables], device=device)
    value_counts_R = (counts_RT * widths_T).sum(dim=1).tolist()
    rows_RK = _gathered(torch.cat([grad.indices()[0] for grad in mine]), max(row_counts_R), group)
    values_RK = _gathered(torch.cat([grad.values().flatten() for grad in mine]), max(value_counts_R), group)
    rows_of = [_split(rows_RK[rank], counts_RT[rank].tolist()) for rank in range(num_ranks)]
    values_of = [_split(values_RK[rank], (counts_RT[rank] * widths_T).tolist()) for rank in range(num_ranks)]
    for t, table in enumerate(tables):
        rows_K = torch.cat([rows[t] for rows in rows_of])
        values_KD = torch.cat([values[t] for values in values_of]).view(-1, table.shape[1])
        table.grad = torch.sparse_coo_tensor(
            rows_K[None], values_KD / num_ranks, table.shape, check_invariants=False
        ).coalesce()


@torch.no_grad()
def share_overflow(apart: Sequence[nn.Parameter], shared: nn.Parameter, group: distributed.ProcessGroup) -> None:
    """Puts an infinity into every rank's gradient of `shared` when a gradient of `apart` is not finite on any rank.

    `apart` are parameters of which each rank has other rows. In 16-mixed each rank's gradient scaler looks at its own
    gradients, skips the step and lowers its scale when one has overflowed: with this all do, or none. Collective: each
    rank sends one number to all. Nothing waits for the device.
    """
    assert shared.grad is not None, "it is trained on every rank"
    bad = torch.zeros((), device=shared.device)
    for each in apart:
        if each.grad is not None:
            values = each.grad._values() if each.grad.is_sparse else each.grad
            bad = torch.maximum(bad, (~torch.isfinite(values)).any().to(bad))
    distributed.all_reduce(bad, distributed.ReduceOp.MAX, group=group)
    first = shared.grad[(0,) * shared.grad.ndim]
    first.copy_(torch.where(bad > 0, torch.inf, first))


def _coalesced(table: nn.Parameter) -> Tensor:
    if table.grad is not None:
        return table.grad.coalesce()
    no_rows, no_values = torch.empty(1, 0, dtype=torch.int64, device=table.device), table.new_empty(0, table.shape[1])
    return torch.sparse_coo_tensor(no_rows, no_values, table.shape, check_invariants=False, is_coalesced=True)


def _gathered(mine_K: Tensor, longest: int, group: distributed.ProcessGroup) -> Tensor:
    """Returns every rank's numbers [R, longest], filled up with zeros."""
    padded_K = mine_K.new_zeros(longest)
    padded_K[: len(mine_K)] = mine_K
    gathered_RK = mine_K.new_empty(distributed.get_world_size(group), longest)
    distributed.all_gather(list(gathered_RK.unbind()), padded_K, group=group)
    return gathered_RK


def _split(numbers_K: Tensor, counts: list[int]) -> tuple[Tensor, ...]:
    return numbers_K[: sum(counts)].split(counts)
