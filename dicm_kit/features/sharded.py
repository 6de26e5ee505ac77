"""Id tables whose rows are spread over the ranks: the other half of the paper's servers."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from dicm_kit.errors import DataError
from dicm_kit.exchange.all_to_all import Asked, Exchange, LocalExchange, RankExchange
from dicm_kit.exchange.dedup import distinct
from dicm_kit.exchange.owner import owner, partition
from dicm_kit.exchange.traffic import Traffic
from dicm_kit.features.tables import INIT_STD
from dicm_kit.types import Bag

PARTITIONS = 64
"""Of the rows of a table; as many ranks can share it."""
_CHUNK = 2**16  # rows drawn at once; with a multiple of 16 numbers a chunk after the other draws what one draw would


@dataclass(frozen=True)
class AskedRows:
    """Which rows a step needs of a table: what can be found out before it, since no parameter has a part in it."""

    inverse_K: Int[Tensor, " K"]
    """Of each id, which distinct one it is."""
    asked: Asked
    traffic: Traffic | None = None
    """What it cost, where that is not counted yet."""


class ShardedTable(nn.Module):
    """Rows [num_rows, dim] of which this rank holds those of its partitions; others are asked for through an exchange.

    Like `IdTable`, and with the same values: a step touches only the rows that the batch names, each distinct one
    travels once, its gradient is summed at the owner, and only there it has an optimizer state. Rows are drawn when
    `hold` says which ones: until then the table has none, so that no process ever holds all of them.

    Its rows are no part of `state_dict`: they are written partition by partition (`training/table_files.py`).
    """

    def __init__(self, num_rows: int, dim: int, init_std: float = INIT_STD):
        super().__init__()
        self.num_rows, self.init_std = num_rows, init_std
        self.rows = _Rows(0, dim, sparse=True)
        _exhaust(self._drawn())  # an nn.Embedding draws its rows, and then IdTable draws them
        self._random = torch.get_rng_state()
        _exhaust(self._drawn())  # leaves the generator as drawing the rows does
        self.exchange: Exchange | None = None
        """None: no rows yet."""
        self.begun: AskedRows | None = None
        """What `ask_ahead` found out for the next `forward` or `pooled`, and nobody else."""
        self._asking: Exchange = LocalExchange()
        """Used by whoever asks ahead."""
        self.row_V = torch.empty(0, dtype=torch.int64)
        """The numbers of the rows that this rank holds, sorted."""

    @property
    def dim(self) -> int:
        """D, the width of a row."""
        return self.rows.embedding_dim

    @property
    def weight(self) -> nn.Parameter:
        """The rows that this rank holds, [V, D], in the order of `row_V`."""
        assert isinstance(self.rows.weight, nn.Parameter), "it is trained"
        return self.rows.weight

    def hold(
        self, group: distributed.ProcessGroup | None = None, ahead: distributed.ProcessGroup | None = None
    ) -> None:
        """Draws this rank's rows; all of them without a group. Takes groups that are used for tables only.

        `ahead` is one for tensors on CPU (gloo), for `ask_ahead`; tables that are asked one after the other share it.
        Rows that it holds already, since it has trained, stay as they are.
        """
        num_ranks = 1 if group is None else distributed.get_world_size(group)
        if num_ranks > PARTITIONS:
            raise DataError(f"{num_ranks} ranks cannot share a table: at most {PARTITIONS} can", where="sharded tables")
        row_V = self._rows_of(0 if group is None else distributed.get_rank(group), num_ranks)
        held = self.exchange
        self.exchange = LocalExchange() if group is None else RankExchange(group, PARTITIONS)
        self._asking = LocalExchange() if ahead is None else RankExchange(ahead, PARTITIONS)
        if held is not None and torch.equal(row_V, self.row_V):
            self.exchange.traffic = held.traffic  # a run may test after it has trained
            return
        device = self.rows.weight.device
        weight_VD = torch.empty(len(row_V), self.dim)
        before = torch.get_rng_state()
        torch.set_rng_state(self._random)
        end = 0
        for first, chunk in self._drawn():
            start, end = end, int(torch.searchsorted(row_V, first + len(chunk)))
            weight_VD[start:end] = chunk[row_V[start:end] - first]
        torch.set_rng_state(before)
        self.row_V = row_V
        self.rows.weight = nn.Parameter(weight_VD.to(device))
        self.rows.num_embeddings = len(row_V)
        if num_ranks > 1:  # the loss is scaled for DDP's mean, which these rows do not take part in
            self.rows.weight.register_hook(lambda gradient: gradient / num_ranks)

    def partitions(self) -> range:
        """Returns the partitions that this rank holds."""
        assert self.exchange is not None, "the strategy or the module says which rows to hold before the first step"
        return range(self.exchange.rank, PARTITIONS, self.exchange.num_ranks)

    def partition_of_row(self) -> Int[Tensor, " V"]:
        """Returns the partition of each row that this rank holds."""
        return partition(self.row_V, PARTITIONS)

    @torch.no_grad()
    def set_rows(self, row_K: Int[Tensor, " K"], vectors_KD: Float[Tensor, "K D"]) -> None:
        """Puts vectors into the rows, those that this rank holds; the other rows stay as they are."""
        if len(self.row_V) == 0:
            return
        place_K = torch.searchsorted(self.row_V, row_K).clamp(max=len(self.row_V) - 1)
        mine_K = self.row_V[place_K] == row_K
        weight = self.weight
        weight.index_copy_(0, place_K[mine_K].to(weight.device), vectors_KD[mine_K].to(weight.device, weight.dtype))

    def ask_ahead(self, ids_K: Int[Tensor, " K"]) -> AskedRows:
        """Tells the owners which rows a later step needs; takes ids on CPU. Collective where several ranks share it.

        To be put into `begun` before the `forward` or `pooled` of the same ids.
        """
        assert self.exchange is not None, "the strategy or the module says which rows to hold before the first step"
        assert self._asking.num_ranks == self.exchange.num_ranks, "`hold` was given a group to ask ahead with"
        with self._asking.counted_apart() as cost:
            rows = self._ask(ids_K, self._asking)
        return replace(rows, traffic=cost)

    def forward(self, ids: Tensor) -> Tensor:
        """Returns rows [..., D] of int64 ids [...]. Collective where several ranks share the table."""
        vectors_UD, inverse_K = self._fetch(ids.reshape(-1))
        return F.embedding(inverse_K.view(ids.shape), vectors_UD)

    def pooled(self, bag: Bag, mode: Literal["mean", "sum"]) -> Tensor:
        """Returns one vector [*bag.shape, D] per row of the bag; zeros for a row without ids. Collective, too."""
        vectors_UD, inverse_K = self._fetch(bag.values)
        if len(inverse_K) == 0:
            return vectors_UD.sum() + vectors_UD.new_zeros(*bag.shape, self.dim)  # connected to the exchange
        pooled = F.embedding_bag(inverse_K, vectors_UD, bag.offsets, mode=mode, include_last_offset=True)
        return pooled.view(*bag.shape, self.dim)

    def _fetch(self, ids_K: Int[Tensor, " K"]) -> tuple[Float[Tensor, "U D"], Int[Tensor, " K"]]:
        assert self.exchange is not None, "the strategy or the module says which rows to hold before the first step"
        begun, self.begun = self.begun, None
        if begun is None:
            begun = self._ask(ids_K, self.exchange)
        elif begun.traffic is not None:
            self.exchange.traffic += begun.traffic
        asked, inverse_K = begun.asked.to(ids_K.device), begun.inverse_K.to(ids_K.device)
        with self.exchange.under_way("compute"):
            vectors_VD = self._look_up(asked.keys_V)
        return self.exchange.answer(asked, vectors_VD), inverse_K

    def _ask(self, ids_K: Int[Tensor, " K"], exchange: Exchange) -> AskedRows:
        row_U, inverse_K = distinct(ids_K)
        return AskedRows(inverse_K, exchange.ask(row_U))

    def _look_up(self, row_V: Int[Tensor, " V"]) -> Float[Tensor, "V D"]:
        if len(self.row_V) == self.num_rows:
            return self.rows(row_V)
        return self.rows(torch.searchsorted(self.row_V.to(row_V.device), row_V))

    def _rows_of(self, rank: int, num_ranks: int) -> Int[Tensor, " V"]:
        """Returns the numbers of a rank's rows, sorted; looks at a chunk at a time, since all may be many."""
        if num_ranks == 1:
            return torch.arange(self.num_rows)
        chunks = (torch.arange(first, min(first + _CHUNK, self.num_rows)) for first in range(0, self.num_rows, _CHUNK))
        return torch.cat([each[owner(partition(each, PARTITIONS), num_ranks) == rank] for each in chunks])

    def _drawn(self) -> Iterator[tuple[int, Tensor]]:
        """Yields (first row, rows) of the whole table as `IdTable` draws it."""
        last = max(0, (self.num_rows - 1) // _CHUNK - 1) * _CHUNK  # the last chunk is at least one chunk long
        for first in range(0, last + 1, _CHUNK):
            rows = self.num_rows - first if first == last else _CHUNK
            yield first, torch.empty(rows, self.dim).normal_(std=self.init_std)


class _Rows(nn.Embedding):
    """Has no part in `state_dict`, where each rank's would be others."""

    def _save_to_state_dict(self, *args: object, **kwargs: object) -> None:
        pass

    def _load_from_state_dict(self, *args: object, **kwargs: object) -> None:
        pass


def _exhaust(chunks: Iterator[object]) -> None:
    for _ in chunks:
        pass


def sharded_tables(module: nn.Module) -> dict[str, ShardedTable]:
    """Returns the sharded tables of a module by name; one that is in several places by its first."""
    return {name: each for name, each in module.named_modules() if isinstance(each, ShardedTable)}
