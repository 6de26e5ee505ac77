"""Does training wait for data? Impressions per second of the whole loop against steps on a batch that is ready.

    python tests/benchmarks/training_loop.py [RECIPE] [KEY=VALUE ...]

Step-only: forward, loss, backward and optimizer on batches that lie in memory, without Lightning. Loop: what
`dicm run` does, with reading, Lightning, logging and the progress bar; validation and checkpoints left out.
"""

import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from statistics import median

import torch
from lightning.pytorch import Callback

from dicm_kit import run
from dicm_kit.recipe.load import load
from dicm_kit.session import Session
from dicm_kit.training.loss import share_of_global_mean, summed_loss
from dicm_kit.types import Batch

STEPS, ROUNDS = 60, 5


def main() -> None:
    arguments = sys.argv[1:]
    recipe = arguments.pop(0) if arguments and "=" not in arguments[0] else "recipes/quickstart/dicm.yaml"
    with tempfile.TemporaryDirectory() as folder:
        loaded = load(recipe, [*arguments, f"run_dir={folder}", "checkpoint.monitor=null", "trainer.logger=csv"])
        run._use_machine(loaded.recipe)
        dataset = run._prepared(loaded, run.rehearse(loaded))
        session = Session(loaded, dataset)
        batches = list(islice(session.data.train_dataloader(), STEPS))
        ratios = []
        for _ in range(ROUNDS):
            alone = step_only(session.module, batches)
            whole = loop(loaded, dataset)
            ratios.append(whole / alone)
            print(f"step only {alone:9,.0f} impressions/s   loop {whole:9,.0f}   ratio {whole / alone:.2f}")
    print(f"{Path(recipe)}: loop / step only, median of {ROUNDS} rounds: {median(ratios):.2f} (wanted: 0.90)")


def step_only(module: torch.nn.Module, batches: list[Batch]) -> float:
    module.train()
    optimizer = module.configure_optimizers()
    optimizer = optimizer["optimizer"] if isinstance(optimizer, dict) else optimizer
    for batch in batches[:5]:
        step(module, optimizer, batch)
    start = time.perf_counter()
    for batch in batches:
        step(module, optimizer, batch)
    return sum(batch.num_impressions for batch in batches) / (time.perf_counter() - start)


def step(module: torch.nn.Module, optimizer: torch.optim.Optimizer, batch: Batch) -> None:
    optimizer.zero_grad()
    loss = summed_loss(module(batch).logit_N, batch.label_N, batch.weight_N)
    share_of_global_mean(loss, float(batch.weight_N.sum()), 1).backward()
    optimizer.step()


def loop(loaded: object, dataset: object) -> float:
    """Returns the speed that the progress bar counts, over as many steps as `step_only`, after ten to warm up."""
    session = Session(loaded, dataset)
    session.trainer.fit_loop.epoch_loop.max_steps = STEPS + 10
    session.trainer.limit_val_batches = 0
    marks = []

    class Clock(Callback):
        def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):  # type: ignore[no-untyped-def]
            marks.append((time.perf_counter(), batch.num_impressions))

    session.trainer.callbacks.append(Clock())
    session.trainer.fit(session.module, datamodule=session.data)
    start = marks[9][0]
    return sum(count for _, count in marks[10:]) / (marks[-1][0] - start)


if __name__ == "__main__":
    main()
