"""Lightning's door to the dataset: batches of every split, read by workers, and the position that a resume needs."""

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from lightning.pytorch import LightningDataModule
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from dicm_kit.data.collate import ColumnsUsed, ItemTables
from dicm_kit.data.dataset import Dataset, Split
from dicm_kit.data.packed import Packed, pack
from dicm_kit.data.reader import check_ranks, num_steps, read_batches, slice_size
from dicm_kit.errors import DataError
from dicm_kit.exchange.agree import all_same
from dicm_kit.types import Batch

__all__ = ["BatchLoader", "ColumnsUsed", "CtrDataModule"]

_PREFETCH = 4  # batches that each worker has ready


class LooksAhead(Protocol):
    """Whoever can begin with a batch while the one before it is computed."""

    def look_ahead(self, batch: Batch) -> Batch:
        """Begins; called in the order of the batches."""

    def end_look_ahead(self) -> None:
        """No batch comes any more."""


class CtrDataModule(LightningDataModule):
    """Batches of a prepared dataset. Rank and number of ranks come from the trainer; without one, all data is read.

    `batch_size` counts impressions over all ranks. `ahead`, the `CtrModule`, gets each batch one batch early. A
    checkpoint holds the position (epoch, step); it is valid on any number of ranks.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        batch_size: int,
        columns: ColumnsUsed,
        max_history: int,
        seed: int,
        workers: int = 0,
        ahead: LooksAhead | None = None,
    ):
        super().__init__()
        slice_size(dataset, batch_size)
        columns.check(dataset)
        self.dataset, self.batch_size, self.columns = dataset, batch_size, columns
        self.max_history, self.seed, self.workers, self.ahead = max_history, seed, workers, ahead
        self._resume = (0, 0)  # epoch and step of the next training batch after a load_state_dict
        self._tables: ItemTables | None = None
        self._loaders: list[BatchLoader] = []

    def setup(self, stage: str) -> None:
        """Looks whether all ranks have the same dataset; DicmError, the same on each, when not."""
        if self.trainer is not None and self.trainer.world_size > 1:
            all_same("the datasets of the ranks", self.dataset.fingerprint)

    def train_dataloader(self) -> "BatchLoader":
        """The training split, in an order by (seed, epoch)."""
        return self._loader("train", shuffle=True)

    def val_dataloader(self) -> "BatchLoader | list[BatchLoader]":
        """The whole validation split in the order of the files; nothing when the dataset has none."""
        return self._loader("val") if self.dataset.splits["val"].impressions else []

    def test_dataloader(self) -> "BatchLoader":
        """The whole test split in the order of the files."""
        return self._loader("test")

    def predict_dataloader(self) -> "BatchLoader":
        """The same as for test."""
        return self._loader("test")

    def teardown(self, stage: str) -> None:
        """Ends the workers; Lightning calls it at the end of a fit or test."""
        if self.ahead is not None:
            self.ahead.end_look_ahead()
        for loader in self._loaders:
            loader.close()
        self._loaders.clear()

    def on_exception(self, exception: BaseException) -> None:
        """Ends the workers; Lightning calls it when a run fails or is interrupted."""
        self.teardown("")

    def position(self) -> tuple[int, int]:
        """Returns (epoch, step) of the next training batch."""
        if self.trainer is None:
            return self._resume
        epoch = self.trainer.current_epoch
        progress = self.trainer.fit_loop.epoch_loop.batch_progress.current
        # `processed`, since checkpoints are written between a batch's end and its `completed`
        step = progress.processed  # type: ignore[attr-defined]
        return (epoch, step) if step else max(self._resume, (epoch, 0))

    def state_dict(self) -> dict[str, Any]:
        """Returns the position, and what it is a position in."""
        epoch, step = self.position()
        return {"epoch": epoch, "step": step, **self._identity()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on at the position; DataError when it is one in another dataset or another order."""
        for name, here in self._identity().items():
            if state_dict[name] != here:
                raise DataError(
                    f"the checkpoint was made with {name} {state_dict[name]}, not {here}",
                    where=str(self.dataset.folder),
                    todo="A run can only be resumed with the data and the order that it was begun with.",
                )
        self._resume = state_dict["epoch"], state_dict["step"]

    def _identity(self) -> dict[str, Any]:
        return {"dataset": self.dataset.fingerprint, "batch_size": self.batch_size, "seed": self.seed}

    def _loader(self, split: Split, shuffle: bool = False) -> "BatchLoader":
        if self._tables is None:  # once for all loaders, and before workers are forked
            self._tables = ItemTables.read(self.dataset, self.columns)
        trainer = self.trainer
        loader = BatchLoader(
            self,
            split,
            tables=self._tables,
            rank=trainer.global_rank if trainer else 0,
            num_ranks=trainer.world_size if trainer else 1,
            pin_memory=trainer is not None and trainer.strategy.root_device.type == "cuda",
            shuffle=shuffle,
        )
        self._loaders.append(loader)
        return loader

    def start(self, shuffle: bool) -> tuple[int, int]:
        """Returns (epoch, step) at which a loader that is iterated now begins."""
        if not shuffle:
            return 0, 0
        epoch = self.trainer.current_epoch if self.trainer else self._resume[0]
        return epoch, self._resume[1] if self._resume[0] == epoch else 0


