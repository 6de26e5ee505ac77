"""A warm start on ranks is one rank's: every rank fills its own model from the run that rank 0 names."""

from pathlib import Path

import torch
from distributed.lightning_ranks import ddp_trainer
from lightning.pytorch import Callback
from toy import ToyData, image_server, toy_module
from unit.training.earlier import ITEMS_THERE, earlier, provenance, values

from dicm_kit.training.strategy import ImageServerStrategy
from dicm_kit.training.warm_start import WarmStart


class State(Callback):
    """Keeps all weights as they are when training starts."""

    def on_train_start(self, trainer, module):
        self.kept = {name: value.clone() for name, value in module.state_dict().items()}


def train(rank, num_ranks, run):
    warm, state = WarmStart("all", provenance(), lambda name: values(name, ITEMS_THERE)), State()
    warm.run = run if rank == 0 else Path("another run, which has ended meanwhile")
    module = toy_module(seed=3 + rank, server=image_server())
    options = {"max_steps": 2, "callbacks": [warm, state], "enable_checkpointing": False}
    ddp_trainer(rank, num_ranks, ImageServerStrategy, **options).fit(module, ToyData())
    return state.kept, {name: value.detach() for name, value in module.named_parameters()}, warm.report


def test_every_rank_starts_where_the_earlier_run_ended(ranks, tmp_path):
    old, run = earlier(tmp_path)
    answers = ranks.run(2, train, run)
    for kept, parameters, report in answers:
        assert all(torch.equal(kept[name], value) for name, value in old.state_dict().items())
        assert report["taken"]["target.item_id"] == "ids: 29 of 29 rows of target.item_id known"
        assert report == answers[0][2]
        assert all(torch.equal(parameters[name], value) for name, value in answers[0][1].items()), (
            "and they go on alike"
        )
