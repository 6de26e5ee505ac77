"""Checkpoints: when one is written, and what is in it; those on disk: `checkpoint_files.py`."""

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.rank_zero import rank_zero_only, rank_zero_warn

from dicm_kit.errors import RunError, TrainingError, some
from dicm_kit.exchange.agree import raise_together
from dicm_kit.features.sharded import sharded_tables
from dicm_kit.training.checkpoint_files import Provenance, clear_unfinished
from dicm_kit.training.module import CtrModule
from dicm_kit.training.optimizers import CtrOptimizer
from dicm_kit.training.random_state import random_state, set_random_state
from dicm_kit.training.strategy import ImageServerStrategy
from dicm_kit.training.table_files import read_tables, write_tables
from dicm_kit.whole_file import is_full_disk


class Checkpoints(Checkpoint):
    """Writes `step-<n>.ckpt` every n steps and keeps the newest, `best.ckpt` by `monitor`, `last.ckpt` at the end.

    `last.ckpt` is also written when a training ends by Ctrl-C, a signal or an error, at the last finished step. The
    first Ctrl-C lets the step that is running finish (on several ranks, the next one too, since they stop together); a
    second one does not wait. A checkpoint that is being written is finished in any case.

    A file appears whole or not at all: written aside, synced, renamed. Beside what Lightning keeps it holds, under
    `dicm`, the provenance and every rank's random state; it loads with `weights_only=True`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        every: int,
        keep: int,
        monitor: str | None = None,
        provenance: Provenance | None = None,
        every_minutes: float | None = None,
    ):
        """Takes `monitor` as logged (`val/gauc`); names that end in `loss` are better when lower.

        `every` counts steps; `every_minutes` have one written as well when the last is older.
        """
        assert every > 0, "steps between checkpoints"
        assert keep > 0, "at least the newest is kept"
        super().__init__()
        self.folder, self.every, self.keep, self.monitor = folder, every, keep, monitor
        self.provenance: Provenance = dict(provenance or {})
        self.every_minutes = every_minutes
        self._saved_at = 0.0  # when the last one was written to resume from
        self.best: float | None = None
        self._step = 0  # optimizer steps when the last batch ended
        self._due = False  # a save that waits for a validation or the epoch's end
        self._rng: dict[str, Any] | None = None  # when the last batch ended
        self._rng_to_restore: dict[str, Any] | None = None
        self._rng_before_validation: dict[str, Any] | None = None
        self._in_batch = self._updating = self._accumulating = self._alone = self._writing = False
        self._written_at: int | None = None  # the step that last.ckpt stands at
        self._handler: Any = None
        self._tables: Path | None = None
        """Where the rows of sharded tables are read from, once the ranks know which are theirs."""

    # --- when ---

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Makes the folder, and takes over Ctrl-C."""
        if trainer.is_global_zero:
            self.folder.mkdir(parents=True, exist_ok=True)
            clear_unfinished(self.folder)
        self._read_tables(trainer, pl_module)
        self._step, self._saved_at = trainer.global_step, time.monotonic()
        if threading.current_thread() is threading.main_thread():
            assert isinstance(pl_module, CtrModule), "only our module can be asked to stop"
            self._handler = signal.signal(signal.SIGINT, self._interrupt(pl_module, trainer.world_size))

    def _interrupt(self, module: CtrModule, ranks: int) -> Callable[[int, FrameType | None], None]:
        def handle(signum: int, frame: FrameType | None) -> None:
            # Between steps one rank may stop at once. Several stop together, or one waits for another for ever.
            # Never while torch.save writes: an exception in there ends the process with abort().
            if not self._writing and (module.stop_requested or not (self._in_batch or ranks > 1)):
                signal.default_int_handler(signum, frame)
            module.stop_requested = True
            _tell("Stopping after this step; press Ctrl-C again to stop at once.")

        return handle

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Sets the random state of a resumed run: here, since making the data loader's iterator draws from it."""
        self._in_batch = True
        if self._rng_to_restore is not None:
            set_random_state(self._rng_to_restore, pl_module.device)
            self._rng_to_restore = None

    def on_before_optimizer_step(
        self, trainer: Trainer, pl_module: LightningModule, optimizer: torch.optim.Optimizer
    ) -> None:
        """From here to the batch's end the parameters are between two steps."""
        self._updating = True

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Writes when it is time; ends the training when somebody asked for it."""
        self._in_batch = self._updating = False
        self._rng = random_state(pl_module.device)
        self._accumulating = trainer.global_step == self._step
        if self._accumulating:  # a checkpoint here would lose the gradients gathered so far
            return
        self._step = trainer.global_step
        assert isinstance(pl_module, CtrModule), "only our module can be asked to stop"
        assert pl_module.totals is not None, "a step has ended"
        # Several ranks hear of each other's wish with the next step's totals.
        if pl_module.totals.stop or (pl_module.stop_requested and trainer.world_size == 1):
            self._write(trainer, "last.ckpt")
            raise KeyboardInterrupt
        is_last_batch = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        if self._step == trainer.max_steps and not is_last_batch:
            # Now: when training has ended Lightning counts the epoch as done, and a resume would skip its rest.
            self._write(trainer, "last.ckpt")
        if self._step % self.every == 0 or pl_module.totals.save:
            # Only after a validation that follows, or the end of the epoch: a resume would leave them out.
            loop = trainer.fit_loop
            assert loop._data_fetcher is not None, "a batch has come"
            self._due = is_last_batch or loop.epoch_loop._should_check_val_fx(loop._data_fetcher)
            if not self._due:
                self._write_step(trainer)
        if self.every_minutes is not None and not self._due:  # several ranks agree with the next step's totals
            pl_module.save_requested = time.monotonic() - self._saved_at > 60 * self.every_minutes

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes what became due with the epoch's last step."""
        if self._due:
            self._due = False
            self._write_step(trainer)

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reads the rows of sharded tables."""
        self._read_tables(trainer, pl_module)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Reads the rows of sharded tables."""
        self._read_tables(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keeps the random state, so that training does not depend on when it was validated."""
        self._read_tables(trainer, pl_module)
        self._rng_before_validation = random_state(pl_module.device)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes `best.ckpt` when `monitor` says so."""
        assert self._rng_before_validation is not None, "validation has started"
        set_random_state(self._rng_before_validation, pl_module.device)
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        if self.monitor is not None:
            self._write_best(trainer, self.monitor)
        if trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            return
        if self._due:
            self._due = False
            self._write_step(trainer)
        if trainer.should_stop:  # early, within an epoch: now, as with `max_steps`, or a resume would skip its rest
            self._write(trainer, "last.ckpt")

    def _write_best(self, trainer: Trainer, monitor: str) -> None:
        if monitor not in trainer.callback_metrics:
            known = sorted(name for name in trainer.callback_metrics if name.startswith("val/"))
            raise RunError(
                f"checkpoint.monitor is `{monitor}`, which validation does not log",
                todo=f"Logged: {some(known, 12)}.",
            )
        value = float(trainer.callback_metrics[monitor])
        sign = -1.0 if monitor.endswith("loss") else 1.0
        # NaN is never better.
        if value == value and (self.best is None or sign * value > sign * self.best):
            self.best = value
            self._write(trainer, "best.ckpt")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes `last.ckpt`, where `max_steps` did not end the training within an epoch."""
        if self._written_at != self._step:
            self._write(trainer, "last.ckpt")
        self._give_back_signal()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Writes `last.ckpt` at the last finished step, unless the parameters are not those of a finished step.

        Nor after a TrainingError: a run that diverged is not one to go on with; earlier checkpoints stay.
        """
        if trainer.state.fn != TrainerFn.FITTING:
            return
        if isinstance(exception, TrainingError):
            self._give_back_signal()
            return
        wanted = self._rng is not None and trainer.is_global_zero and self._written_at != self._step
        if wanted and not self._updating and not self._accumulating:
            self._alone = True  # the other ranks may be anywhere
            try:
                if all(bool(torch.isfinite(each).all()) for each in pl_module.parameters()):
                    self._write(trainer, "last.ckpt")
            except (RunError, RuntimeError) as error:  # a full disk, a lost device: the first exception matters more
                rank_zero_warn(f"last.ckpt was not written: {error}")
            finally:
                self._alone = False
        self._give_back_signal()

    def _give_back_signal(self) -> None:
        if self._handler is not None:
            signal.signal(signal.SIGINT, self._handler)
            self._handler = None

    # --- what ---

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Adds `dicm`. All ranks send their random state to all (5 KB); after an error a rank writes only its own."""
        mine = self._rng if self._rng is not None else random_state(pl_module.device)
        states: list[Any] = [mine]
        if trainer.world_size > 1 and not self._alone:
            states = [None] * trainer.world_size
            torch.distributed.all_gather_object(states, mine)
        if self._alone:
            _forget_unfinished_batch(checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"])
        ours = {"provenance": self.provenance, "random_states": states, "best": self.best, "monitor": self.monitor}
        checkpoint["dicm"] = ours

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Takes up the best value and, on the same number of ranks, the random states."""
        ours = checkpoint["dicm"]
        if "tables" in ours:
            assert trainer.ckpt_path is not None, "that is what is loaded"
            self._tables = Path(trainer.ckpt_path).parent / ours["tables"]["folder"]
        if trainer.state.fn != TrainerFn.FITTING:
            return
        self.best = ours["best"] if ours["monitor"] == self.monitor else None  # the recipe may ask for another now
        if len(ours["random_states"]) == trainer.world_size:
            self._rng_to_restore = ours["random_states"][trainer.global_rank]

    def _read_tables(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._tables is not None:
            optimizer = trainer.optimizers[0] if trainer.state.fn == TrainerFn.FITTING else None
            assert optimizer is None or isinstance(optimizer, CtrOptimizer), "our module makes no other"
            error = None
            try:
                read_tables(pl_module, optimizer, self._tables)
            except RunError as mine:
                error = mine
            self._tables = None
            if trainer.world_size > 1:
                raise_together(error)
            elif error is not None:
                raise error

    # --- where ---

    def _write_step(self, trainer: Trainer) -> None:
        self._write(trainer, f"step-{self._step:09d}.ckpt")
        self._saved_at = time.monotonic()
        module = trainer.lightning_module
        assert isinstance(module, CtrModule), "only our module can be asked to save"
        module.save_requested = False
        if trainer.is_global_zero:
            for old in sorted(self.folder.glob("step-*.ckpt"))[: -self.keep]:
                old.unlink()
                for tables in self.folder.glob(f"{old.stem}-*.tables"):
                    shutil.rmtree(tables)

    def _write(self, trainer: Trainer, name: str) -> None:
        """Called by every rank; rank 0 writes. Not `trainer.save_checkpoint`: its barrier waits for dead ranks."""
        strategy, module = trainer.strategy, trainer.lightning_module
        self._writing = True
        try:
            with strategy.phase("checkpoint") if isinstance(strategy, ImageServerStrategy) else nullcontext():
                self._write_whole(trainer, name)
        finally:
            self._writing = False
        if trainer.world_size == 1 and not self._alone and getattr(module, "stop_requested", False):
            raise KeyboardInterrupt  # pressed meanwhile

    def _write_whole(self, trainer: Trainer, name: str) -> None:
        tables = self._write_tables(trainer, name)
        checkpoint = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
        if name == "last.ckpt":
            self._written_at = self._step
        if not trainer.is_global_zero:
            return
        if tables is not None:
            of = sharded_tables(trainer.lightning_module)
            sizes = {name: [table.num_rows, table.dim] for name, table in of.items()}
            checkpoint["dicm"]["tables"] = {"folder": tables.name, "sizes": sizes}
            _forget_sharded(checkpoint["optimizer_states"][0]["state"], trainer)
        aside = self.folder / f".{name}.tmp"
        try:
            with aside.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(self.folder / name)
        except (OSError, RuntimeError) as error:
            aside.unlink(missing_ok=True)
            if isinstance(error, RuntimeError) and not is_full_disk(error):
                raise
            raise _not_written(self.folder / name, error) from error
        for old in self.folder.glob(f"{name.removesuffix('.ckpt')}-*.tables"):
            if old != tables:
                shutil.rmtree(old)

    def _write_tables(self, trainer: Trainer, name: str) -> Path | None:
        """Writes the rows of sharded tables: each rank its own, whole before the checkpoint that names them."""
        module = trainer.lightning_module
        if not sharded_tables(module):
            return None
        if self._alone and trainer.world_size > 1:
            raise RunError("not all rows of sharded tables can be had", where=str(self.folder / name))
        folder = self.folder / f"{name.removesuffix('.ckpt')}-{self._step:09d}.tables"
        aside = folder.with_name(f".{folder.name}.tmp")
        error = None
        try:
            write_tables(module, trainer.optimizers[0], aside)
        except OSError as cause:
            error = _not_written(folder, cause)
        try:
            if trainer.world_size > 1:
                raise_together(error)  # and all files are there
            elif error is not None:
                raise error
        except RunError:
            if trainer.is_global_zero:  # no rank writes any more
                shutil.rmtree(aside, ignore_errors=True)
            raise
        if trainer.is_global_zero:
            before = folder.with_name(f".{folder.name}.old")
            if folder.exists():  # the same step is written again: the checkpoint that names it is not without for long
                folder.replace(before)
            aside.replace(folder)
            shutil.rmtree(before, ignore_errors=True)
        return folder


def _not_written(path: Path, error: Exception) -> RunError:
    why = "No space left on device" if is_full_disk(error) else getattr(error, "strerror", None) or error
    return RunError(
        f"could not be written: {why}",
        where=str(path),
        todo="Make room or choose another run_dir, then go on with --resume.",
    )


def _forget_sharded(state: dict[int, Any], trainer: Trainer) -> None:
    """Takes rank 0's rows out of the optimizer's part of a checkpoint."""
    apart = {id(table.weight) for table in sharded_tables(trainer.lightning_module).values()}
    parameters = [each for group in trainer.optimizers[0].param_groups for each in group["params"]]
    for index, parameter in enumerate(parameters):
        if id(parameter) in apart:
            state.pop(index, None)


@rank_zero_only
def _tell(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _forget_unfinished_batch(progress: dict[str, Any]) -> None:
    """Makes Lightning's counters those of the last finished batch, as they are between two batches."""
    for counts in (progress["total"], progress["current"]):
        counts["ready"] = counts["started"] = counts["completed"] = counts["processed"]