class BatchLoader:
    """Iterates over the batches of a split, from the position on; its length is that of the whole epoch.

    With workers, worker w of W makes batches w, w + W, ...; they come in order, packed into one block of memory each.
    """

    def __init__(
        self,
        module: CtrDataModule,
        split: Split,
        *,
        tables: ItemTables,
        rank: int,
        num_ranks: int,
        pin_memory: bool,
        shuffle: bool,
    ):
        self._module, self._shuffle, self._pin = module, shuffle, pin_memory
        check_ranks(module.dataset, num_ranks)
        self._steps = num_steps(module.dataset, split, module.batch_size)
        self._reading: dict[str, Any] = {
            "dataset": module.dataset,
            "split": split,
            "columns": module.columns,
            "batch_size": module.batch_size,
            "max_history": module.max_history,
            "rank": rank,
            "num_ranks": num_ranks,
            "shuffle": shuffle,
            "seed": module.seed,
            "tables": tables,
        }
        self._start = torch.zeros(2, dtype=torch.int64)  # epoch and step, seen by workers
        self._workers: DataLoader[Packed] | None = None

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[Batch]:
        ahead, batches = self._module.ahead, self._read()
        if ahead is None:
            yield from batches
            return
        before = None
        for batch in batches:
            begun = ahead.look_ahead(batch)
            if before is not None:
                yield before
            before = begun
        if before is not None:
            yield before

    def _read(self) -> Iterator[Batch]:
        # the first lines run when the first batch is asked for: Lightning sets the epoch after it called iter()
        epoch, step = self._module.start(self._shuffle)
        if not self._module.workers:
            for batch in read_batches(**self._reading, epoch=epoch, start_step=step):
                yield batch.pin_memory() if self._pin else batch
            return
        if self._workers is None:
            self._workers = DataLoader(
                _WorkerStream(self._reading, self._start.share_memory_()),
                batch_size=None,
                num_workers=self._module.workers,
                persistent_workers=True,
                prefetch_factor=_PREFETCH,
                pin_memory=self._pin,
            )
        self._start[:] = torch.tensor([epoch, step])
        for packed in self._workers:
            yield packed.unpack()

    def close(self) -> None:
        """Ends the workers."""
        if self._workers is not None and self._workers._iterator is not None:
            # torch ends persistent workers when nobody holds them; Lightning holds the iteration of a failed run
            self._workers._iterator._shutdown_workers()  # type: ignore[attr-defined]
        self._workers = None

    def state_dict(self) -> dict[str, Any]:
        """Says to Lightning that it can be resumed in the middle; the position is in the data module's state."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Does nothing: see `state_dict`."""


class _WorkerStream(IterableDataset[Packed]):
    def __init__(self, reading: dict[str, Any], start: torch.Tensor):
        self._reading, self._start = reading, start

    def __iter__(self) -> Iterator[Packed]:
        import pyarrow as pa

        info = get_worker_info()
        assert info is not None
        torch.set_num_threads(1)
        pa.set_cpu_count(1)
        epoch, step = self._start.tolist()
        batches = read_batches(**self._reading, epoch=epoch, start_step=step + info.id, every=info.num_workers)
        return map(pack, batches)
