"""Ends a training that no longer gets better."""

from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.trainer.states import TrainerFn


class EarlyStop(Callback):
    """Ends the training after `patience` validations in a row that did not improve `monitor` by more than `min_delta`.

    Improvements are counted from the last one, so that many small ones add up; NaN is none. All ranks see the same
    metric and end together. Its count is in every checkpoint: a run that goes on counts on, and one that was ended so
    ends again at once, unless it is given more patience. What counts is `best.ckpt`, as always.
    """

    def __init__(self, monitor: str, patience: int, min_delta: float = 0.0):
        """Takes `monitor` as logged (`val/gauc`); names that end in `loss` are better when lower."""
        super().__init__()
        assert patience > 0, "the recipe check lets no other pass"
        self.monitor, self.patience, self.min_delta = monitor, patience, min_delta
        self.best: float | None = None
        self.waited = 0
        """Validations since the best."""
        self.step: int | None = None
        """Of the last validation that was counted: one that a resume repeats is not counted twice."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ends a resumed run that has waited enough."""
        if self.waited >= self.patience:
            self._stop(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Counts; before `Checkpoints` writes, which Lightning calls last."""
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking or trainer.global_step == self.step:
            return
        if self.monitor not in trainer.callback_metrics:  # `Checkpoints` says so
            return
        self.step = trainer.global_step
        value = float(trainer.callback_metrics[self.monitor])
        sign = -1.0 if self.monitor.endswith("loss") else 1.0
        if value == value and (self.best is None or sign * (value - self.best) > self.min_delta):
            self.best, self.waited = value, 0
            return
        self.waited += 1
        if self.waited >= self.patience:
            self._stop(trainer)

    def _stop(self, trainer: Trainer) -> None:
        best = "it was never a number" if self.best is None else f"it was {self.best:.4f}"
        if trainer.is_global_zero:
            print(f"Stopping early: no better {self.monitor} in {self.waited} validations; {best}.")
        trainer.should_stop = True

    def state_dict(self) -> dict[str, Any]:
        """Returns the count."""
        return {"monitor": self.monitor, "best": self.best, "waited": self.waited, "step": self.step}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Counts on; of another metric, which the recipe may ask for now, nothing is known yet."""
        if state_dict["monitor"] == self.monitor:
            self.best, self.waited, self.step = state_dict["best"], state_dict["waited"], state_dict["step"]
