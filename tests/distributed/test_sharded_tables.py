"""Sharded id tables are replicated ones: the debug recipe on 1, 2 and 4 ranks."""

import pytest
import torch
from distributed.lightning_ranks import ddp_trainer
from distributed.test_image_server_strategy import STEPS, differences, session_of

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
