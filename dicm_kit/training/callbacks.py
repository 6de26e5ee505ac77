"""What a training shows while it runs: loss and impressions per second."""

import sys
import time
from typing import Any, TextIO

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.trainer.states import RunningStage, TrainerFn
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from dicm_kit.training.module import CtrModule

_REFRESH = 0.2  # seconds


class CtrProgress(ProgressBar):
    """A bar per epoch, validation and test, on rank 0; where the output is no terminal, one line per validation.

    Impressions per second count those of all ranks, since the bar's start, without the time of validations.
    """

    def __init__(self, stream: TextIO | None = None):
        """Takes where to write to; None: the standard output."""
        super().__init__()
        self.console = Console(file=stream if stream is not None else sys.stdout)
        self._enabled = True
        self._bar: Progress | None = None
        self._task: TaskID | None = None
        self._text = ""
        self._impressions = 0
        self._seconds = 0.0
        self._since: float | None = None
        self._shown = 0.0

    @property
    def impressions_per_second(self) -> float:
        """Training speed since the run's start, all ranks together; 0 before the first step has ended."""
        return self._impressions / self.seconds if self._impressions and self.seconds > 0 else 0.0

    @property
    def seconds(self) -> float:
        """How long it has trained since the run's start, without validations."""
        return self._seconds + (time.monotonic() - self._since if self._since is not None else 0.0)

    def disable(self) -> None:
        """Lightning silences ranks other than 0 with it."""
        self._enabled = False

    def enable(self) -> None:
        """The opposite of `disable`."""
        self._enabled = True

    # --- training ---

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Opens the epoch's bar."""
        self._open_epoch(trainer)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Opens the bar of an epoch that is resumed in its middle, which has no start."""
        if self._since is None:
            self._open_epoch(trainer)

    def _open_epoch(self, trainer: Trainer) -> None:
        epochs = f"/{trainer.max_epochs}" if trainer.max_epochs and trainer.max_epochs > 0 else ""
        self._open(f"epoch {trainer.current_epoch + 1}{epochs}", self.total_train_batches)
        self._since = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Counts the step's impressions and moves the bar."""
        if isinstance(pl_module, CtrModule) and pl_module.totals is not None:
            self._impressions += pl_module.totals.impressions
            self._text = f"loss {pl_module.totals.loss:.4f}  {self.impressions_per_second:,.0f} impressions/s"
            self._move(batch_idx + 1, self._text)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Closes the epoch's bar."""
        self._pause()
        self._close()

    # --- validation and test ---

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops the clock of training."""
        self._pause()

    def on_validation_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Opens a bar, where validation is not part of an epoch's."""
        if batch_idx == 0 and trainer.state.fn == TrainerFn.VALIDATING:
            self._open("validation", sum(trainer.num_val_batches))

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *args: Any
    ) -> None:
        """Moves the bar."""
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._move(batch_idx + 1, "")
        else:
            self._move(None, f"validating {batch_idx + 1}/{sum(trainer.num_val_batches)}")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Writes the line of the validation."""
        if trainer.state.stage == RunningStage.SANITY_CHECKING:
            return
        if self._enabled and isinstance(pl_module, CtrModule) and "val" in pl_module.results:
            self._line(trainer, pl_module.results["val"])
        if trainer.state.fn == TrainerFn.VALIDATING:
            self._close()
        else:
            self._since = time.monotonic()
            self._move(None, self._text)

    def on_test_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Opens the test's bar."""
        if batch_idx == 0:
            self._open("test", sum(trainer.num_test_batches))

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *args: Any
    ) -> None:
        """Moves the test's bar."""
        self._move(batch_idx + 1, "")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Closes the test's bar."""
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Gives the terminal back."""
        self._close()

    # --- the bar ---

    def _line(self, trainer: Trainer, results: dict[str, float]) -> None:
        shown = "  ".join(f"{name} {results[name]:.4f}" for name in ("gauc", "auc", "log_loss", "calibration"))
        speed = f"  {self.impressions_per_second:,.0f} impressions/s" if self._impressions else ""
        (self._bar.console if self._bar else self.console).print(
            f"epoch {trainer.current_epoch + 1}  step {trainer.global_step}  {shown}{speed}",
            highlight=False,
            soft_wrap=True,
        )

    def _open(self, name: str, total: int | float) -> None:
        self._close()
        if not self._enabled or not self.console.is_terminal:
            return
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),  # what the rest leaves
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
            console=self.console,
            expand=True,
            auto_refresh=False,  # its thread would wake up beside the training's
        )
        self._bar.start()
        self._task = self._bar.add_task(name, total=None if total == float("inf") else total, text="")
        self._shown = 0.0

    def _move(self, done: int | None, text: str) -> None:
        if self._bar is None or self._task is None:
            return
        self._bar.update(self._task, completed=done, text=text)
        if time.monotonic() - self._shown > _REFRESH:
            self._bar.refresh()
            self._shown = time.monotonic()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.refresh()
            self._bar.stop()
            self._bar = self._task = None

    def _pause(self) -> None:
        if self._since is not None:
            self._seconds += time.monotonic() - self._since
            self._since = None
