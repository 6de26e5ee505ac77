"""Early stopping: when it ends a training, and what a run that goes on knows of it."""

import signal

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from toy import ToyData, toy_module

from dicm_kit.training.checkpoint import Checkpoints
from dicm_kit.training.checkpoint_files import read_checkpoint
from dicm_kit.training.early_stop import EarlyStop

SCORES = {2: 0.5, 4: 0.6, 6: 0.55, 8: 0.605, 10: 0.62, 12: 0.1}
"""By step; the first epoch ends with step 6."""


class Scores(Callback):
    """Logs made-up metrics."""

    def __init__(self, scores):
        self.scores = scores

    def on_validation_epoch_end(self, trainer, module):
        score = self.scores[trainer.global_step]
        module.log("val/score", score)
        module.log("val/some_loss", 1 - score)


class Killed(Callback):
    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if trainer.global_step == self.step:
            raise ZeroDivisionError


@pytest.fixture(autouse=True)
def _signals():
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


def fit(folder, stop, *callbacks, resume=None, scores=SCORES):
    torch.manual_seed(0)
    writer = Checkpoints(folder, every=2, keep=99, monitor=stop.monitor)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "num_sanity_val_steps": 0}
    trainer = Trainer(
        accelerator="cpu",
        devices=1,
        max_epochs=2,
        val_check_interval=2,
        callbacks=[stop, writer, Scores(scores), *callbacks],
        **quiet,
    )
    data = ToyData(steps=6)
    trainer.fit(toy_module(), data, ckpt_path=resume, weights_only=True)
    return trainer.global_step, data.seen


@pytest.mark.parametrize("monitor", ["val/score", "val/some_loss"])
@pytest.mark.parametrize(
    ("patience", "min_delta", "ends"),
    [(1, 0.0, 6), (2, 0.0, 12), (2, 0.01, 8), (3, 0.01, 12), (2, 0.5, 6), (1, 0.15, 4)],
)
def test_by_hand(tmp_path, monitor, patience, min_delta, ends):
    # .5, .6, .55, .605, .62: .605 is better than .6, but not by .01; .62 is
    assert fit(tmp_path, EarlyStop(monitor, patience, min_delta))[0] == ends
    best = read_checkpoint(tmp_path / "best.ckpt")["global_step"]
    assert best == max((step for step in SCORES if step <= ends), key=SCORES.get)
    assert read_checkpoint(tmp_path / "last.ckpt")["global_step"] == ends


def test_nan_is_no_improvement(tmp_path):
    assert fit(tmp_path, EarlyStop("val/score", 2), scores={2: float("nan"), 4: float("nan")})[0] == 4


@pytest.mark.parametrize("killed_at", [5, 6, 7])
def test_a_run_that_goes_on_counts_on(tmp_path, killed_at):
    with pytest.raises(ZeroDivisionError):
        fit(tmp_path, EarlyStop("val/score", 2, 0.01), Killed(killed_at))
    newest = sorted(tmp_path.glob("step-*.ckpt"))[-1]
    assert fit(tmp_path, EarlyStop("val/score", 2, 0.01), resume=newest)[0] == 8


def test_a_run_that_was_ended_ends_again_unless_it_gets_more_patience(tmp_path):
    fit(tmp_path, EarlyStop("val/score", 2, 0.01))
    last = tmp_path / "last.ckpt"
    for _ in range(2):
        stop = EarlyStop("val/score", 2, 0.01)
        assert fit(tmp_path, stop, resume=last) == (8, [])
        assert stop.waited == 2
        assert read_checkpoint(last)["global_step"] == 8
    steps = [(1, step) for step in range(2, 6)]  # the rest of the second epoch, each batch once
    assert fit(tmp_path, EarlyStop("val/score", 3, 0.01), resume=last) == (12, steps)


def test_another_metric_starts_anew(tmp_path):
    fit(tmp_path, EarlyStop("val/score", 2, 0.01))
    stop = EarlyStop("val/some_loss", 2, 0.01)
    assert fit(tmp_path, stop, resume=tmp_path / "last.ckpt")[0] == 12
