"""A toy model, toy batches and a toy data module for tests: seconds on one core, no files."""

from collections.abc import Collection, Iterator

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor, nn

from dicm_kit.errors import ImageError
from dicm_kit.exchange.owner import partition
from dicm_kit.features.encoders import IdEncoder, IdsEncoder, NumberEncoder
from dicm_kit.images.embedder import Embedder
from dicm_kit.images.server import ImageServer
from dicm_kit.interest.attention import Attention, MultiQueryAttention
from dicm_kit.interest.pooling import SumPooling
from dicm_kit.interfaces import InterestAggregator, NetShapes
from dicm_kit.nets.layers import Activation
from dicm_kit.nets.mlp import EmbeddingMlp
from dicm_kit.training.module import CtrModule
from dicm_kit.training.optimizers import OptimizerPlan
from dicm_kit.training.slices import TargetSlices
from dicm_kit.types import Bag, Batch, Pictures

USERS, ITEMS, TAGS, LENGTH, PICTURE = 20, 30, 7, 5, 6


class ToyStore:
    """The wide vectors of `ToyServer` in partitions, for a real image server; key 29 has none."""

    num_partitions = 5
    num_bytes = None

    def __init__(self, identity: str = "toys", broken: int | None = None):
        self.wide = torch.randn(ITEMS + 1, 8, generator=torch.Generator().manual_seed(0))
        self.identity, self.broken = identity, broken
        self.served = set(range(self.num_partitions))

    def serve(self, partitions: Collection[int]) -> None:
        self.served = set(partitions)
        if self.broken in self.served:
            raise ImageError(f"partition {self.broken} cannot be read", where="toys")

    def lookup(self, keys_U: Tensor) -> tuple[Tensor, Tensor]:
        assert self.served.issuperset(partition(keys_U, self.num_partitions).tolist()), "another rank's partition"
        return self.wide[keys_U], keys_U != ITEMS - 1


def image_server(store: ToyStore | None = None) -> ImageServer:
    """Returns a real image server in `ToyServer`'s place, the same each time."""
    torch.manual_seed(1)
    return ImageServer(store or ToyStore(), Embedder(8, (7,), PICTURE))


class ToyServer(nn.Module):
    """A picture for every key, from a fixed table through one trained layer; key 0 gives zeros."""

    def __init__(self, dropout: float = 0.0):
        super().__init__()
        wide = torch.randn(ITEMS + 1, 8, generator=torch.Generator().manual_seed(0))
        self.register_buffer("wide", wide)
        self.layer = nn.Linear(8, PICTURE)
        self.dropout = nn.Dropout(dropout)

    def forward(self, target_key_N: Tensor | None, history_key_GL: Tensor | None, mask_GL: Tensor) -> Pictures:
        def vectors(keys: Tensor) -> Tensor:
            return self.dropout(self.layer(self.wide[keys])) * (keys != 0).unsqueeze(-1)

        return Pictures(
            target_NI=None if target_key_N is None else vectors(target_key_N),
            history_GLI=None if history_key_GL is None else vectors(history_key_GL),
            mask_GL=mask_GL if history_key_GL is None else mask_GL & (history_key_GL != 0),
        )


def toy_module(
    plan: OptimizerPlan | None = None,
    *,
    seed: int = 0,
    pictures: bool = True,
    attention: bool = True,
    dropout: float = 0.0,
    activation: Activation = "prelu",
    slices: TargetSlices | None = None,
    server: nn.Module | None = None,
) -> CtrModule:
    """Returns a small DICM, the same for the same seed."""
    torch.manual_seed(seed)
    items = IdEncoder(ITEMS, 4, init_std=0.1)
    encoders = {
        "user": {"user_id": IdEncoder(USERS, 4, init_std=0.1), "type": NumberEncoder(2)},
        "target": {"item_id": items, "tags": IdsEncoder(TAGS, 3)},
        "context": {"hour": NumberEncoder(2, "log1p")},
        "history": {"item_id": items},
    }
    interest: dict[str, InterestAggregator] = {}
    if attention:
        interest["ids"] = Attention(("item_id",), (4,), ("target.item_id",), (4,), (8,))
    else:
        interest["ids"] = SumPooling(("item_id",), (4,))
    if pictures:
        interest["images"] = MultiQueryAttention(
            ("image",), (PICTURE,), ("image", "target.item_id"), (PICTURE, 4), (8,), softmax=True
        )
    shapes = NetShapes(
        user={"user_id": 4, "type": 2},
        target={"item_id": 4, "tags": 3},
        context={"hour": 2},
        history={"item_id": 4},
        image=PICTURE if pictures else None,
        interest={slot: each.out_dim for slot, each in interest.items()},
    )
    return CtrModule(
        encoders=encoders,
        server=(server or ToyServer(dropout)) if pictures else None,
        image_target=pictures,
        image_history=pictures,
        interest=interest,
        net=EmbeddingMlp(shapes, (16, 8), dropout, activation),
        optimizer=plan or OptimizerPlan(dense_lr=1e-2, ids_lr=1e-2),
        slices=slices,
    )


