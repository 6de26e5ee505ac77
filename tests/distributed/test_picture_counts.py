"""What a training's pictures cost: the same references and distinct pictures on any number of ranks."""

import torch
from distributed.lightning_ranks import ddp_trainer
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.strategies import DDPStrategy
from toy import ToyData, image_server, toy_batch, toy_module

from dicm_kit.training.picture_counts import CountPictures
from dicm_kit.training.strategy import ImageServerStrategy

GROUPS, STEPS = (20, 7, 1, 12), 6


class Kept(DummyLogger):
    def __init__(self):
        super().__init__()
        self.lines = []

    def log_metrics(self, metrics, step=None):
        self.lines.append(metrics)


def count(rank, num_ranks, strategy=ImageServerStrategy, **validation):
    module, counting, logger = toy_module(server=image_server()), CountPictures(), Kept()
    validation = validation or {"limit_val_batches": 0}
    options = {"callbacks": [counting], "logger": logger, "log_every_n_steps": 2, "enable_checkpointing": False}
    data = ToyData(steps=STEPS, groups=GROUPS)
    trainer = ddp_trainer(rank, num_ranks, strategy, max_epochs=1, **validation, **options)
    trainer.fit(module, data)
    lines = [line for line in logger.lines if "images/references" in line]
    return counting.counts, lines, module.server.exchange.traffic


def by_hand():
    """References, references after grouping and distinct pictures of the steps, picture by picture."""
    references, grouped, distinct = 0, 0, 0
    for step in range(STEPS):
        batch = toy_batch(GROUPS[step % len(GROUPS)], seed=step)
        seen = set()
        for group, key in zip(batch.group_N.tolist(), batch.target_key_N.tolist(), strict=True):
            history = [key for key in (batch.history_key_GL * batch.mask_GL)[group].tolist() if key]
            references += len(history) + (key != 0)
            seen |= {key, *history}
        for row in (batch.history_key_GL * batch.mask_GL).tolist():
            grouped += sum(key != 0 for key in row)
        grouped += int((batch.target_key_N != 0).sum())
        distinct += len(seen - {0})
    return references, grouped, distinct


def test_counts_by_hand_and_on_ranks(ranks):
    references, grouped, distinct = by_hand()
    alone, lines, _ = count(0, 1)
    assert (alone.steps, alone.references, alone.grouped) == (STEPS, references, grouped)
    assert (alone.traffic.asked, alone.traffic.served, alone.traffic.bytes_sent) == (distinct, distinct, 0)
    assert len(lines) == STEPS // 2
    assert sum(2 * line["images/distinct"] for line in lines) == distinct
    for num_ranks in (2, 4):
        answers = ranks.run(num_ranks, count)
        for counts, got_lines, _ in answers:
            assert (counts.steps, counts.references, counts.grouped) == (STEPS, references, grouped)
            assert counts.traffic.served == distinct
            assert counts.traffic.bytes_sent == sum(traffic.bytes_sent for _, _, traffic in answers)
            assert [line["images/distinct"] for line in got_lines] == [line["images/distinct"] for line in lines]
        assert sum(2 * line["images/keys_bytes"] for line in answers[0][1]) == counts.traffic.keys_bytes


def test_validation_does_not_count():
    counts, lines, traffic = count(0, 1, val_check_interval=3)
    without, lines_without, _ = count(0, 1)
    assert traffic.asked > counts.traffic.asked, "validation asks too"
    assert (counts.traffic.fetches, counts.traffic.asked) == (STEPS, without.traffic.asked)
    assert [line["images/distinct"] for line in lines] == [line["images/distinct"] for line in lines_without]


def test_ddp_does_not_know_how_many_are_distinct_over_all_ranks(ranks):
    references, grouped, distinct = by_hand()
    for counts, lines, _ in ranks.run(2, count, DDPStrategy):
        assert (counts.references, counts.grouped, counts.traffic.bytes_sent) == (references, grouped, 0)
        assert counts.traffic.asked >= distinct
        assert "images/distinct" not in lines[0]
        assert lines[0]["images/distinct_on_ranks"] > 0


def test_without_an_image_server_there_is_nothing_to_count():
    counting = CountPictures()
    module = toy_module(pictures=False)
    trainer = ddp_trainer(0, 1, max_epochs=1, callbacks=[counting], enable_checkpointing=False)
    trainer.fit(module, ToyData(steps=2))
    assert counting.counts is None
    assert torch.isfinite(next(module.parameters())).all()
