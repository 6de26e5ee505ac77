"""Fixtures for tests of a plugin; pytest finds them once dicm_kit is installed. Nothing heavy is imported at the top.

| fixture | gives |
| --- | --- |
| `dicm_history_shapes` | the `HistoryShapes` of a picture slot: what an aggregator is built for |
| `dicm_net_shapes` | `NetShapes` with pictures, interests and context: what a base net is built for |
| `dicm_histories` | a function `(shapes, rows=5, seed=1, length=6)` -> query, history and mask_BL that fit the shapes |
| `dicm_log` | a folder with a tiny log: `log.parquet`, `items.parquet`, `users.parquet`, `images/` |
| `dicm_dataset` | the dataset folder that `prepare` made of it, opened |
| `dicm_batch` | its first training `Batch` |
| `dicm_ranks` | two gloo processes: `dicm_ranks.run(2, function, *arguments)` calls `function(rank, 2, *arguments)` |
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from dicm_kit.data.dataset import Dataset
    from dicm_kit.interfaces import HistoryShapes, NetShapes
    from dicm_kit.testing.ranks import Ranks
    from dicm_kit.types import Batch


@pytest.fixture
def dicm_history_shapes() -> "HistoryShapes":
    """The shapes of a picture slot: pictures 3 wide, ids 4, tags 2, `age`; at most 8 slots."""
    from dicm_kit.testing.settings import HISTORY_SHAPES

    return HISTORY_SHAPES[0]


@pytest.fixture
def dicm_net_shapes() -> "NetShapes":
    """The shapes of a recipe with user, target and context columns, the target's picture, and two interests."""
    from dicm_kit.testing.settings import NET_SHAPES

    return NET_SHAPES


@pytest.fixture
def dicm_histories() -> Callable[..., Any]:
    """Returns a function that makes what an aggregator is called with: `query` [B, d], `history` [B, L, d], `mask_BL`.

    `(shapes, rows=5, seed=1, length=6)`; the same for the same seed, with random values in empty slots.
    """
    from dicm_kit.testing.settings import histories

    return histories


@pytest.fixture(scope="session")
def dicm_log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny log: 72 impressions of 3 days, 6 users, 8 items, 7 pictures."""
    from dicm_kit.testing.tiny_log import write_tiny_log

    folder = tmp_path_factory.mktemp("dicm_log")
    write_tiny_log(folder)
    return folder


@pytest.fixture(scope="session")
def dicm_dataset(dicm_log: Path, tmp_path_factory: pytest.TempPathFactory) -> "Dataset":
    """The dataset folder of the tiny log: one day each for training, validation and test; 2 lanes, 2 partitions."""
    from dicm_kit.testing.prepared import tiny_dataset

    return tiny_dataset(dicm_log, tmp_path_factory.mktemp("dicm_dataset") / "dataset")


@pytest.fixture
def dicm_batch(dicm_dataset: "Dataset") -> "Batch":
    """The first training batch of the tiny dataset, of up to 16 impressions, with every column."""
    from dicm_kit.testing.prepared import training_batches

    return next(iter(training_batches(dicm_dataset)))


@pytest.fixture(scope="session")
def dicm_ranks() -> "Ranks":
    """The pool of two ranks that the checks use, too; its processes start with the first test that needs them."""
    from dicm_kit.testing.ranks import shared_ranks

    return shared_ranks()