def toy_batch(num_groups: int, *, seed: int = 0, per_group: int = 3) -> Batch:
    """Returns a batch whose groups have 1 to `per_group` impressions; the same for the same seed."""
    g = torch.Generator().manual_seed(seed)

    def ints(high: int, *shape: int) -> Tensor:
        return torch.randint(0, high, shape, generator=g)

    counts = 1 + ints(per_group, num_groups)
    group_N = torch.repeat_interleave(torch.arange(num_groups), counts)
    N = len(group_N)
    mask_GL = torch.arange(LENGTH) < ints(LENGTH + 1, num_groups).unsqueeze(1)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), ints(3, N).cumsum(0)])
    item_N, item_GL = ints(ITEMS, N), ints(ITEMS, num_groups, LENGTH) * mask_GL
    user_G = ints(USERS, num_groups)
    click = torch.rand(N, generator=g) < torch.sigmoid(2 * torch.sin(3.0 * item_N) + torch.cos(user_G[group_N] * 1.0))
    return Batch(
        group_N=group_N,
        user={"user_id": user_G, "type": torch.randn(num_groups, generator=g)},
        target={"item_id": item_N, "tags": Bag(ints(TAGS, int(offsets[-1])), offsets, (N,))},
        context={"hour": torch.rand(N, generator=g) * 24},
        history={"item_id": item_GL},
        mask_GL=mask_GL,
        age_GL=torch.rand(num_groups, LENGTH, generator=g) * mask_GL,
        target_key_N=item_N,
        history_key_GL=item_GL,
        label_N=click.float(),
        weight_N=torch.ones(N),
        user_id_N=user_G[group_N],
        item_N=item_N,
    )


def share_of(batch: Batch, rank: int, num_ranks: int) -> Batch:
    """Returns the groups g of a batch with g % num_ranks == rank, and their impressions; perhaps none."""
    groups = torch.arange(batch.num_groups)[rank::num_ranks]
    rows = torch.nonzero(batch.group_N % num_ranks == rank).squeeze(1)
    tags = batch.target["tags"]
    assert isinstance(tags, Bag)
    lengths = tags.offsets.diff()[rows]
    starts = tags.offsets[:-1][rows]
    within = torch.arange(int(lengths.sum())) - torch.repeat_interleave(lengths.cumsum(0) - lengths, lengths)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    bag = Bag(tags.values[torch.repeat_interleave(starts, lengths) + within], offsets, (len(rows),))
    return Batch(
        group_N=batch.group_N[rows] // num_ranks,
        user={name: column[groups] for name, column in batch.user.items()},
        target={"item_id": batch.target["item_id"][rows], "tags": bag},
        context={name: column[rows] for name, column in batch.context.items()},
        history={name: column[groups] for name, column in batch.history.items()},
        mask_GL=batch.mask_GL[groups],
        age_GL=batch.age_GL[groups],
        target_key_N=batch.target_key_N[rows],
        history_key_GL=batch.history_key_GL[groups],
        label_N=batch.label_N[rows],
        weight_N=batch.weight_N[rows],
        user_id_N=batch.user_id_N[rows],
        item_N=batch.item_N[rows],
    )


class ToyLoader:
    """Batches of an epoch, each rank's share; begins where the data module says, and is as long as the epoch."""

    def __init__(self, data: "ToyData", steps: int, seed: int, training: bool):
        self.data, self.steps, self.seed, self.training = data, steps, seed, training

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Batch]:
        trainer = self.data.trainer
        assert trainer is not None
        epoch = trainer.current_epoch if self.training else 0
        start = self.data.resume[1] if self.training and self.data.resume[0] == epoch else 0
        for step in range(start, self.steps):
            if self.training:
                self.data.seen.append((epoch, step))
            whole = toy_batch(self.data.groups[step % len(self.data.groups)], seed=self.seed + 1000 * epoch + step)
            yield share_of(whole, trainer.global_rank, trainer.world_size)

    def state_dict(self) -> dict[str, int]:
        return {}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        pass


class ToyData(LightningDataModule):
    """Made-up batches; `groups` are the sizes of the global batches, in turn."""

    def __init__(self, steps: int = 6, groups: tuple[int, ...] = (12, 3, 1, 20), val_steps: int = 3):
        super().__init__()
        self.steps, self.groups, self.val_steps = steps, groups, val_steps
        self.resume = (0, 0)
        self.seen: list[tuple[int, int]] = []

    def train_dataloader(self) -> ToyLoader:
        return ToyLoader(self, self.steps, 0, True)

    def val_dataloader(self) -> ToyLoader:
        return ToyLoader(self, self.val_steps, 50_000, False)

    def test_dataloader(self) -> ToyLoader:
        return ToyLoader(self, self.val_steps, 60_000, False)

    def predict_dataloader(self) -> ToyLoader:
        return ToyLoader(self, self.val_steps, 60_000, False)

    def state_dict(self) -> dict[str, int]:
        trainer = self.trainer
        assert trainer is not None
        step = trainer.fit_loop.epoch_loop.batch_progress.current.processed
        return {"epoch": trainer.current_epoch, "step": step}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.resume = (state_dict["epoch"], state_dict["step"])
