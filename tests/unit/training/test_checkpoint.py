import errno
import io
import os
import signal
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from toy import ToyData, toy_module

from dicm_kit.errors import RunError, TrainingError
from dicm_kit.training.callbacks import CtrProgress
from dicm_kit.training.checkpoint import Checkpoints
from dicm_kit.training.checkpoint_files import (
    CHECKPOINTS,
    check_provenance,
    clear_unfinished,
    find_resumable,
    read_checkpoint,
    told,
)
from dicm_kit.training.optimizers import CtrOptimizer, OptimizerPlan

PLAN = OptimizerPlan(dense_lr=1e-2, ids_lr=1e-2, decay_every=4, decay_factor=0.5, ids_l2=0.1, weight_decay=0.01)
PROVENANCE = {"recipe": "dicm: 1\n", "vocabularies": {"item_id": "abc"}, "plugins": {"dicm-x": "0.2"}, "hook_api": 1}


@pytest.fixture(autouse=True)
def _signals():
    """Lightning ignores Ctrl-C for good once it has seen one."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


def make(run_dir, *callbacks, every=2, keep=99, monitor=None, seed=0, **options):
    torch.manual_seed(seed)
    writer = Checkpoints(run_dir / CHECKPOINTS, every=every, keep=keep, monitor=monitor, provenance=PROVENANCE)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    defaults = {"accelerator": "cpu", "devices": 1, "max_epochs": 2, "num_sanity_val_steps": 0, **quiet}
    trainer = Trainer(callbacks=[writer, *callbacks], **{**defaults, **options})
    module, data = toy_module(PLAN, seed=seed, dropout=0.3), ToyData(steps=6)
    torch.manual_seed(seed)  # what dropout draws from
    return trainer, module, data, writer


def fit(run_dir, *callbacks, resume=None, **options):
    trainer, module, data, writer = make(run_dir, *callbacks, seed=1 if resume else 0, **options)
    trainer.fit(module, data, ckpt_path=resume, weights_only=True)
    return trainer, module, data, writer


def parameters(module):
    return {name: value.detach().clone() for name, value in module.named_parameters()}


def assert_same_bits(module, expected):
    for name, value in module.named_parameters():
        assert torch.equal(value, expected[name]), name


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A training that was never stopped: 2 epochs of 6 steps, a checkpoint every 2, validation after each epoch."""
    run_dir = tmp_path_factory.mktemp("whole")
    trainer, module, data, _ = fit(run_dir, monitor="val/log_loss")
    assert trainer.global_step == 12
    return run_dir, parameters(module), data.seen, dict(module.results["val"])


ALL_STEPS = [(epoch, step) for epoch in (0, 1) for step in range(6)]


@pytest.mark.parametrize("step", [2, 4, 6, 8, 10, 12])
def test_resumed_anywhere_it_ends_with_the_same_bits(whole, tmp_path, step):
    run_dir, expected, seen, results = whole
    assert seen == ALL_STEPS
    path = run_dir / CHECKPOINTS / f"step-{step:09d}.ckpt"
    stream = io.StringIO()
    trainer, module, data, _ = fit(tmp_path, CtrProgress(stream), resume=path, enable_progress_bar=True)
    assert trainer.global_step == 12
    assert " 0 impressions/s" not in stream.getvalue()  # in the middle of an epoch, too
    assert data.seen == ALL_STEPS[step:]  # every batch of the epoch exactly once
    assert_same_bits(module, expected)
    if step < 12:
        assert module.results["val"] == results


def test_resumed_from_best_and_last(whole, tmp_path):
    run_dir, expected, _, _ = whole
    best = read_checkpoint(run_dir / CHECKPOINTS / "best.ckpt")
    assert best["global_step"] in (6, 12)
    _, module, data, _ = fit(tmp_path, resume=run_dir / CHECKPOINTS / "best.ckpt")
    assert_same_bits(module, expected)
    trainer, module, data, _ = fit(tmp_path, resume=run_dir / CHECKPOINTS / "last.ckpt")
    assert (trainer.global_step, data.seen) == (12, [])
    assert_same_bits(module, expected)


