import multiprocessing

import pytest
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from little_shop import random_shop

from dicm_kit.data.datamodule import ColumnsUsed, CtrDataModule
from dicm_kit.data.packed import pack
from dicm_kit.data.prepare import PrepareOptions, SplitOptions, prepare
from dicm_kit.data.reader import num_steps, read_batches
from dicm_kit.errors import DataError
from dicm_kit.types import Bag

USED = ColumnsUsed(user=("user_id", "likes"), target=("item_id", "price"), context=("queries",), history=("tags",))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    options = PrepareOptions(lanes=2, partitions=2)
    return prepare(random_shop(impressions=400), options, tmp_path_factory.mktemp("shop") / "out", progress=False)


def module(dataset, **changes) -> CtrDataModule:
    return CtrDataModule(dataset, **({"batch_size": 64, "columns": USED, "max_history": 8, "seed": 3} | changes))


def tensors(batch) -> dict[str, torch.Tensor]:
    found = {}
    for name in batch.__dataclass_fields__:
        value = getattr(batch, name)
        for key, column in (value if isinstance(value, dict) else {"": value}).items():
            if isinstance(column, Bag):
                found |= {f"{name}.{key}.values": column.values, f"{name}.{key}.offsets": column.offsets}
            elif column is not None:
                found[f"{name}.{key}"] = column
    return found


def assert_same(left, right) -> None:
    left, right = list(left), list(right)
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        one, other = tensors(one), tensors(other)
        assert one.keys() == other.keys()
        assert all(torch.equal(one[name], other[name]) and one[name].dtype == other[name].dtype for name in one)


def test_a_packed_batch_is_one_block_and_the_same_batch(dataset):
    (batch, *_) = read_batches(dataset, "train", columns=USED, batch_size=64, max_history=8)
    packed = pack(batch)
    assert_same([packed.unpack()], [batch])
    assert len({tensor.untyped_storage().data_ptr() for tensor in tensors(packed.unpack()).values()}) == 1


def test_workers_give_the_same_batches_in_the_same_order_and_leave_nothing_behind(dataset):
    before = set(multiprocessing.active_children())  # the session's pool of ranks
    alone, with_workers = module(dataset), module(dataset, workers=2)
    loader = with_workers.train_dataloader()
    assert len(loader) == num_steps(dataset, "train", 64)
    for _ in range(2):  # persistent workers
        assert_same(loader, alone.train_dataloader())
    with_workers.load_state_dict(alone.state_dict() | {"epoch": 2, "step": 1})
    alone.load_state_dict(alone.state_dict() | {"epoch": 2, "step": 1})
    assert_same(loader, alone.train_dataloader())
    assert len(list(alone.train_dataloader())) == len(loader) - 1
    assert_same(with_workers.test_dataloader(), alone.predict_dataloader())
    with_workers.teardown("fit")
    assert set(multiprocessing.active_children()) == before


def test_val_and_test_are_whole_and_not_shuffled(dataset):
    reading = {"columns": USED, "batch_size": 64, "max_history": 8}
    assert_same(module(dataset).val_dataloader(), read_batches(dataset, "val", **reading))
    assert_same(module(dataset).test_dataloader(), read_batches(dataset, "test", **reading))
    train = read_batches(dataset, "train", **reading, shuffle=True, seed=3)
    assert_same(module(dataset).train_dataloader(), train)


def test_a_dataset_without_a_validation_split(tmp_path):
    options = PrepareOptions(lanes=2, partitions=2, split=SplitOptions(validation=0))
    dataset = prepare(random_shop(impressions=200), options, tmp_path / "out", progress=False)
    assert module(dataset).val_dataloader() == []


def test_what_cannot_be_is_said_at_once(dataset):
    with pytest.raises(DataError, match="batch_size 63 is not a multiple"):
        module(dataset, batch_size=63)
    with pytest.raises(DataError, match="has no target column `colour`"):
        module(dataset, columns=ColumnsUsed(target=("colour",)))


@pytest.mark.parametrize("name", ["batch_size", "seed", "dataset"])
def test_a_position_in_another_order_is_refused(dataset, name):
    state = module(dataset).state_dict() | {name: "another"}
    with pytest.raises(DataError, match=f"the checkpoint was made with {name} another"):
        module(dataset).load_state_dict(state)


# --- under Lightning ---


class Model(LightningModule):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[tuple] = []

    def training_step(self, batch, index):
        self.seen.append((self.current_epoch, index, batch.item_N.tolist()))
        return (self.weight - batch.label_N.mean()) ** 2

    def validation_step(self, batch, index):
        assert batch.num_impressions > 0

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Save(Callback):
    """Saves whenever Lightning's own callback may, and ends the run in the middle, as a kill does."""

    def __init__(self, folder, stop: int):
        self.folder, self.stop = folder, stop

    def on_train_batch_end(self, trainer, module, *_):
        trainer.save_checkpoint(self.folder / f"{trainer.global_step}.ckpt")
        if trainer.global_step == self.stop:
            raise ZeroDivisionError

    def on_validation_end(self, trainer, module):
        if not trainer.sanity_checking:
            trainer.save_checkpoint(self.folder / f"{trainer.global_step} after validation.ckpt")

    def on_train_epoch_end(self, trainer, module):
        trainer.save_checkpoint(self.folder / f"{trainer.global_step} after the epoch.ckpt")


def fit(dataset, folder, workers=0, resume=None, stop=10**9) -> list[tuple]:
    model = Model()
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        max_epochs=3,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        callbacks=[Save(folder, stop)],
    )
    try:
        trainer.fit(model, module(dataset, workers=workers), ckpt_path=resume)
    except ZeroDivisionError:
        assert trainer.global_step == stop
    return model.seen


def test_resumed_from_any_checkpoint_it_reads_the_rest_and_no_more(dataset, tmp_path):
    whole = fit(dataset, tmp_path / "whole")
    steps = num_steps(dataset, "train", 64)
    assert [row[:2] for row in whole] == [(epoch, step) for epoch in range(3) for step in range(steps)]
    assert whole[0][2] != whole[steps][2]
    files = sorted((tmp_path / "whole").iterdir())
    assert len(files) == 3 * steps + 3 + 3
    for file in files:
        done = int(file.stem.split()[0])
        if done < 3 * steps:
            assert fit(dataset, tmp_path / "rest", resume=file) == whole[done:], file.stem


def test_killed_and_resumed_with_workers(dataset, tmp_path):
    before = set(multiprocessing.active_children())
    whole = fit(dataset, tmp_path / "whole", workers=2)
    first = fit(dataset, tmp_path / "cut", workers=2, stop=4)
    rest = fit(dataset, tmp_path / "rest", workers=2, resume=tmp_path / "cut" / "3.ckpt")
    assert first[:3] + rest == whole
    assert set(multiprocessing.active_children()) == before
