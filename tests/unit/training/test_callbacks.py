import io

from lightning.pytorch import Trainer
from toy import ToyData, toy_batch, toy_module

from dicm_kit.training.callbacks import CtrProgress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def run(stream, rank_zero=True, **options):
    progress = CtrProgress(stream)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_model_summary": False}
    trainer = Trainer(
        accelerator="cpu", devices=1, max_epochs=2, num_sanity_val_steps=0, callbacks=[progress], **quiet, **options
    )
    if not rank_zero:
        progress.disable()
    module, data = toy_module(), ToyData(steps=6)
    trainer.fit(module, data)
    trainer.test(module, data, verbose=False)
    return progress, module


def test_without_a_terminal_one_line_per_validation():
    stream = io.StringIO()
    _, module = run(stream)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("epoch 1  step 6  gauc 0.")
    assert lines[1].startswith(f"epoch 2  step 12  gauc {module.results['val']['gauc']:.4f}")
    assert lines[1].endswith("impressions/s")


def test_on_a_terminal_loss_and_speed():
    stream = Terminal()
    progress, module = run(stream)
    text = stream.getvalue()
    for part in ("epoch 1/2", "epoch 2/2", "6/6", f"loss {module.totals.loss:.4f}", "impressions/s", "test"):
        assert part in text, part
    groups = (12, 3, 1, 20)
    sizes = [
        toy_batch(groups[step % 4], seed=1000 * epoch + step).num_impressions for epoch in (0, 1) for step in range(6)
    ]
    assert progress._impressions == sum(sizes)
    assert progress.impressions_per_second > 0


def test_other_ranks_are_silent():
    stream = Terminal()
    run(stream, rank_zero=False)
    assert stream.getvalue() == ""
