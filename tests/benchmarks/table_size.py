"""A whole DICM step with an item table of 100,000 and of 10 million rows, of which it touches equally many.

    python tests/benchmarks/table_size.py

Zipf ids, those of the large table spread over all of it; float32, one process, one thread. The table is that of the
target and of the history, where a batch names the most distinct ids. Rounds of both sizes by turns; medians.
"""

import argparse
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[2]))
import paper_shop as shop
from wanted import row

from dicm_kit.features.encoders import IdEncoder, Placement
from dicm_kit.features.sharded import sharded_tables
from dicm_kit.memory import keep_pages
from dicm_kit.training.loss import summed_loss
from dicm_kit.training.module import CtrModule
from dicm_kit.types import Batch

SIZES = (100_000, 10_000_000)
IMPRESSIONS = 1024


class Trained:
    """A model whose item table has so many rows, its optimizer, and batches for it."""

    def __init__(self, folder: Path, rows: int, placement: Placement):
        torch.manual_seed(0)
        self.module: CtrModule = shop.model(folder, items=IdEncoder(rows, 16, placement=placement))
        for table in sharded_tables(self.module).values():
            table.hold()
        self.optimizer = self.module.configure_optimizers()["optimizer"]
        self.batches = [_spread(shop.batch(IMPRESSIONS, 1, seed), rows) for seed in range(4)]
        self.touched = median(len(_items(each).unique()) for each in self.batches)

    def step(self, batch: Batch) -> float:
        """Returns the seconds of a step."""
        start = time.perf_counter()
        logit_N = self.module(batch).logit_N
        (summed_loss(logit_N, batch.label_N, batch.weight_N) / IMPRESSIONS).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return time.perf_counter() - start


def _spread(batch: Batch, rows: int) -> Batch:
    """Returns the batch with its item ids spread over a table of so many rows; pictures stay as they are."""
    factor = (rows - 1) // shop.PICTURES
    target, history = batch.target, batch.history
    return replace(
        batch,
        target={**target, "item_id": target["item_id"] * factor},
        history={**history, "item_id": history["item_id"] * factor},
    )


def _items(batch: Batch) -> torch.Tensor:
    ids = [batch.target["item_id"], batch.history["item_id"].flatten()]
    assert all(isinstance(each, torch.Tensor) for each in ids), "one id per row"
    return torch.cat(ids)


def main() -> None:
    """Prints a line for each placement."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(1)
    keep_pages()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shop.write_vectors(folder)
        for placement in ("replicated", "sharded"):
            models = [Trained(folder, rows, placement) for rows in SIZES]
            seconds: list[list[float]] = [[], []]
            for each in models:  # the moments are made in the first step
                for batch in each.batches:
                    each.step(batch)
            for _ in range(options.rounds):
                for of_size, each in zip(seconds, models, strict=True):
                    of_size += [each.step(batch) for batch in each.batches]
            small, large = map(median, seconds)
            row(f"{placement}: rows touched in a step", " and ".join(f"{each.touched:,.0f}" for each in models))
            row("  step with 100,000 and with 10,000,000 rows", f"{1000 * small:.1f} ms and {1000 * large:.1f} ms")
            row("  ratio", f"{large / small:.3f}", "at most 1.2")
            del models


if __name__ == "__main__":
    main()
