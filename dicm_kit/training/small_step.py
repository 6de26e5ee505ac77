"""A training step in small, on made-up values: what its tensors take, so that a large step need not be tried."""

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from math import prod
from typing import cast

import torch
from torch import Tensor, nn

from dicm_kit.features.sharded import ShardedTable
from dicm_kit.images.store import PictureStore
from dicm_kit.interfaces import ColumnShape, ImageBackbone
from dicm_kit.training.live_bytes import LiveBytes, growing
from dicm_kit.training.loss import summed_loss
from dicm_kit.training.module import SIDES, CtrModule, Side
from dicm_kit.types import Bag, Batch, Column

Shapes = Mapping[str, Mapping[str, ColumnShape]]
SIZES = (64, 128)
"""Impressions of the two steps from which a larger one is reckoned."""
_MOST_ROWS = 2**14  # of a table in them


@dataclass(frozen=True)
class Proportions:
    """What a batch has of everything, for each impression."""

    slots: int
    """L"""
    groups: float = 1.0
    """G / N"""
    pictures: float = 0.0
    """V / N, of this rank."""
    in_bag: dict[tuple[str, str], float] = field(default_factory=dict)
    """Ids in a value of an `ids` column, by side and column."""


class BlankStore:
    """Has every picture, all of them black."""

    def __init__(self, dim: int, trained: bool):
        self.dim, self.trained = dim, trained

    def lookup(self, keys_U: Tensor) -> tuple[Tensor, Tensor]:
        """Returns vectors; those of a trained backbone want a gradient."""
        kind = torch.float32 if self.trained else torch.float16
        vectors_UC = torch.zeros(len(keys_U), self.dim, dtype=kind, requires_grad=self.trained)
        return vectors_UC, torch.ones(len(keys_U), dtype=torch.bool)


def blank_store(dim: int, trained: bool) -> PictureStore:
    """Returns a store for a step in small."""
    return cast(PictureStore, BlankStore(dim, trained))


def step_bytes(module: CtrModule, shapes: Shapes, have: Proportions, impressions: int, precision: str) -> int:
    """Returns the bytes that are alive at once in a step of so many impressions, the batch included.

    `module` is on the meta device; it is given memory, its tables only as many rows as the small steps name.
    """
    _give_memory(module)
    sizes = []
    for count in SIZES:
        batch, batch_bytes = _batch(shapes, have, count)
        live = LiveBytes()
        with live, torch.autocast("cpu", torch.bfloat16) if precision != "32-true" else nullcontext():
            loss = summed_loss(module(batch).logit_N, batch.label_N, batch.weight_N)
            loss.backward()
        del loss
        module.zero_grad()
        sizes.append((count, live.peak + batch_bytes))
    return growing(sizes[0], sizes[1], impressions)


def batch_bytes(shapes: Shapes, have: Proportions, impressions: int) -> int:
    """Returns the bytes of a batch."""
    small, large = ((count, _batch(shapes, have, count)[1]) for count in SIZES)
    return growing(small, large, impressions)


def backbone_bytes(backbone: ImageBackbone, pixels: tuple[int, int], pictures: int) -> int:
    """Returns the bytes that so many pictures take on their way through a trained backbone and back."""
    sizes = []
    for count in (2, 4):
        live = LiveBytes()
        with live:
            out_UC = backbone(torch.zeros(count, *pixels, 3).permute(0, 3, 1, 2))
            out_UC.sum().backward()
        del out_UC
        backbone.zero_grad()
        sizes.append((count, live.peak))
    return growing(sizes[0], sizes[1], pictures)


def _give_memory(module: nn.Module) -> None:
    """Puts a module of the meta device into memory, with small tables."""
    sharded = [each for each in module.modules() if isinstance(each, ShardedTable)]
    for each in module.modules():
        if isinstance(each, nn.Embedding | nn.EmbeddingBag) and each.weight.is_meta:
            rows = min(each.num_embeddings, _MOST_ROWS)
            each.weight = nn.Parameter(torch.empty(rows, each.embedding_dim, device="meta"))
            each.num_embeddings = rows
    module.to_empty(device="cpu")
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            tensor.fill_(0.01 if tensor.is_floating_point() else 0)
    for table in sharded:
        table.num_rows, table.row_V = min(table.num_rows, _MOST_ROWS), torch.empty(0, dtype=torch.int64)
        table.hold()


def _batch(shapes: Shapes, have: Proportions, N: int) -> tuple[Batch, int]:
    """Returns a batch whose ids are all different, as far as there are so many; and its bytes."""
    G, L = max(1, round(have.groups * N)), have.slots
    V = max(1, round(have.pictures * N))
    size_of: dict[Side, tuple[int, ...]] = {"user": (G,), "target": (N,), "context": (N,), "history": (G, L)}
    columns: dict[str, dict[str, Column]] = {
        side: {
            name: _column(shape, size_of[side], have.in_bag.get((side, name), 1.0))
            for name, shape in shapes[side].items()
        }
        for side in SIDES
    }
    group_N = torch.arange(N) * G // N
    keys = 1 + torch.arange(N + G * L) % V
    batch = Batch(
        group_N=group_N,
        **columns,
        mask_GL=torch.ones(G, L, dtype=torch.bool),
        age_GL=torch.zeros(G, L),
        target_key_N=keys[:N],
        history_key_GL=keys[N:].view(G, L),
        label_N=torch.zeros(N),
        weight_N=torch.ones(N),
        user_id_N=group_N,
        item_N=group_N,
    )
    tensors: list[Tensor] = []
    batch._map(lambda tensor: tensors.append(tensor) or tensor)  # type: ignore[func-returns-value]
    return batch, sum(each.nbytes for each in tensors)


def _column(shape: ColumnShape, size: tuple[int, ...], in_bag: float) -> Column:
    count = prod(size)
    if shape.kind == "number":
        return torch.zeros(size)
    if shape.kind == "ids":
        per_row = round(in_bag)
        return Bag(_ids(shape, count * per_row), torch.arange(count + 1) * per_row, size)
    return _ids(shape, count).view(size)


def _ids(shape: ColumnShape, count: int) -> Tensor:
    """Ids 1, 2, ..., as far as a small table goes; a hash table has one row more than hashes."""
    most = min(shape.num_ids or _MOST_ROWS, _MOST_ROWS) - 2
    return torch.arange(count) % most + 1 if most > 0 else torch.zeros(count, dtype=torch.int64)