@pytest.mark.parametrize("step", [2, 4, 6, 8])
def test_validation_in_the_middle_of_an_epoch_changes_nothing(whole, tmp_path, step):
    _, expected, _, _ = whole
    _, module, _, _ = fit(tmp_path / "a", val_check_interval=2, monitor="val/auc")
    assert_same_bits(module, expected)
    _, module, data, _ = fit(
        tmp_path / "b", resume=tmp_path / f"a/checkpoints/step-{step:09d}.ckpt", val_check_interval=2
    )
    assert data.seen == ALL_STEPS[step:]
    assert_same_bits(module, expected)
    best = tmp_path / "a/checkpoints/best.ckpt"
    _, module, data, _ = fit(tmp_path / "c", resume=best, val_check_interval=2)
    assert data.seen == ALL_STEPS[read_checkpoint(best)["global_step"] :]
    assert_same_bits(module, expected)


class At(Callback):
    """Does something when step `step` (counted from 0) begins, at `hook`."""

    def __init__(self, hook, step, action):
        def act(trainer, *args):
            if trainer.global_step == step and not self.done:
                self.done = True
                action()

        self.done = False
        setattr(self, hook, act)


def press_ctrl_c():
    os.kill(os.getpid(), signal.SIGINT)


def fail():
    raise ValueError("boom")


@pytest.mark.parametrize("step", [0, 3, 5])
def test_ctrl_c_lets_the_step_finish(whole, tmp_path, step):
    trainer, module, data, _ = make(tmp_path, At("on_before_zero_grad", step, press_ctrl_c), every=50)
    with pytest.raises(SystemExit):
        trainer.fit(module, data)
    path = find_resumable(tmp_path)
    assert path == tmp_path / CHECKPOINTS / "last.ckpt"
    assert read_checkpoint(path)["global_step"] == step + 1
    _, module, data, _ = fit(tmp_path / "again", resume=path)
    assert data.seen == ALL_STEPS[step + 1 :]
    assert_same_bits(module, whole[1])


@pytest.mark.parametrize("hook", ["on_train_batch_start", "on_before_zero_grad", "on_validation_batch_end"])
@pytest.mark.parametrize("end", [fail, lambda: signal.default_int_handler(signal.SIGINT, None)])
def test_an_error_leaves_the_last_finished_step(whole, tmp_path, hook, end):
    step = 6 if hook.startswith("on_validation") else 4
    trainer, module, data, _ = make(tmp_path, At(hook, step, end), every=50)
    with pytest.raises((ValueError, SystemExit)):
        trainer.fit(module, data)
    path = find_resumable(tmp_path)
    assert read_checkpoint(path)["global_step"] == step
    _, module, data, _ = fit(tmp_path / "again", resume=path)
    assert data.seen == ALL_STEPS[step:]
    assert_same_bits(module, whole[1])
    assert module.results["val"] == whole[3]


def test_an_error_within_the_optimizer_step_leaves_no_last(tmp_path, monkeypatch):
    trainer, module, data, _ = make(tmp_path)
    trained = []
    step_rows = CtrOptimizer._step_rows

    def fail_at_the_second_table_of_step_4(self, table, group):
        trained.append(table)
        step_rows(self, table, group)
        if len(trained) == 3 * 3 + 2:
            fail()

    monkeypatch.setattr(CtrOptimizer, "_step_rows", fail_at_the_second_table_of_step_4)
    with pytest.raises(ValueError, match="boom"):
        trainer.fit(module, data)
    assert sorted(path.name for path in (tmp_path / CHECKPOINTS).iterdir()) == ["step-000000002.ckpt"]


def test_parameters_that_are_no_numbers_are_not_kept(tmp_path):
    trainer, module, data, _ = make(tmp_path, every=50)

    def spoil():
        with torch.no_grad():
            module.net.logit.bias.fill_(torch.nan)

    trainer.callbacks.insert(0, At("on_train_batch_start", 3, spoil))
    with pytest.raises(TrainingError, match="step 4: the loss is nan"):
        trainer.fit(module, data)
    assert find_resumable(tmp_path) is None


def test_keeps_the_newest_and_the_best(tmp_path):
    trainer, _, _, writer = fit(tmp_path, every=2, keep=2, monitor="val/gauc", val_check_interval=3)
    names = sorted(path.name for path in (tmp_path / CHECKPOINTS).iterdir())
    assert names == ["best.ckpt", "last.ckpt", "step-000000010.ckpt", "step-000000012.ckpt"]
    best = read_checkpoint(tmp_path / CHECKPOINTS / "best.ckpt")
    assert best["dicm"]["best"] == writer.best
    assert writer.best >= trainer.callback_metrics["val/gauc"].item()


