"""How long exact metrics take on many rows, and what a lazy optimizer step costs by the size of its table.

Run: python tests/benchmarks/metrics.py [rows]
"""

import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from dicm_kit.features.tables import IdTable
from dicm_kit.training.metrics import RankingMetrics, auc, gauc, log_loss
from dicm_kit.training.optimizers import CtrOptimizer, OptimizerPlan
from dicm_kit.training.slices import TargetSlices


def seconds(what: Callable[[], object], times: int = 3) -> float:
    """Returns the fastest of some runs."""
    best = float("inf")
    for _ in range(times):
        start = time.perf_counter()
        what()
        best = min(best, time.perf_counter() - start)
    return best


def metrics(rows: int) -> None:
    """Prints seconds for AUC, GAUC, log loss, and all of them with slices."""
    rng = np.random.default_rng(0)
    logit = rng.normal(size=rows).astype(np.float32)
    label = (rng.random(rows) < 1 / (1 + np.exp(-logit))).astype(np.int8)
    user, item = rng.integers(0, rows // 20, rows), rng.zipf(1.2, rows) % 100_000
    print(f"{rows:,} rows, {rows // 20:,} users, {torch.get_num_threads()} threads")
    print(f"  auc        {seconds(lambda: auc(logit, label)):6.2f} s")
    print(f"  gauc       {seconds(lambda: gauc(user, logit, label)):6.2f} s   (at most 5 s for 10,000,000 rows)")
    print(f"  log_loss   {seconds(lambda: log_loss(logit, label)):6.2f} s")
    whole = RankingMetrics(TargetSlices(np.bincount(item, minlength=100_000)))
    columns = (user, item, logit, label, np.ones(rows, dtype=np.float32), rng.integers(0, 33, rows))
    whole.update(*(torch.from_numpy(each) for each in columns))
    print(f"  everything, with slices {seconds(whole.compute, times=1):6.2f} s")


def lazy_step(rows: int, touched: int = 20_000, dim: int = 16) -> float:
    """Returns seconds of one optimizer step on a table of `rows`."""
    table = IdTable(rows, dim)
    dense = torch.nn.Parameter(torch.zeros(1))
    optimizer = CtrOptimizer([dense], [table.rows.weight], OptimizerPlan())
    ids = torch.randint(0, rows, (touched,), generator=torch.Generator().manual_seed(0)).sort().values.unique()
    gradient = torch.ones(len(ids), dim)

    def step() -> None:
        table.rows.weight.grad = torch.sparse_coo_tensor(
            ids.unsqueeze(0), gradient, (rows, dim), is_coalesced=True, check_invariants=False
        )
        optimizer.step()

    step()  # makes the state
    return seconds(step, times=15)


def optimizer() -> None:
    """Prints what a step costs on a small and a large table, the same number of rows touched."""
    torch.set_num_threads(1)  # a step of a few milliseconds is at the mercy of what else the machine does
    small, large = lazy_step(50_000), lazy_step(5_000_000)
    print(f"lazy step, about 20,000 rows of 16: of 50,000 rows {1e3 * small:.1f} ms, of 5,000,000 {1e3 * large:.1f} ms")
    print(f"  large / small {large / small:.2f}   (of a dense step: about 100; above 1: memory that is in no cache)")


def main() -> None:
    """Prints all."""
    torch.set_num_threads(2)
    metrics(int(sys.argv[1]) if len(sys.argv) > 1 else 10_000_000)
    optimizer()


if __name__ == "__main__":
    main()
