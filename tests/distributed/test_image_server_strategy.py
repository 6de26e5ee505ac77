"""`image_server` is one rank: the debug recipe in Lightning's loop on 1 to 4 ranks."""

import dataclasses

import pytest
import torch
from distributed.lightning_ranks import ddp_trainer
from lightning.pytorch import Trainer
from lightning.pytorch.strategies import StrategyRegistry
from recipes.debug_runs import debug
from toy import PICTURE, ToyData, ToyStore, image_server, toy_module

from dicm_kit import run
from dicm_kit.errors import DicmError
from dicm_kit.images.embedder import Embedder
from dicm_kit.session import Session
from dicm_kit.training.checkpoint import Checkpoints
from dicm_kit.training.optimizers import OptimizerPlan
from dicm_kit.training.strategy import ImageServerStrategy

STEPS = 50


def session_of(folder, rank, num_ranks, *overrides):
    loaded = debug(folder, *overrides, run_dir=f"run-{rank}-{num_ranks}")
    if num_ranks > 1:
        loaded.recipe.trainer.strategy = "image_server"
    return Session(loaded, run._prepared(loaded, run.rehearse(loaded)))


def train(rank, num_ranks, folder, overrides, strategy=ImageServerStrategy):
    session = session_of(folder, rank, num_ranks, *overrides)
    trainer = ddp_trainer(rank, num_ranks, strategy, max_steps=STEPS, max_epochs=-1, enable_checkpointing=False)
    trainer.fit(session.module, session.data)
    traffic = session.module.server.exchange.traffic
    served = None if num_ranks == 1 else sorted(session.module.server.store._parts)
    trainer.test(session.module, session.data, verbose=False)
    parameters = {name: value.detach() for name, value in session.module.named_parameters()}
    return parameters, session.module.results, traffic, served, trainer.global_step


def differences(got, wanted):
    """Names of the tensors that are further apart than 1e-5 of their norm."""
    return {
        name: float((got[name] - value).norm() / value.norm())
        for name, value in wanted.items()
        if (got[name] - value).norm() > 1e-5 * value.norm()
    }


@pytest.mark.parametrize("transport", ["vectors", "backbone_vectors"])
def test_fifty_steps_of_the_debug_recipe_end_in_the_same_parameters(ranks, shop, transport):
    wanted, results, alone, _, steps = train(0, 1, shop, [])
    assert steps == STEPS
    for num_ranks in (2, 3, 4):
        answers = ranks.run(num_ranks, train, shop, [f"images.transport={transport}", "trainer.strategy=image_server"])
        for rank, (parameters, got, _, served, _) in enumerate(answers):
            assert differences(parameters, wanted) == {}
            assert served == [p for p in range(4) if p % num_ranks == rank]
            for name, value in results["test"].items():
                assert got["test"][name] == pytest.approx(value, abs=1e-4, nan_ok=True), name
        assert sum(traffic.served for _, _, traffic, _, _ in answers) == alone.served
        assert all(traffic.bytes_sent > 0 for _, _, traffic, _, _ in answers)


def test_it_is_in_lightnings_registry():
    assert "image_server" in StrategyRegistry
    trainer = Trainer(strategy="image_server", accelerator="cpu", devices=2, logger=False, enable_checkpointing=False)
    assert isinstance(trainer.strategy, ImageServerStrategy)


# --- uneven data: ranks that end early, without a picture, without any data ---

UNEVEN = {
    "some steps leave ranks without data": (20, 7, 1, 12),
    "all data is rank 0's": (1, 1, 1, 1),
    "no data at all in a step": (3, 0, 5, 0),
}


def train_toy(rank, num_ranks, groups, without_pictures):
    # eps: where a gradient is nothing but rounding, Adam would make whole steps of it
    module = toy_module(OptimizerPlan(dense_lr=1e-2, ids_lr=1e-2, eps=1e-4), server=image_server())
    data = ToyData(steps=8, groups=groups)
    trainer = ddp_trainer(rank, num_ranks, ImageServerStrategy, max_epochs=2, enable_checkpointing=False)
    if rank in without_pictures:
        pictures, without = module.server.forward, torch.zeros_like
        module.server.forward = lambda target_N, history_GL, mask, ahead=None: pictures(
            without(target_N), without(history_GL), mask
        )
    trainer.fit(module, data)
    validated = module.results["val"]
    trainer.test(module, data, verbose=False)
    predicted = sum(len(each) for each in trainer.predict(module, data))
    parameters = {name: value.detach() for name, value in module.named_parameters()}
    traffic = module.server.exchange.traffic
    return parameters, {"val": validated, **module.results}, predicted, traffic


@pytest.mark.parametrize("groups", UNEVEN.values(), ids=UNEVEN.keys())
def test_uneven_data_is_read_once_and_trains_the_same(ranks, groups):
    wanted, results, predicted, alone = train_toy(0, 1, groups, ())
    for num_ranks in (2, 3, 4):
        answers = ranks.run(num_ranks, train_toy, groups, ())
        assert sum(answer[2] for answer in answers) == predicted
        assert sum(answer[3].served for answer in answers) == alone.served
        for parameters, got, _, _ in answers:
            assert differences(parameters, wanted) == {}
            for stage in ("val", "test"):
                assert got[stage].keys() == results[stage].keys()
                for name, value in results[stage].items():
                    assert got[stage][name] == pytest.approx(value, abs=1e-4, nan_ok=True), (stage, name)


