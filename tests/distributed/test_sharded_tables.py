"""Sharded id tables are replicated ones: the debug recipe on 1, 2 and 4 ranks."""

import pytest
import torch
from distributed.lightning_ranks import ddp_trainer
from distributed.test_image_server_strategy import STEPS, differences, session_of
from lightning.pytorch import Callback
from lightning.pytorch.plugins import MixedPrecision

from dicm_kit.features.sharded import sharded_tables
from dicm_kit.training.strategy import ImageServerStrategy

SHARDED = [
    "features.user.user_id.placement=sharded",
    "features.target.item_id.placement=sharded",
    "features.context.position.placement=sharded",
    "trainer.gradient_clip=0.5",
]


def train(rank, num_ranks, folder, overrides):
    session = session_of(folder, rank, num_ranks, *overrides)
    trainer = ddp_trainer(
        rank,
        num_ranks,
        ImageServerStrategy,
        max_steps=STEPS,
        max_epochs=-1,
        enable_checkpointing=False,
        gradient_clip_val=0.5,
    )
    trainer.fit(session.module, session.data)
    trainer.test(session.module, session.data, verbose=False)
    module = session.module
    tables = {name: (each.row_V, each.weight.detach()) for name, each in sharded_tables(module).items()}
    optimizer = trainer.optimizers[0]
    touched = {
        name: int((optimizer.state[each.weight]["row_steps"] > 0).sum())
        for name, each in sharded_tables(module).items()
    }
    parameters = {name: value.detach() for name, value in module.named_parameters()}
    return parameters, tables, touched, module.results["test"]


def test_they_end_as_replicated_ones_do(ranks, shop):
    wanted, _, _, results = train(0, 1, shop, SHARDED[-1:])
    touched = None
    for num_ranks in (1, 2, 4):
        if num_ranks == 1:
            answers = [train(0, 1, shop, SHARDED)]
        else:
            answers = ranks.run(num_ranks, train, shop, [*SHARDED, "trainer.strategy=image_server"])
        parameters = dict(answers[0][0])
        assert len(answers[0][1]) == 3
        for name in answers[0][1]:
            full = torch.full_like(wanted[f"{name}.rows.weight"], torch.nan)
            for answer in answers:
                row_V, weight_VD = answer[1][name]
                assert full[row_V].isnan().all()  # nobody else has them
                full[row_V] = weight_VD
            parameters[f"{name}.rows.weight"] = full
        assert differences(parameters, wanted) == {}
        for each in answers:
            assert each[3]["auc"] == pytest.approx(results["auc"], abs=1e-4)
        counted = {name: sum(answer[2][name] for answer in answers) for name in answers[0][2]}
        touched = touched or counted
        assert counted == touched  # an optimizer state at the owner, for the rows that batches named


def test_lazy_adagrad_at_the_owners_is_that_of_one_process(ranks, shop):
    rule = ["optimizer.ids.name=lazy_adagrad", "optimizer.ids.lr=0.05", "optimizer.ids.l2=0.01", SHARDED[-1]]
    one = train(0, 1, shop, rule)[0]
    answers = ranks.run(2, train, shop, [*SHARDED, *rule, "trainer.strategy=image_server"])
    parameters = dict(answers[0][0])
    for name in answers[0][1]:
        full = torch.full_like(one[f"{name}.rows.weight"], torch.nan)
        for answer in answers:
            row_V, weight_VD = answer[1][name]
            full[row_V] = weight_VD
        parameters[f"{name}.rows.weight"] = full
    assert differences(parameters, one) == {}


def train_in_half_precision(rank, num_ranks, folder, bad_step):
    """Trains in 16-mixed on CPU; in one step the rows of rank 1 get a gradient that is not finite."""
    session = session_of(folder, rank, num_ranks, *SHARDED, "trainer.strategy=image_server")
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    trainer = ddp_trainer(
        rank,
        num_ranks,
        ImageServerStrategy,
        max_steps=6,
        max_epochs=-1,
        enable_checkpointing=False,
        limit_val_batches=0,
        gradient_clip_val=0.5,
        plugins=[MixedPrecision("16-mixed", "cpu", scaler)],
    )
    module, scales = session.module, []

    class Spoil(Callback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            scales.append(scaler.get_scale() if batch_idx else 1024.0)
            if batch_idx == bad_step and rank == 1:
                weight = module.encoders["user"]["user_id_of"].table.weight
                handle = weight.register_hook(lambda gradient: (handle.remove(), gradient * torch.inf)[1])

    trainer.callbacks.append(Spoil())
    trainer.fit(module, session.data)
    finite = all(bool(torch.isfinite(each).all()) for each in module.parameters())
    apart = {id(each.weight) for each in sharded_tables(module).values()}
    parameters = {name: value.detach() for name, value in module.named_parameters() if id(value) not in apart}
    return parameters, scales, finite


def test_in_half_precision_an_overflow_in_one_ranks_rows_is_all_ranks(ranks, shop):
    whole, disturbed = (ranks.run(2, train_in_half_precision, shop, bad_step) for bad_step in (None, 3))
    assert whole[0][1] == whole[1][1] == [1024.0] * 6
    for answers in (whole, disturbed):
        assert all(finite for _, _, finite in answers)
        for name, value in answers[0][0].items():
            assert torch.equal(answers[1][0][name], value), name
    assert disturbed[0][1] == disturbed[1][1] == [1024.0] * 4 + [512.0] * 2
