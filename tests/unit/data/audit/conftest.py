"""Folders that are prepared once and copied."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from damage import BY_HAND, shop
from little_shop import random_shop

from dicm_kit.data.prepare import PrepareOptions, prepare

OPTIONS = PrepareOptions(lanes=2, partitions=2)


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A shop by hand, and one with columns of every kind."""
    folder = tmp_path_factory.mktemp("audited")
    shops = {"by hand": shop(BY_HAND), "every kind": random_shop(impressions=600, days=6)}
    for name, source in shops.items():
        prepare(source, OPTIONS, folder / name, progress=False)
    return {name: folder / name for name in shops}


@pytest.fixture
def copied(prepared: dict[str, Path], tmp_path: Path) -> Callable[[str], Path]:
    """Returns a folder that may be damaged."""

    def copy(name: str) -> Path:
        shutil.copytree(prepared[name], tmp_path / "copy")
        return tmp_path / "copy"

    return copy
