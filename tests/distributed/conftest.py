from collections.abc import Iterator

import pytest
from distributed.ranks import Ranks


@pytest.fixture(scope="session")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    """The pool; its processes start with the first test that uses it."""
    pool = Ranks(4, tmp_path_factory.mktemp("ranks"))
    yield pool
    pool.close()
