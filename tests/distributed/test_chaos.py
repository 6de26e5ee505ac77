"""Fifteen kills, one rank or all, in phases that are drawn: nothing is lost, to the bit. `chaos.py` makes a hundred."""

import os
import subprocess
import sys
from pathlib import Path

from recipes.debug_runs import REPOSITORY

KILLS = 15


def test_a_run_that_is_killed_again_and_again_ends_as_if_nothing_had_been(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "tests/distributed/chaos.py", str(tmp_path), "--kills", str(KILLS), "--ranks", "2"],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert f"\n{KILLS} kills in " in ended.stdout
    assert "tensors that differ: []\ntest metrics the same: True" in ended.stdout
