"""Vectors of sample groups -> vectors of their impressions."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from dicm_kit.types import Batch, Vectors


class Repeat:
    """Groups -> impressions: row `group_N[i]` of [G, ...] becomes row i of [N, ...]."""

    def __init__(self, batch: Batch):
        self.group_N = batch.group_N
        # One impression per group needs no copy. Asked on CPU only: elsewhere the answer would cost a synchronisation.
        self.same = (
            self.group_N.device.type == "cpu"
            and batch.num_groups == batch.num_impressions
            and torch.equal(self.group_N, torch.arange(batch.num_groups))
        )

    def __call__(self, vectors: Tensor) -> Tensor:
        """Returns [N, ...] of [G, ...]."""
        if self.same:
            return vectors
        if not vectors.is_floating_point():
            return vectors.index_select(0, self.group_N)
        # As an embedding: the backward of index_select adds row by row and is several times slower on CPU.
        rows = nn.functional.embedding(self.group_N, vectors.flatten(1))
        return rows.view(len(self.group_N), *vectors.shape[1:])


class Repeated(Mapping[str, Tensor]):
    """Vectors per group, repeated to impressions when one is asked for; and vectors that are per impression already."""

    def __init__(self, groups: Vectors, repeat: Repeat, impressions: Vectors | None = None):
        self._groups, self._repeat = groups, repeat
        self._ready = dict(impressions or {})

    def __getitem__(self, name: str) -> Tensor:
        if name not in self._ready:
            self._ready[name] = self._repeat(self._groups[name])
        return self._ready[name]

    def __iter__(self) -> Iterator[str]:
        return iter({**self._groups, **self._ready})

    def __len__(self) -> int:
        return len({**self._groups, **self._ready})