def test_a_rank_whose_data_has_no_picture_goes_on_serving(ranks):
    answers = ranks.run(2, train_toy, (12, 3, 1, 20), (1,))
    first, second = (answer[3] for answer in answers)
    assert second.asked == 0
    assert second.served > 0
    assert first.asked == first.served + second.served
    assert differences(answers[1][0], answers[0][0]) == {}


# --- bad input: every rank says the same error, and none waits ---


def fail(rank, num_ranks, stores):
    module = toy_module(server=image_server(stores[rank]))
    trainer = ddp_trainer(rank, num_ranks, ImageServerStrategy, max_epochs=1, enable_checkpointing=False)
    try:
        trainer.fit(module, ToyData())
    except DicmError as error:
        return type(error).__name__, str(error)
    return "no error", ""


def test_ranks_that_hold_different_pictures(ranks):
    stores = [ToyStore(), ToyStore("other toys"), ToyStore(), ToyStore()]
    answers = ranks.run(4, fail, stores)
    assert answers == [answers[0]] * 4
    assert "the pictures of the ranks" in answers[0][1]
    assert "rank 0: toys, rank 1: other toys, rank 2: toys, rank 3: toys" in answers[0][1]


def test_a_partition_that_one_rank_cannot_open(ranks):
    answers = ranks.run(2, fail, [ToyStore(), ToyStore(broken=3)])
    assert answers == [("ImageError", "toys: rank 1: partition 3 cannot be read")] * 2
    fine = ranks.run(2, fail, [ToyStore(broken=3), ToyStore()])  # it is not rank 0's, which does not look at it
    assert fine == [("no error", "")] * 2


def test_more_ranks_than_partitions(ranks):
    stores = [ToyStore() for _ in range(4)]
    for store in stores:
        store.num_partitions = 3
    answers = ranks.run(4, fail, stores)
    assert answers == [answers[0]] * 4
    assert "4 ranks cannot share 3 partitions of pictures" in answers[0][1]


def different_datasets(rank, num_ranks, folder):
    session = session_of(folder, rank, num_ranks)
    session.data.dataset = dataclasses.replace(session.dataset, fingerprint=f"fingerprint of {rank}")
    trainer = ddp_trainer(rank, num_ranks, ImageServerStrategy, max_steps=1, enable_checkpointing=False)
    try:
        trainer.fit(session.module, session.data)
    except DicmError as error:
        return str(error)
    return "no error"


def test_ranks_that_hold_different_datasets(ranks, shop):
    answers = ranks.run(2, different_datasets, shop)
    assert answers[0] == answers[1]
    assert "the datasets of the ranks: the ranks have different ones" in answers[0]
    assert "rank 0: fingerprint of 0, rank 1: fingerprint of 1" in answers[0]


def test_the_module_works_on_one_rank_again_after_gather(ranks):
    for first, second in ranks.run(2, use_afterwards):
        assert first == "the ranks have parted; ImageServer.gather makes it work on one rank"
        assert second == (2, 6)


def use_afterwards(rank, num_ranks):
    module = toy_module(server=image_server())
    trainer = ddp_trainer(rank, num_ranks, ImageServerStrategy, max_epochs=1, enable_checkpointing=False)
    trainer.fit(module, ToyData())
    keys_N = torch.tensor([4, 7])
    try:
        module.server(keys_N, None, torch.zeros(0, 1, dtype=torch.bool))
        said = "nothing"
    except AssertionError as mistake:
        said = str(mistake)
    module.server.gather()
    return said, tuple(module.server(keys_N, None, torch.zeros(0, 1, dtype=torch.bool)).target_NI.shape)


# --- DDP's buckets ---


def train_and_resume(rank, num_ranks, folder, checkpoint):
    """Wide layers: DDP has several buckets, whose order matters."""
    module, data = toy_module(server=image_server()), ToyData(groups=(20, 12))
    module.server.embedder = Embedder(8, (400, 400), PICTURE)
    torch.manual_seed(2)
    for parameter in module.server.embedder.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    trainer = ddp_trainer(
        rank,
        num_ranks,
        lambda **options: ImageServerStrategy(bucket_cap_mb=0.1, **options),
        max_epochs=2,
        callbacks=[Checkpoints(folder, every=5, keep=3)],
        limit_val_batches=0,
    )
    trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
    return {name: value.detach() for name, value in module.named_parameters()}, trainer.global_step


def test_a_resumed_run_is_bit_identical_on_as_many_ranks(ranks, tmp_path):
    whole = ranks.run(4, train_and_resume, tmp_path / "whole", None)
    resumed = ranks.run(4, train_and_resume, tmp_path / "resumed", tmp_path / "whole/step-000000005.ckpt")
    for (wanted, _), (got, steps) in zip(whole, resumed, strict=True):
        assert steps == 12
        assert [name for name, value in wanted.items() if not torch.equal(got[name], value)] == []
