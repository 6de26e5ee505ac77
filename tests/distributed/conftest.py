from collections.abc import Iterator
from pathlib import Path

import pytest
from recipes.debug_runs import debug

from dicm_kit import run
from dicm_kit.testing.ranks import Ranks


@pytest.fixture(scope="session")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    """The pool; its processes start with the first test that uses it."""
    pool = Ranks(4, tmp_path_factory.mktemp("ranks"), warnings_are_errors=True)
    yield pool
    pool.close()


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the debug recipe's dataset and feature store; each file of tests has its own."""
    folder = tmp_path_factory.mktemp("shop")
    run.extract(debug(folder))
    return folder
