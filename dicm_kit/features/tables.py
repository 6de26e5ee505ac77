"""Id tables: one trained row per id, of which a training step touches only those that the batch names."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dicm_kit.types import Bag

INIT_STD = 0.01
"""Rows start at N(0, 0.01): near zero, so that an id seen once or twice predicts like the average id, and small
enough that a few Adam steps of 1e-3 outweigh where the row started."""


class IdTable(nn.Module):
    """Rows [num_rows, dim] with sparse gradients: a training step costs by the ids in the batch, not by num_rows.

    Row 0 is the unknown id. It is trained like the others: it is what ids below `min_count` and forgotten ones share,
    and what new ids get when the model serves. Padding of a history is told apart by masks, never by an id.
    """

    def __init__(self, num_rows: int, dim: int, init_std: float = INIT_STD):
        super().__init__()
        # An nn.Embedding, since DDP asks for exactly that class when it looks for sparse gradients.
        self.rows = nn.Embedding(num_rows, dim, sparse=True)
        nn.init.normal_(self.rows.weight, std=init_std)

    @property
    def dim(self) -> int:
        """D, the width of a row."""
        return self.rows.embedding_dim

    def forward(self, ids: Tensor) -> Tensor:
        """Returns rows [..., D] of int64 ids [...]."""
        return self.rows(ids)

    def pooled(self, bag: Bag, mode: Literal["mean", "sum"]) -> Tensor:
        """Returns one vector [*bag.shape, D] per row of the bag; zeros for a row without ids."""
        pooled = F.embedding_bag(
            bag.values, self.rows.weight, bag.offsets, mode=mode, sparse=True, include_last_offset=True
        )
        return pooled.view(*bag.shape, self.dim)


def sparse_parameters(module: nn.Module) -> list[nn.Parameter]:
    """Returns the parameters whose gradients are sparse: those of every table in `module`, a plugin's own included."""
    found: dict[nn.Parameter, None] = {}
    for each in module.modules():
        if isinstance(each, nn.Embedding | nn.EmbeddingBag) and each.sparse:
            assert isinstance(each.weight, nn.Parameter), "an id table is trained"
            found[each.weight] = None
    return list(found)


def id_tables(module: nn.Module) -> dict[str, nn.Embedding | nn.EmbeddingBag]:
    """Returns the tables in `module`, a plugin's own included, by the name of their rows in its state dict."""
    return {
        f"{name}.weight": each
        for name, each in module.named_modules()
        if isinstance(each, nn.Embedding | nn.EmbeddingBag)
    }


@torch.no_grad()
def set_rows(table: nn.Embedding | nn.EmbeddingBag, rows_K: Tensor, vectors_KD: Tensor) -> None:
    """Puts vectors into the rows of a table; the other rows stay as they are."""
    weight = table.weight
    weight.index_copy_(0, rows_K.to(weight.device), vectors_KD.to(weight.device, weight.dtype))


def hash_rows(values: Tensor, buckets: int) -> Tensor:
    """Returns rows 1..buckets of 64-bit hashes, by remainder; hash 0 means "no value" and keeps row 0 to itself."""
    return torch.where(values == 0, 0, 1 + torch.remainder(values, buckets))