@pytest.mark.parametrize("better", [1, 2])
def test_it_is_told_which_one_is_tested_and_why(tmp_path, monkeypatch, better):
    """The epoch is counted as the lines of the validations count it, whichever was the better one."""

    def write_best(self, trainer, monitor):
        if trainer.global_step == 6 * better:
            self._write(trainer, "best.ckpt")

    monkeypatch.setattr(Checkpoints, "_write_best", write_best)
    fit(tmp_path, monitor="val/log_loss")
    best, last = (tmp_path / CHECKPOINTS / f"{name}.ckpt" for name in ("best", "last"))
    assert told(best, "val/log_loss") == f"Tested: best.ckpt, epoch {better}, step {6 * better}, by val/log_loss"
    assert told(last, None) == "Tested: last.ckpt, step 12; no `checkpoint.monitor` is set"
    assert told(last, "val/auc") == "Tested: last.ckpt, step 12; val/auc had no best"


def test_by_minutes_as_well(tmp_path, monkeypatch):
    """A clock that goes on ten seconds with each look at it in a step; the step after the one that is due writes."""
    looked = [0.0]

    def clock():
        looked[0] += 10.0
        return looked[0]

    monkeypatch.setattr("dicm_kit.training.checkpoint.time", SimpleNamespace(monotonic=clock))
    trainer, module, data, writer = make(tmp_path, every=50)
    writer.every_minutes = 0.5
    trainer.fit(module, data)
    kept = [int(path.stem.removeprefix("step-")) for path in sorted((tmp_path / CHECKPOINTS).glob("step-*.ckpt"))]
    # looks: at the start, after each step, and when one is written; older than 30 s with the fourth look after that
    assert kept == [5, 9]
    assert find_resumable(tmp_path).name == "last.ckpt"


def test_monitored_loss_is_better_when_lower(tmp_path):
    values = []

    class Watch(Callback):
        def on_validation_end(self, trainer, module):
            values.append(trainer.callback_metrics["val/log_loss"].item())

    _, _, _, writer = fit(tmp_path, Watch(), monitor="val/log_loss", val_check_interval=2)
    assert len(values) == 6
    assert writer.best == min(values)


def test_accumulated_gradients_are_not_lost(tmp_path):
    _, module, _, _ = fit(tmp_path / "a", every=1, accumulate_grad_batches=3)
    steps = sorted(path.name for path in (tmp_path / "a/checkpoints").glob("step-*"))
    assert steps == [f"step-{step:09d}.ckpt" for step in (1, 2, 3, 4)]
    resume = tmp_path / "a/checkpoints/step-000000003.ckpt"
    _, again, data, _ = fit(tmp_path / "b", resume=resume, accumulate_grad_batches=3)
    assert data.seen == ALL_STEPS[9:]
    assert_same_bits(again, parameters(module))


def test_holds_where_it_comes_from_and_loads_without_pickle(whole):
    checkpoint = torch.load(whole[0] / CHECKPOINTS / "step-000000004.ckpt", weights_only=True)
    assert checkpoint["dicm"]["provenance"] == PROVENANCE
    assert len(checkpoint["dicm"]["random_states"]) == 1
    assert checkpoint["ToyData"] == {"epoch": 0, "step": 4}
    assert {"state_dict", "optimizer_states", "lr_schedulers", "loops"} <= set(checkpoint)
    assert not list((whole[0] / CHECKPOINTS).glob(".*"))


def test_a_cut_file_is_passed_over(whole, tmp_path):
    folder = tmp_path / CHECKPOINTS
    assert find_resumable(tmp_path) is None
    folder.mkdir()
    for name in ("step-000000004.ckpt", "step-000000006.ckpt"):
        (folder / name).write_bytes((whole[0] / CHECKPOINTS / name).read_bytes())
    assert find_resumable(tmp_path) == folder / "step-000000006.ckpt"
    with (folder / "step-000000006.ckpt").open("r+b") as file:
        file.truncate(5000)
    (folder / "other.ckpt").write_bytes(b"")
    torch.save({"global_step": 9}, folder / "foreign.ckpt")
    assert find_resumable(tmp_path) == folder / "step-000000004.ckpt"
    with pytest.raises(RunError, match=r"step-000000006.ckpt: cannot be read as a checkpoint"):
        read_checkpoint(folder / "step-000000006.ckpt")
    with pytest.raises(RunError, match=r"foreign.ckpt: is not a checkpoint of dicm_kit"):
        read_checkpoint(folder / "foreign.ckpt")
    with pytest.raises(RunError, match="no such checkpoint"):
        read_checkpoint(folder / "none.ckpt")


