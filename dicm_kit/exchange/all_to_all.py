"""Keys there and vectors back, gradients home: between ranks, or with one rank, where nothing is sent.

```
#            asks for      distinct   owner (R = 2)          gets back
# rank 0     4 7 4         4 7        4 -> 0, 7 -> 1         e4 e7 e4
# rank 1     7             7          7 -> 1                 e7
# rank 1 computes e7 once; its gradient is the sum of rank 0's and rank 1's
```
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, distributed

from dicm_kit.exchange.dedup import distinct
from dicm_kit.exchange.owner import owner, partition
from dicm_kit.exchange.traffic import Traffic

Compute = Callable[[Int[Tensor, " V"]], Float[Tensor, "V D"]]
"""What an owner does with the keys it is asked for, each once and sorted: one vector per key, in their order."""


class Exchange(ABC):
    """Asks the owners of keys for their vectors; autograd carries gradients home and sums them there.

    `fetch` is collective: every rank of the group calls it in every step, also without keys.
    """

    rank: int
    num_ranks: int
    traffic: Traffic
    """What has been sent since the start, the gradients of finished backwards included."""
    leg: str = ""
    """What is under way: sizes, keys, compute, vectors or gradients; empty between fetches."""
    around: Callable[[str], AbstractContextManager[object]] = nullcontext
    """Is given the name of each leg, and entered around it: a clock's place, where there is one."""

    @abstractmethod
    def fetch(self, keys_U: Int[Tensor, " U"], compute: Compute) -> Float[Tensor, "U D"]:
        """Returns the vectors of distinct, sorted keys. On each rank `compute` is called once, with what it serves."""

    def _count(self, asked: int, served: int) -> None:
        self.traffic.fetches += 1
        self.traffic.asked += asked
        self.traffic.served += served

    @contextmanager
    def _under_way(self, leg: str) -> Iterator[None]:
        self.leg, start = leg, time.perf_counter()  # after an error it stays said where it was
        with self.around(leg):
            yield
        self.leg = ""
        name = f"{leg}_seconds"
        setattr(self.traffic, name, getattr(self.traffic, name) + time.perf_counter() - start)


class LocalExchange(Exchange):
    """One rank, which owns every key."""

    rank = 0
    num_ranks = 1

    def __init__(self) -> None:
        self.traffic = Traffic()

    def fetch(self, keys_U: Int[Tensor, " U"], compute: Compute) -> Float[Tensor, "U D"]:
        """Returns `compute(keys_U)`."""
        self._count(asked=keys_U.shape[0], served=keys_U.shape[0])
        with self._under_way("compute"):
            return compute(keys_U)


class RankExchange(Exchange):
    """Several ranks; a key's owner is the rank of its partition.

    Sends in the tensors' own types: keys in int64, vectors and gradients in what `compute` returns. Gradients come back
    through a backward of ours, in which every rank takes part too; so where one rank's vectors have a gradient, all
    ranks' must: a rank without keys keeps its loss connected to the empty tensor it got.
    """

    def __init__(self, group: distributed.ProcessGroup, num_partitions: int):
        """Takes a process group that nobody else uses: its collectives must not meet those of DDP's buckets."""
        self.rank, self.num_ranks = distributed.get_rank(group), distributed.get_world_size(group)
        assert num_partitions >= self.num_ranks, "whoever made the group has checked that each rank owns a partition"
        self._group, self._num_partitions = group, num_partitions
        self.traffic = Traffic()
        self._is_closed = False

    def close(self) -> None:
        """To be called when the process group goes; a `fetch` is then a mistake."""
        self._is_closed = True

    def fetch(self, keys_U: Int[Tensor, " U"], compute: Compute) -> Float[Tensor, "U D"]:
        """Returns the vectors of distinct, sorted keys.

        Four legs, each from every rank to every rank: how many keys come; the keys, to their owners; a vector for each,
        back; and in backward a gradient for each, to the owner again, where they are summed.
        """
        assert not self._is_closed, "the ranks have parted; ImageServer.gather makes it work on one rank"
        traffic = self.traffic
        owner_U = owner(partition(keys_U, self._num_partitions), self.num_ranks)
        order_U = owner_U.argsort(stable=True)
        num_to_R = torch.bincount(owner_U, minlength=self.num_ranks)
        num_from_R = torch.empty_like(num_to_R)
        with self._under_way("sizes"):
            distributed.all_to_all_single(num_from_R, num_to_R, group=self._group)
            leg = _Leg(num_to_R.tolist(), num_from_R.tolist(), self._group, self.rank)
        traffic.sizes_bytes += num_to_R.element_size() * (self.num_ranks - 1)
        with self._under_way("keys"):
            asked_K, num_bytes = leg.send(keys_U[order_U])
        traffic.keys_bytes += num_bytes
        keys_V, row_K = distinct(asked_K)
        self._count(asked=keys_U.shape[0], served=keys_V.shape[0])
        with self._under_way("compute"):
            vectors_VD = compute(keys_V)
        came_UD = _Answers.apply(vectors_VD.index_select(0, row_K), leg.reversed(), self)
        return came_UD.index_select(0, order_U.argsort())


class _Leg:
    """Rows from every rank to every rank, so many to each; `reversed` is the way back."""

    def __init__(self, num_to: list[int], num_from: list[int], group: distributed.ProcessGroup, rank: int):
        self.num_to, self.num_from, self.group, self.rank = num_to, num_from, group, rank

    def reversed(self) -> "_Leg":
        return _Leg(self.num_from, self.num_to, self.group, self.rank)

    def send(self, rows_K: Tensor) -> tuple[Tensor, int]:
        """Sends the first `num_to[0]` rows to rank 0 and so on; returns what came, rank 0's first, and bytes sent."""
        came = rows_K.new_empty(sum(self.num_from), *rows_K.shape[1:])
        distributed.all_to_all_single(came, rows_K.contiguous(), self.num_from, self.num_to, group=self.group)
        to_others = rows_K.shape[0] - self.num_to[self.rank]
        return came, to_others * rows_K.element_size() * rows_K.shape[1:].numel()


class _Answers(torch.autograd.Function):
    """Vectors to those who asked; gradients the other way.

    Not torch's own differentiable all-to-all: it would not say what it sent, nor how long it took.
    """

    @staticmethod
    def forward(ctx: Any, vectors_KD: Tensor, leg: _Leg, exchange: RankExchange) -> Tensor:
        ctx.leg, ctx.exchange = leg.reversed(), exchange
        with exchange._under_way("vectors"):
            came_UD, num_bytes = leg.send(vectors_KD)
        exchange.traffic.vectors_bytes += num_bytes
        return came_UD

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        with ctx.exchange._under_way("gradients"):
            grad_KD, num_bytes = ctx.leg.send(grads[0])
        ctx.exchange.traffic.gradients_bytes += num_bytes
        return grad_KD, None, None
