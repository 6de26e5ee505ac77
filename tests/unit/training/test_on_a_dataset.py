"""Training on a prepared dataset through its data module: every column kind, resumed in the middle of an epoch."""

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from little_shop import random_shop

from dicm_kit.data.datamodule import ColumnsUsed, CtrDataModule
from dicm_kit.data.prepare import PrepareOptions, prepare
from dicm_kit.features.encoders import HashEncoder, IdEncoder, IdsEncoder, NumberEncoder
from dicm_kit.interest.attention import Attention
from dicm_kit.interfaces import NetShapes
from dicm_kit.nets.mlp import EmbeddingMlp
from dicm_kit.training.checkpoint import Checkpoints
from dicm_kit.training.checkpoint_files import CHECKPOINTS, read_checkpoint
from dicm_kit.training.module import CtrModule
from dicm_kit.training.optimizers import OptimizerPlan
from dicm_kit.training.slices import TargetSlices

USED = ColumnsUsed(
    user=("user_id", "likes"),
    target=("item_id", "price", "shop", "tags"),
    context=("hour",),
    history=("item_id", "tags"),
    target_picture=False,
    history_picture=False,
)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    options = PrepareOptions(lanes=4, partitions=2)
    return prepare(random_shop(impressions=900), options, tmp_path_factory.mktemp("shop") / "out", progress=False)


def model(dataset):
    def ids(kind, side, name):
        return kind(getattr(dataset, side)[name].num_ids, 4)

    items, tags = ids(IdEncoder, "item", "item_id"), ids(IdsEncoder, "item", "tags")
    encoders = {
        "user": {"user_id": ids(IdEncoder, "user", "user_id"), "likes": ids(IdsEncoder, "user", "likes")},
        "target": {"item_id": items, "price": NumberEncoder(4, "log1p"), "shop": HashEncoder(4, 50), "tags": tags},
        "context": {"hour": ids(IdEncoder, "context", "hour")},
        "history": {"item_id": items, "tags": tags},
    }
    aggregator = Attention(("item_id", "tags"), (4, 4), ("target.item_id", "target.tags"), (4, 4), (8,))
    sides = {side: {name: each.out_dim for name, each in of.items()} for side, of in encoders.items()}
    net = EmbeddingMlp(NetShapes(image=None, interest={"ids": aggregator.out_dim}, **sides), (16,), dropout=0.2)
    return CtrModule(
        encoders=encoders,
        server=None,
        image_target=False,
        image_history=False,
        interest={"ids": aggregator},
        net=net,
        optimizer=OptimizerPlan(decay_every=5),
        slices=TargetSlices(dataset.items["train_count"].to_numpy()),
    )


class Seen(Callback):
    """Notes what every training batch holds."""

    def __init__(self):
        self.rows = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        rows = zip(batch.user_id_N.tolist(), batch.item_N.tolist(), batch.label_N.tolist(), strict=True)
        self.rows.append((trainer.current_epoch, sorted(rows)))


def train(dataset, run_dir, seed=0, resume=None, workers=0):
    torch.manual_seed(seed)
    module, seen = model(dataset), Seen()
    data = CtrDataModule(dataset, batch_size=64, columns=USED, max_history=6, seed=3, workers=workers)
    trainer = Trainer(
        accelerator="cpu", devices=1, max_epochs=2, num_sanity_val_steps=0, logger=False, enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Checkpoints(run_dir / CHECKPOINTS, every=3, keep=99, monitor="val/gauc"), seen],
    )  # fmt: skip
    torch.manual_seed(seed)
    trainer.fit(module, data, ckpt_path=resume, weights_only=True)
    return trainer, module, data, seen.rows


def test_resumed_in_the_middle_of_an_epoch_it_ends_with_the_same_bits(dataset, tmp_path):
    trainer, whole, data, rows = train(dataset, tmp_path / "whole")
    steps = trainer.num_training_batches
    assert steps > 5
    assert len(rows) == 2 * steps
    for step in (3, 3 * ((steps + 5) // 3)):  # in the first and in the second epoch
        path = tmp_path / "whole" / CHECKPOINTS / f"step-{step:09d}.ckpt"
        assert read_checkpoint(path)["CtrDataModule"]["step"] == step % steps
        for workers in (0, 1):
            again, module, _, rest = train(
                dataset, tmp_path / f"{step}-{workers}", seed=1, resume=path, workers=workers
            )
            assert rest == rows[step:]
            assert again.global_step == 2 * steps
            for name, value in whole.named_parameters():
                assert torch.equal(value, dict(module.named_parameters())[name]), name
            assert module.results == whole.results
    trainer.test(whole, data, verbose=False)
    results = whole.results["test"]
    assert results["impressions"] == dataset.splits["test"].impressions
    assert results["log_loss"] < 1.0
