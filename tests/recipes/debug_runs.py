"""How tests run the debug recipe: in this process, or in one of its own."""

import os
import subprocess
import sys
from pathlib import Path

from dicm_kit.recipe.load import LoadedRecipe, load

REPOSITORY = Path(__file__).parents[2]
DEBUG = REPOSITORY / "recipes/debug.yaml"


def debug(folder: Path, *overrides: str, recipe: Path = DEBUG, run_dir: str = "run") -> LoadedRecipe:
    """Returns the debug recipe with its folders below `folder`."""
    return load(recipe, arguments(folder, *overrides, run_dir=run_dir))


def arguments(folder: Path, *overrides: str, run_dir: str = "run") -> list[str]:
    """Returns the overrides: folders below `folder`, one thread."""
    return [f"data.out={folder / 'data'}", f"run_dir={folder / run_dir}", "trainer.threads=1", *overrides]


def start(*command: str) -> "subprocess.Popen[str]":
    """Starts `python -m dicm_kit ...` in a session of its own: what is left of it afterwards can be seen."""
    return subprocess.Popen(
        [sys.executable, "-m", "dicm_kit", *command],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def alive(session: int, but: str = "Z") -> list[int]:
    """Returns the processes of a session that are not in one of these states."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:  # it has just ended
            continue
        if int(fields[3]) == session and fields[0] not in but:
            found.append(int(entry.name))
    return found
