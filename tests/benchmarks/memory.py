"""Is the estimate of `dicm check` right? And do two sharded ranks hold half of a large table each?

    python tests/benchmarks/memory.py [--folder DIR] [--only estimate|sharded]

Each recipe is prepared, estimated and run in processes of their own; the peak is VmHWM of the process that trains and
tests. Sharded: what a table of 4 million rows adds to the peak of a training without a test, on each rank.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
REPOSITORY = HERE.parents[1]
sys.path.insert(0, str(REPOSITORY))
from wanted import row  # noqa: E402

LARGE = "tests/benchmarks/large_table.yaml"
QUICK = "recipes/quickstart/dicm.yaml"
TRAINED = ["images.backbone.trainable=all", "images.backbone.image_size=96"]
RECIPES = {
    "quickstart/dicm.yaml": [QUICK, "data.out=quick", "trainer.max_steps=120"],
    "  vectors in memory, batches of 8,192": [
        *(QUICK, "data.out=quick", "batch_size=8192", "images.store=memory", "trainer.max_steps=60"),
    ],
    "an id table of 4 million rows": [LARGE, "data.root=log", "data.out=large"],
    "debug.yaml, trained backbone, 96 x 96": ["recipes/debug.yaml", "data.out=debug", *TRAINED, "trainer.max_epochs=4"],
}


def main() -> None:
    """Prints a line for each recipe, then the ratio of sharded to replicated."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="keeps the prepared data for the next time")
    parser.add_argument("--only", choices=["estimate", "sharded"])
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = (options.folder or Path(made)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        _write_log(folder / "log")
        if options.only != "sharded":
            for name, recipe in RECIPES.items():
                _compare(folder, name, recipe)
        if options.only != "estimate":
            _halves(folder)


def _compare(folder: Path, name: str, recipe: list[str]) -> None:
    _process(folder, "command", "prepare" if LARGE in recipe else "extract", *recipe)
    estimate = json.loads(_process(folder, "estimate", *recipe).splitlines()[-1])
    (peak,) = _peaks(folder, "run", *recipe, "--overwrite")
    came_out = f"{_mib(estimate)}, {_mib(peak)} MiB, {estimate / peak:.3f}"
    row(f"{name}: estimate, measured peak, ratio", came_out, "0.85 to 1.15")


def _halves(folder: Path) -> None:
    """What a large table adds to the peak: of one process that has it whole, and of two that share it."""
    base = [LARGE, "data.root=log", "data.out=large"]
    _process(folder, "command", "prepare", *base)
    ranks = ["trainer.devices=2", "trainer.strategy=image_server", "features.context.device.placement=sharded"]
    added = []
    for others in ([], ranks):
        small, large = (
            _peaks(folder, "bench", *base, *others, f"features.context.device.buckets={rows}", "--steps", "20")
            for rows in (1000, 4_000_000)
        )
        added.append([big - little for big, little in zip(large, small, strict=True)])
    (whole,), halves = added
    row("a table of 4 million rows and its state add, replicated", f"{_mib(whole)} MiB")
    for rank, half in enumerate(halves):
        row(f"  sharded, rank {rank} of 2", f"{_mib(half)} MiB, {half / whole:.3f}", "about 0.5")


def _peaks(folder: Path, *command: str) -> list[int]:
    """Returns the peak of each rank of a command."""
    for old in folder.glob("peak-*.json"):
        old.unlink()
    _process(folder, "command", *command)
    return [json.loads(path.read_text()) for path in sorted(folder.glob("peak-*.json"))]


def _process(folder: Path, *arguments: str) -> str:
    own = [f"run_dir={folder / 'run'}", "trainer.threads=1", "trainer.accelerator=cpu"]
    given = [
        str(REPOSITORY / each) if each.endswith(".yaml") else each.replace("data.out=", f"data.out={folder}/")
        for each in arguments
    ]
    given = [each.replace("data.root=", f"data.root={folder}/") for each in given]
    done = subprocess.run(
        [sys.executable, __file__, *given[:1], str(folder), *given[1:], *own],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{given}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def _command(folder: Path, arguments: list[str]) -> int:
    """Runs a command as `dicm` would, and writes down its peak; every rank does."""
    from dicm_kit.cli import main as dicm
    from dicm_kit.memory import peak_resident

    code = dicm(arguments)
    path = folder / f"peak-{os.environ.get('LOCAL_RANK', '0')}.json"
    path.write_text(json.dumps(peak_resident()))
    return code


def _estimate(arguments: list[str]) -> None:
    from dicm_kit.memory_check import dataset_of, estimated
    from dicm_kit.recipe.load import load

    loaded = load(arguments[0], arguments[1:])
    found, _ = estimated(loaded, dataset_of(loaded))
    print(found.total())


def _write_log(folder: Path, rows: int = 60_000) -> None:
    """A log of `rows` impressions, of nearly as many devices."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    if (folder / "items.parquet").is_file():
        return
    draw = np.random.default_rng(0)
    log = {
        "user": draw.integers(0, 2000, rows),
        "item": draw.integers(0, 500, rows),
        "time": np.sort(draw.integers(0, 6 * 86_400, rows)) + 1_700_006_400,
        "clicked": (draw.random(rows) < 0.3).astype(np.int64),
        "device": draw.integers(0, 2**40, rows),
    }
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table(log), folder / "log.parquet")
    pq.write_table(pa.table({"item": np.arange(500)}), folder / "items.parquet")


def _mib(count: int) -> str:
    return f"{count / 2**20:,.0f}"


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["command", folder, *arguments]:
            sys.exit(_command(Path(folder), arguments))
        case ["estimate", _, *arguments]:
            _estimate(arguments)
        case _:
            main()