def test_provenance_is_checked(whole):
    path = whole[0] / CHECKPOINTS / "last.ckpt"
    check_provenance(path, PROVENANCE)
    with pytest.raises(RunError, match="plugin API 1, this dicm_kit speaks 2"):
        check_provenance(path, {**PROVENANCE, "hook_api": 2})
    with pytest.raises(RunError, match="other vocabularies than the dataset has: item_id"):
        check_provenance(path, {**PROVENANCE, "vocabularies": {"item_id": "abd"}})
    with pytest.warns(UserWarning, match=r"plugin dicm-x is version 0.3 here and was 0.2"):
        check_provenance(path, {**PROVENANCE, "plugins": {"dicm-x": "0.3"}})


def test_monitor_that_is_not_logged_is_an_error(tmp_path):
    with pytest.raises(RunError, match=r"checkpoint.monitor is `val/guac`.*\n\n.*val/auc, val/calibration, val/gauc"):
        fit(tmp_path, monitor="val/guac")


def test_full_disk_leaves_no_half_file(tmp_path, monkeypatch):
    def full(checkpoint, file):
        file.write(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with (
        pytest.warns(UserWarning, match="last.ckpt was not written"),
        pytest.raises(RunError, match="No space left"),
    ):
        fit(tmp_path)
    assert list((tmp_path / CHECKPOINTS).iterdir()) == []


def test_signal_handler_is_given_back(tmp_path):
    before = signal.getsignal(signal.SIGINT)
    fit(tmp_path)
    assert signal.getsignal(signal.SIGINT) is before


def test_what_a_killed_run_began_to_write_is_cleared(whole, tmp_path):
    folder = tmp_path / CHECKPOINTS
    folder.mkdir()
    whole_one = folder / "step-000000004.ckpt"
    checkpoint = torch.load(whole[0] / CHECKPOINTS / whole_one.name, weights_only=True)
    checkpoint["dicm"]["tables"] = {"folder": "step-000000004-000000004.tables", "sizes": {}}
    torch.save(checkpoint, whole_one)
    for name in ("step-000000004-000000004.tables", "step-000000006-000000006.tables", ".last-000000005.tables.tmp"):
        (folder / name).mkdir()
        (folder / name / "part-0000.safetensors").write_bytes(b"rows")
    (folder / ".last.ckpt.tmp").write_bytes(b"half")
    clear_unfinished(folder)
    assert {path.name for path in folder.iterdir()} == {whole_one.name, "step-000000004-000000004.tables"}


@pytest.mark.parametrize("name", ["step-000000004.ckpt", "last.ckpt", "best.ckpt"])
def test_ctrl_c_lets_a_checkpoint_be_written(whole, tmp_path, monkeypatch, name):
    save, pressed = torch.save, []

    def save_and_press(checkpoint, file):
        save(checkpoint, file)
        if name in file.name and not pressed:
            pressed.append(checkpoint["global_step"])
            press_ctrl_c()
            press_ctrl_c()  # a second one does not help either
            file.write(b"")  # where torch.save would have the process abort

    trainer, module, data, _ = make(tmp_path, monitor="val/log_loss")
    monkeypatch.setattr(torch, "save", save_and_press)
    with pytest.raises(SystemExit):
        trainer.fit(module, data)
    monkeypatch.undo()
    (step,) = pressed
    assert read_checkpoint(tmp_path / CHECKPOINTS / name)["global_step"] == step
    assert read_checkpoint(tmp_path / CHECKPOINTS / "last.ckpt")["global_step"] == step
    _, module, data, _ = fit(tmp_path / "again", resume=find_resumable(tmp_path))
    assert data.seen == ALL_STEPS[step:]
    assert_same_bits(module, whole[1])
