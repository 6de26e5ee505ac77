"""What intervals cost: replicates a second, and how many of them take as long as measuring once.

    python tests/benchmarks/bootstrap.py [rows ...]

A replicate gives AUC, GAUC, log loss and calibration of all rows and of every slice, and so does measuring once.
"""

import resource
import sys
import time

import numpy as np
import torch

from dicm_kit.training.bootstrap import replicates_of, resampled
from dicm_kit.training.metrics import all_metrics
from dicm_kit.training.slices import Impressions


def split(rows: int, click_rate: float) -> Impressions:
    """Returns rows of users who have about 20 each."""
    rng = np.random.default_rng(0)
    logit = rng.normal(size=rows).astype(np.float32)
    return {
        "user": rng.integers(0, max(1, rows // 20), rows),
        "item": rng.integers(0, 100_000, rows),
        "logit": logit,
        "label": (rng.random(rows) < click_rate).astype(np.int8),
        "weight": np.ones(rows, dtype=np.float32),
        "history": rng.integers(0, 40, rows),
        "decile": rng.integers(0, 11, rows).astype(np.int8),
    }


def measure(rows: int, click_rate: float) -> None:
    """Prints a line."""
    columns, replicates = split(rows, click_rate), replicates_of(rows)
    start = time.perf_counter()
    all_metrics(columns)
    once = time.perf_counter() - start
    start = time.perf_counter()
    resampled(columns)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{rows:>12,} rows, {click_rate:.0%} clicks: once {once:7.2f} s, {replicates:,} replicates {seconds:7.1f} s, "
        f"{replicates / seconds:8.1f}/s, {replicates * once / seconds:6.1f} in the time of one measurement "
        f"(peak so far {peak:.1f} GiB)"
    )


def main() -> None:
    """Prints a line for each number of rows and two click rates."""
    torch.set_num_threads(1)
    for rows in [int(each) for each in sys.argv[1:]] or [10_000, 100_000, 1_000_000]:
        for click_rate in (0.05, 0.5):
            measure(rows, click_rate)


if __name__ == "__main__":
    main()
