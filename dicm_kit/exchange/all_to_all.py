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
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, distributed

from dicm_kit.exchange.dedup import distinct
from dicm_kit.exchange.owner import owner, partition
from dicm_kit.exchange.traffic import Traffic

Compute = Callable[[Int[Tensor, " V"]], Float[Tensor, "V D"]]
"""What an owner does with the keys it is asked for, each once and sorted: one vector per key, in their order."""


@dataclass(frozen=True)
class Asked:
    """What `Exchange.ask` found out: which keys this rank has to answer, and how the answers travel."""

    keys_V: Int[Tensor, " V"]
    """Each key that this rank serves, of all ranks, once and sorted."""
    row_K: Int[Tensor, " K"] | None = None
    """Which of them each key that came is; None: one rank asked itself, in this order."""
    back_U: Int[Tensor, " U"] | None = None
    """Where in what comes back the vector of each asked key lies."""
    num_to: tuple[int, ...] = ()
    """How many keys this rank sent to each rank."""
    num_from: tuple[int, ...] = ()
    """How many came from each."""

    def to(self, device: torch.device | str) -> "Asked":
        """Returns it with its tensors on `device`."""
        moved = (None if each is None else each.to(device) for each in (self.row_K, self.back_U))
        row_K, back_U = moved
        return replace(self, keys_V=self.keys_V.to(device), row_K=row_K, back_U=back_U)


class Exchange(ABC):
    """Asks the owners of keys for their vectors; autograd carries gradients home and sums them there.

    `fetch` is `ask`, computing, and `answer`. All are collective: every rank of the group calls them in every step,
    also without keys. Where nothing is sent for it, `ask` may be done by another exchange of the same ranks: it needs
    no parameters, so it can go ahead of its step.
    """

    rank: int
    num_ranks: int
    traffic: Traffic
    """What has been sent since the start, the gradients of finished backwards included."""
    leg: str = ""
    """What is under way: sizes, keys, lookup, compute, vectors or gradients; empty between fetches."""
    around: Callable[[str], AbstractContextManager[object]] = nullcontext
    """Is given the name of each leg, and entered around it: a clock's place, where there is one."""

    @abstractmethod
    def ask(self, keys_U: Int[Tensor, " U"]) -> Asked:
        """Tells the owners of distinct, sorted keys which ones are wanted; returns what this rank is asked for."""

    @abstractmethod
    def answer(self, asked: Asked, vectors_VD: Float[Tensor, "V D"]) -> Float[Tensor, "U D"]:
        """Sends everybody the vectors of `asked.keys_V`, in their order; returns those of the keys it asked for."""

    def fetch(self, keys_U: Int[Tensor, " U"], compute: Compute) -> Float[Tensor, "U D"]:
        """Returns the vectors of distinct, sorted keys. On each rank `compute` is called once, with what it serves."""
        asked = self.ask(keys_U)
        with self.under_way("compute"):
            vectors_VD = compute(asked.keys_V)
        return self.answer(asked, vectors_VD)

    @contextmanager
    def counted_apart(self) -> Iterator[Traffic]:
        """Yields what is counted within, which `traffic` then has not: it belongs to a later step."""
        before, self.traffic = self.traffic, Traffic()
        yield self.traffic
        self.traffic = before

    def _count(self, asked: int, served: int) -> None:
        self.traffic.fetches += 1
        self.traffic.asked += asked
        self.traffic.served += served

    @contextmanager
    def under_way(self, leg: str) -> Iterator[None]:
        """Says which leg it is, and adds its seconds up; after an error it stays said where it was."""
        before, self.leg, start = self.leg, leg, time.perf_counter()
        with self.around(leg):
            yield
        self.leg = before
        name = f"{leg}_seconds"
        setattr(self.traffic, name, getattr(self.traffic, name) + time.perf_counter() - start)


class LocalExchange(Exchange):
    """One rank, which owns every key."""

    rank = 0
    num_ranks = 1

    def __init__(self) -> None:
        self.traffic = Traffic()

    def ask(self, keys_U: Int[Tensor, " U"]) -> Asked:
        """Returns the same keys."""
        self._count(asked=keys_U.shape[0], served=keys_U.shape[0])
        return Asked(keys_U)

    def answer(self, asked: Asked, vectors_VD: Float[Tensor, "V D"]) -> Float[Tensor, "U D"]:
        """Returns the same vectors."""
        return vectors_VD


class RankExchange(Exchange):
    """Several ranks; a key's owner is the rank of its partition.

    Sends in the tensors' own types: keys in int64, vectors and gradients in what `answer` is given. Gradients come back
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

    def ask(self, keys_U: Int[Tensor, " U"]) -> Asked:
        """Tells the owners which keys are wanted.

        Two legs, each from every rank to every rank: how many keys come; and the keys, to their owners.
        """
        assert not self._is_closed, "the ranks have parted; ImageServer.gather makes it work on one rank"
        owner_U = owner(partition(keys_U, self._num_partitions), self.num_ranks)
        order_U = owner_U.argsort(stable=True)
        num_to_R = torch.bincount(owner_U, minlength=self.num_ranks)
        num_from_R = torch.empty_like(num_to_R)
        with self.under_way("sizes"):
            distributed.all_to_all_single(num_from_R, num_to_R, group=self._group)
            num_to, num_from = tuple(num_to_R.tolist()), tuple(num_from_R.tolist())
        self.traffic.sizes_bytes += num_to_R.element_size() * (self.num_ranks - 1)
        with self.under_way("keys"):
            asked_K, num_bytes = _Leg(num_to, num_from, self._group, self.rank).send(keys_U[order_U])
        self.traffic.keys_bytes += num_bytes
        keys_V, row_K = distinct(asked_K)
        self._count(asked=keys_U.shape[0], served=keys_V.shape[0])
        return Asked(keys_V, row_K, order_U.argsort(), num_to, num_from)

    def answer(self, asked: Asked, vectors_VD: Float[Tensor, "V D"]) -> Float[Tensor, "U D"]:
        """Sends the vectors to those who asked.

        One leg, from every rank to every rank; and in backward another, a gradient for each vector, to the owner
        again, where they are summed.
        """
        assert asked.row_K is not None, "several ranks have asked"
        assert asked.back_U is not None, "and will sort what comes"
        leg = _Leg(asked.num_from, asked.num_to, self._group, self.rank)
        came_UD = _Answers.apply(vectors_VD.index_select(0, asked.row_K), leg, self)
        return came_UD.index_select(0, asked.back_U)


class _Leg:
    """Rows from every rank to every rank, so many to each; `reversed` is the way back."""

    def __init__(self, num_to: tuple[int, ...], num_from: tuple[int, ...], group: distributed.ProcessGroup, rank: int):
        self.num_to, self.num_from, self.group, self.rank = list(num_to), list(num_from), group, rank

    def reversed(self) -> "_Leg":
        return _Leg(tuple(self.num_from), tuple(self.num_to), self.group, self.rank)

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
        with exchange.under_way("vectors"):
            came_UD, num_bytes = leg.send(vectors_KD)
        exchange.traffic.vectors_bytes += num_bytes
        return came_UD

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        with ctx.exchange.under_way("gradients"):
            grad_KD, num_bytes = ctx.leg.send(grads[0])
        ctx.exchange.traffic.gradients_bytes += num_bytes
        return grad_KD, None, None
