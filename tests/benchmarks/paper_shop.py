"""Made-up batches in the paper's proportions, and a feature folder for them; for benchmarks of the image server.

Histories of 32, C = 4096, I = 12 (arXiv:1711.06505, sections 4.1 and 7). Popularity is Zipf's, with the exponent at
which 3,000 impressions name some 15,000 distinct pictures: the paper's Table 2 has 5.0 GB of float32 vectors of C
numbers for 20 ranks of 3,000 impressions, 15,259 for each.
"""

from pathlib import Path

import numpy as np
import torch
import yaml

from dicm_kit.exchange.owner import partition
from dicm_kit.features.encoders import IdEncoder
from dicm_kit.images.embedder import Embedder
from dicm_kit.images.parts import VERSION, PartWriter
from dicm_kit.images.server import ImageServer
from dicm_kit.images.store import FeatureStore
from dicm_kit.interest.attention import Attention, MultiQueryAttention
from dicm_kit.interfaces import NetShapes
from dicm_kit.nets.mlp import EmbeddingMlp
from dicm_kit.training.module import CtrModule
from dicm_kit.training.optimizers import OptimizerPlan
from dicm_kit.types import Batch

LENGTH, WIDE, NARROW, HIDDEN = 32, 4096, 12, (256, 64)
PICTURES, EXPONENT, PARTITIONS = 50_000, 1.08, 64
USERS, CATEGORIES = 100_000, 100


def write_vectors(folder: Path) -> None:
    """Writes a feature folder with a random vector for each of the keys 1 to PICTURES."""
    random = np.random.default_rng(0)
    keys = np.arange(1, PICTURES + 1)
    for part in range(PARTITIONS):
        writer = PartWriter(folder, part, keys[partition(keys, PARTITIONS) == part], WIDE)
        writer.write(writer.keys, random.standard_normal((len(writer.keys), WIDE), np.float32).astype(np.float16))
        writer.finish()
    meta = {"version": VERSION, "fingerprint": "made up", "partitions": PARTITIONS, "dim": WIDE, "count": PICTURES}
    (folder / "features.yaml").write_text(yaml.safe_dump(meta))


def batch(impressions: int, per_group: int, seed: int) -> Batch:
    """Returns a batch of full histories, `per_group` impressions to each of them."""
    random = np.random.default_rng(seed)
    share = np.arange(1, PICTURES + 1) ** -EXPONENT
    groups = impressions // per_group
    drawn = 1 + random.choice(PICTURES, impressions + groups * LENGTH, p=share / share.sum())
    item_N, item_GL = (torch.from_numpy(each) for each in np.split(drawn, [impressions]))
    item_GL = item_GL.view(groups, LENGTH)
    user_G = torch.from_numpy(random.integers(0, USERS, groups))
    group_N = torch.arange(groups).repeat_interleave(per_group)
    return Batch(
        group_N=group_N,
        user={"user_id": user_G},
        target={"item_id": item_N, "category": item_N % CATEGORIES},
        context={},
        history={"item_id": item_GL, "category": item_GL % CATEGORIES},
        mask_GL=torch.ones(groups, LENGTH, dtype=torch.bool),
        age_GL=torch.from_numpy(random.random((groups, LENGTH), np.float32)),
        target_key_N=item_N,
        history_key_GL=item_GL,
        label_N=torch.from_numpy((random.random(impressions) < 0.2).astype(np.float32)),
        weight_N=torch.ones(impressions),
        user_id_N=user_G[group_N],
        item_N=item_N,
    )


class Float32Store:
    """A feature store that hands out float32, as the paper's servers do."""

    def __init__(self, store: FeatureStore):
        self.store, self.identity = store, store.identity
        self.num_partitions, self.num_bytes = store.num_partitions, store.num_bytes

    def serve(self, partitions: range) -> None:
        self.store.serve(partitions)

    def lookup(self, keys_U: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        rows_UC, found_U = self.store.lookup(keys_U)
        return rows_UC.float(), found_U


def embedder() -> Embedder:
    """Returns the paper's."""
    return Embedder(WIDE, HIDDEN, NARROW)


def model(folder: Path, partitions: tuple[int, ...] | None = None, items: IdEncoder | None = None) -> CtrModule:
    """Returns DICM with the widths of recipes/fashion/dicm.yaml, its vectors from the folder."""
    torch.manual_seed(0)
    items, categories = items or IdEncoder(PICTURES + 1, 16), IdEncoder(CATEGORIES, 8)
    ids = Attention(("item_id", "category"), (16, 8), ("target.item_id", "target.category"), (16, 8))
    pictures = MultiQueryAttention(("image",), (NARROW,), ("image", "target.item_id"), (NARROW, 16))
    shapes = NetShapes(
        user={"user_id": 16},
        target={"item_id": 16, "category": 8},
        context={},
        history={"item_id": 16, "category": 8},
        image=NARROW,
        interest={"ids": ids.out_dim, "images": pictures.out_dim},
    )
    return CtrModule(
        encoders={
            "user": {"user_id": IdEncoder(USERS, 16)},
            "target": {"item_id": items, "category": categories},
            "history": {"item_id": items, "category": categories},
        },
        server=ImageServer(FeatureStore.open(folder, partitions=partitions), embedder()),
        image_target=True,
        image_history=True,
        interest={"ids": ids, "images": pictures},
        net=EmbeddingMlp(shapes, (128, 64)),
        optimizer=OptimizerPlan(),
    )
