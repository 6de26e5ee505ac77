import dataclasses

import pytest
import torch
import toy
from distributed.lightning_ranks import ddp_trainer
from lightning.pytorch import Callback
from toy import ToyData, toy_batch, toy_module

from dicm_kit.errors import TrainingError
from dicm_kit.training.checkpoint import Checkpoints
from dicm_kit.training.checkpoint_files import read_checkpoint
from dicm_kit.training.optimizers import OptimizerPlan

PLAN = OptimizerPlan(decay_every=4, decay_factor=0.5)
# 7 and 1 groups: on 4 ranks uneven shares, and ranks without an impression
GROUPS = (20, 7, 1, 12)


def train(rank, num_ranks, clip):
    module = toy_module(PLAN)
    trainer = ddp_trainer(rank, num_ranks, max_epochs=2, gradient_clip_val=clip, enable_checkpointing=False)
    trainer.fit(module, ToyData(steps=6, groups=GROUPS))
    trainer.test(module, ToyData(steps=6, groups=GROUPS), verbose=False)
    parameters = {name: value.detach() for name, value in module.named_parameters()}
    return parameters, module.results, module.totals, float(trainer.callback_metrics["test/gauc"])


@pytest.mark.parametrize("clip", [None, 0.05])
def test_one_rank_is_many_ranks(ranks, clip):
    expected, results, totals, _ = train(0, 1, clip)
    for num_ranks in (2, 4):
        answers = ranks.run(num_ranks, train, clip)
        for parameters, got, got_totals, logged in answers:
            for name, value in expected.items():
                assert (parameters[name] - value).norm() <= 1e-5 * value.norm(), name
            assert got_totals.loss == pytest.approx(totals.loss, rel=1e-5)
            assert got_totals.impressions == totals.impressions
            assert set(got["test"]) == set(results["test"])
            assert got["test"]["log_loss"] == pytest.approx(results["test"]["log_loss"], rel=1e-5)
            assert got == answers[0][1]  # every rank has the same metrics, to the last bit
            assert logged == pytest.approx(got["test"]["gauc"], abs=1e-6)


def train_on_bad_number(rank, num_ranks):
    def broken(num_groups, seed=0):
        batch = toy_batch(num_groups, seed=seed)
        if seed != 1:
            return batch
        values = batch.user["type"].clone()
        values[1] = torch.nan  # group 1 is rank 1's
        return dataclasses.replace(batch, user={**batch.user, "type": values})

    toy.toy_batch = broken
    try:
        ddp_trainer(rank, num_ranks, max_epochs=1, enable_checkpointing=False).fit(toy_module(PLAN), ToyData())
    except TrainingError as error:
        return str(error)
    finally:
        toy.toy_batch = toy_batch
    return "no error"


def test_bad_loss_stops_all_ranks_in_the_same_step(ranks):
    messages = ranks.run(2, train_on_bad_number)
    assert messages[0] == messages[1]
    assert messages[0].startswith("step 2: the loss is nan")
    assert "rank 1: column user.type (1 of 1)" in messages[0]
    assert "rank 0: column" not in messages[0]


class AskToStop(Callback):
    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.global_step == 3 and trainer.global_rank == 1:
            module.stop_requested = True


def train_with_checkpoints(rank, num_ranks, folder, stop, resume):
    module = toy_module(PLAN, seed=5 if resume else 0)
    writer = Checkpoints(folder, every=50, keep=1, monitor="val/gauc")
    callbacks = [writer, AskToStop()] if stop else [writer]
    trainer = ddp_trainer(rank, num_ranks, max_epochs=2, callbacks=callbacks)
    data = ToyData(groups=GROUPS)
    try:
        trainer.fit(module, data, ckpt_path=resume, weights_only=True)
    except SystemExit:
        return "stopped", trainer.global_step
    return {name: value.detach() for name, value in module.named_parameters()}, data.seen


def test_one_rank_asks_and_all_stop_and_resume(ranks, tmp_path):
    assert ranks.run(2, train_with_checkpoints, tmp_path / "a", True, None) == [("stopped", 4)] * 2
    last = tmp_path / "a" / "last.ckpt"
    checkpoint = read_checkpoint(last)
    assert checkpoint["global_step"] == 4
    assert len(checkpoint["dicm"]["random_states"]) == 2
    whole = ranks.run(2, train_with_checkpoints, tmp_path / "b", False, None)
    resumed = ranks.run(2, train_with_checkpoints, tmp_path / "c", False, last)
    on_four = ranks.run(4, train_with_checkpoints, tmp_path / "d", False, last)
    steps = [(epoch, step) for epoch in (0, 1) for step in range(6)]
    for parameters, seen in (*resumed, *on_four):
        assert seen == steps[4:]
        for name, value in whole[0][0].items():
            assert (parameters[name] - value).norm() <= 1e-5 * value.norm(), name


def train_with_dice(rank, num_ranks):
    module = toy_module(PLAN, activation="dice")
    trainer = ddp_trainer(rank, num_ranks, max_epochs=1, enable_checkpointing=False, limit_val_batches=0)
    trainer.fit(module, ToyData(steps=6, groups=GROUPS))
    own = {name: value.clone() for name, value in module.net.named_buffers()}
    trainer.test(module, ToyData(steps=6, groups=GROUPS), verbose=False)
    return own, dict(module.net.named_buffers()), dict(module.net.named_parameters()), module.results["test"]


def test_dice_on_ranks_counts_rank_0s_running_statistics(ranks):
    answers = ranks.run(4, train_with_dice)  # ranks without an impression among them
    own, tested, parameters, results = answers[0]
    assert all(torch.isfinite(value).all() for value in own.values())
    for _, other_tested, other_parameters, other_results in answers[1:]:
        assert all(torch.equal(value, tested[name]) for name, value in other_tested.items())
        assert all(torch.equal(value, parameters[name]) for name, value in other_parameters.items())
        assert other_results == results
    assert all(torch.equal(value, own[name]) for name, value in tested.items())
    assert any(not torch.equal(value, own[name]) for answer in answers[1:] for name, value in answer[0].items())
