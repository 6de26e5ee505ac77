"""A step reckoned from small ones takes what the step itself takes."""

import pytest
import torch

from dicm_kit.features.encoders import HashEncoder, IdEncoder, IdsEncoder
from dicm_kit.images.embedder import Embedder
from dicm_kit.images.server import ImageServer
from dicm_kit.interest.attention import MultiQueryAttention
from dicm_kit.interfaces import ColumnShape, NetShapes
from dicm_kit.nets.mlp import EmbeddingMlp
from dicm_kit.training.live_bytes import LiveBytes
from dicm_kit.training.loss import summed_loss
from dicm_kit.training.module import CtrModule
from dicm_kit.training.optimizers import OptimizerPlan
from dicm_kit.training.small_step import Proportions, _batch, blank_store, step_bytes

SHAPES = {
    "user": {"city": ColumnShape("id", 5), "device": ColumnShape("hash", None)},
    "target": {"item": ColumnShape("id", 300), "tags": ColumnShape("ids", 40)},
    "context": {"price": ColumnShape("number", None)},
    "history": {"item": ColumnShape("id", 300)},
}
HAVE = Proportions(slots=16, groups=0.25, pictures=0.5, in_bag={("target", "tags"): 2.0})


def module(rows: int, placement: str = "replicated") -> CtrModule:
    item = IdEncoder(300, 8)
    attention = MultiQueryAttention(("image",), (6,), ("image", "target.item"), (6, 8), hidden=(16,))
    user, target = {"city": 4, "device": 16}, {"item": 8, "tags": 4}
    shapes = NetShapes(
        user=user, target=target, context={}, history={"item": 8}, image=6, interest={"images": attention.out_dim}
    )
    return CtrModule(
        encoders={
            "user": {"city": IdEncoder(5, 4), "device": HashEncoder(16, rows, placement=placement)},  # type: ignore[arg-type]
            "target": {"item": item, "tags": IdsEncoder(40, 4)},
            "context": {},
            "history": {"item": item},
        },
        server=ImageServer(blank_store(64, False), Embedder(64, (32,), 6)),
        image_target=True,
        image_history=True,
        interest={"images": attention},
        net=EmbeddingMlp(shapes, (32,)),
        optimizer=OptimizerPlan(),
    )


def test_a_large_step_from_two_small_ones() -> None:
    with torch.device("meta"):
        small = module(10**9)
    reckoned = step_bytes(small, SHAPES, HAVE, 2048, "32-true")

    whole = module(10**4)
    batch, size = _batch(SHAPES, HAVE, 2048)
    assert (batch.num_impressions, batch.num_groups, batch.mask_GL.shape[1]) == (2048, 512, 16)
    live = LiveBytes()
    with live:
        summed_loss(whole(batch).logit_N, batch.label_N, batch.weight_N).backward()
    assert whole.server.counters["distinct"] == 1024  # type: ignore[union-attr]
    gradients = sum(
        each.numel() * 4 for each in whole.parameters() if each.grad is not None and not each.grad.is_sparse
    )
    assert reckoned == pytest.approx(live.peak + size - gradients, rel=0.03)


def test_sharded_tables_take_the_same_on_one_rank() -> None:
    with torch.device("meta"):
        replicated, sharded = module(10**6), module(10**6, "sharded")
    found = [step_bytes(each, SHAPES, HAVE, 1000, "32-true") for each in (replicated, sharded)]
    assert found[1] == pytest.approx(found[0], rel=0.1)


def test_bf16_takes_less() -> None:
    found = []
    for precision in ("32-true", "bf16-mixed"):
        with torch.device("meta"):
            small = module(100)
        found.append(step_bytes(small, SHAPES, HAVE, 1000, precision))
    assert found[1] < 0.95 * found[0]
