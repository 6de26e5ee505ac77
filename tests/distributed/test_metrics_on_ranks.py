import numpy as np
import pytest
import torch

from dicm_kit.training.metrics import RankingMetrics
from dicm_kit.training.slices import TargetSlices

ROWS = 3000


def table():
    rng = np.random.default_rng(3)
    logit = np.round(rng.normal(size=ROWS), 2).astype(np.float32)
    return {
        "user_N": torch.from_numpy(rng.integers(0, 200, ROWS)),
        "item_N": torch.from_numpy(rng.integers(0, 50, ROWS)),
        "logit_N": torch.from_numpy(logit),
        "label_N": torch.from_numpy((rng.random(ROWS) < 1 / (1 + np.exp(-logit))).astype(np.float32)),
        "weight_N": torch.from_numpy(rng.choice([1.0, 0.3], ROWS).astype(np.float32)),
        "history_N": torch.from_numpy(rng.integers(0, 40, ROWS)),
    }


def measure(rank, num_ranks, bounds):
    """Every rank adds its own rows, in batches, and an empty one; one rank may have none at all."""
    metrics = RankingMetrics(TargetSlices(np.arange(50) // 3))
    rows = torch.arange(bounds[rank], bounds[rank + 1])
    for batch in [rows[start : start + 700] for start in range(0, len(rows), 700)] + [rows[:0]]:
        metrics.update(**{name: column[batch] for name, column in table().items()})
    return metrics.compute()


@pytest.mark.parametrize("bounds", [(0, ROWS), (0, 2500, ROWS), (0, 0, ROWS), (0, 10, 10, 1700, ROWS)])
def test_equal_to_the_last_bit_for_any_split_over_ranks(ranks, bounds):
    expected = measure(0, 1, (0, ROWS))
    assert len(expected) > 60
    for results in ranks.run(len(bounds) - 1, measure, bounds):
        assert results == expected
