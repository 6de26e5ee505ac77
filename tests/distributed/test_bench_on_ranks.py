"""`dicm bench` on two ranks: the exchange and the wait for gradients are parts, V is that of the whole batch."""

import pytest
import torch
from distributed.lightning_ranks import ddp_trainer
from lightning.pytorch.strategies import DDPStrategy
from toy import ToyData, image_server, toy_batch, toy_module

from dicm_kit.training.measure_steps import WARM_UP, MeasureSteps
from dicm_kit.training.part_clock import AVERAGING, LEG, PICTURE_PARTS
from dicm_kit.training.strategy import ImageServerStrategy

GROUPS, STEPS = (20, 7, 1, 12), 16
LEGS = {LEG(leg) for leg in ("sizes", "keys", "vectors", "gradients")}


def bench(rank, num_ranks, strategy):
    module, measuring = toy_module(server=image_server()), MeasureSteps(STEPS, torch.float32)
    data = ToyData(steps=WARM_UP + STEPS, groups=GROUPS)
    options = {"callbacks": [measuring], "limit_val_batches": 0, "enable_checkpointing": False}
    ddp_trainer(rank, num_ranks, strategy, max_epochs=1, **options).fit(module, data)
    return measuring.measured, [name for name in ("lookup", "around") if name in vars(module.server.exchange)]


def test_two_ranks_see_the_exchange_and_the_pictures_of_all(ranks):
    batches = [toy_batch(GROUPS[step % 4], seed=step) for step in range(WARM_UP, WARM_UP + STEPS)]
    keys = [[*each.target_key_N.tolist(), *(each.history_key_GL * each.mask_GL).flatten().tolist()] for each in batches]
    (shared, left), (same, _) = ranks.run(2, bench, ImageServerStrategy)
    assert shared == same  # every rank knows all
    assert left == []
    assert (shared.ranks, shared.steps) == (2, STEPS)
    assert set(shared.parts) >= LEGS | PICTURE_PARTS | {AVERAGING}
    assert sum(shared.parts.values()) == pytest.approx(shared.in_parts)
    assert shared.pictures == sum(len(set(each) - {0}) for each in keys) / STEPS
    assert shared.references == sum(sum(key != 0 for key in each) for each in keys) / STEPS
    assert shared.impressions == sum(each.num_impressions for each in batches) / STEPS
    # the floor is that of a rank's share
    assert shared.floor.bytes == pytest.approx(shared.pictures / 2 * 2 * 8)


def test_ddp_has_no_exchange_and_computes_some_pictures_twice(ranks):
    (shared, _), _ = ranks.run(2, bench, ImageServerStrategy)
    (alone, _), _ = ranks.run(2, bench, DDPStrategy)
    assert LEGS.isdisjoint(alone.parts)
    assert AVERAGING in alone.parts
    assert shared.pictures < alone.pictures
    assert shared.references == alone.references
