"""Rows a second that the `log` source reads, format by format, on one core; and what memory that takes.

    python tests/benchmarks/log_reading.py [--rows 5000000] [--folder DIR]

The log has user, item, time, label and one context column; each format is read whole, twice, in a process of its own,
and the second time counts. Memory is what the kernel says of that process beyond what it had before it read.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parents[1]))

FORMATS = {
    "Parquet, ids are numbers": ("numbers", "log.parquet", {}),
    "the same, `where` and `since`": ("numbers", "log.parquet", {"where": {"channel": [1, 2]}, "since": "2021-01-01"}),
    "Parquet, ids are text": ("text", "log.parquet", {}),
    "CSV, ids are numbers": ("numbers", "log.csv", {}),
    "CSV, text in quotes": ("text", "log.csv", {}),
    "CSV, gzipped": ("numbers", "log.csv.gz", {}),
}


def main() -> None:
    """Prints the table, or (with --one) reads one log and prints what it took as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--folder", type=Path, default=None, help="where the logs go for the while")
    parser.add_argument("--one", nargs=2, metavar=("FOLDER", "FORMAT"), help=argparse.SUPPRESS)
    parser.add_argument("--write", metavar="FOLDER", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write:
        write(Path(options.write), options.rows)
        return
    if options.one:
        print(json.dumps(read(Path(options.one[0]), options.one[1])))
        return
    print(f"{options.rows:,} rows\n\n| | million rows/s | per second of CPU time | memory |\n| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        # in a process of its own: a child is said to have had its parent's peak
        subprocess.run([sys.executable, __file__, "--write", folder, "--rows", str(options.rows)], check=True)
        for name in FORMATS:
            command = [sys.executable, __file__, "--one", folder, name]
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            wall, cpu = (options.rows / found[key] / 1e6 for key in ("wall", "cpu"))
            print(f"| {name} | {wall:.1f} | {cpu:.1f} | {found['memory'] / 2**20:.0f} MiB |", flush=True)


def write(folder: Path, rows: int) -> None:
    """Writes the log in every format."""
    from little_log import write_table

    draw = np.random.default_rng(0)
    users, items, end = draw.integers(0, 1_000_000, rows), draw.integers(0, 100_000, rows), 1_700_000_000
    rest = {"time": np.sort(draw.integers(end - 10**8, end, rows)), "label": draw.integers(0, 2, rows)}
    rest["channel"] = draw.integers(0, 5, rows)
    for kind, form in (("numbers", None), ("text", "%d")):
        ids = [values if form is None else np.char.mod(f"id-{form}", values) for values in (users, items)]
        known = np.arange(100_000) if form is None else np.char.mod(f"id-{form}", np.arange(100_000))
        write_table(folder / kind / "items.parquet", {"item": known})
        for name in sorted({name for each, name, _ in FORMATS.values() if each == kind}):
            write_table(folder / kind / name, pa.table({"user": ids[0], "item": ids[1]} | rest))


def read(folder: Path, name: str) -> dict[str, float]:
    """Returns seconds, CPU seconds and bytes that the second reading took."""
    from dicm_kit.data.sources.log import LogSource
    from dicm_kit.data.sources.log_config import ImpressionsConfig, ItemsConfig

    kind, file, keys = FORMATS[name]
    log = ImpressionsConfig(
        file=file, user="user", item="item", time="time", label="label", columns={"channel": "id"}, **keys
    )
    source = LogSource(str(folder / kind), log, ItemsConfig(file="items.parquet", item="item"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(2):
        wall, cpu = time.perf_counter(), time.process_time()
        rows = sum(len(batch) for batch in source.impressions(file))
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    assert rows
    return {"wall": wall, "cpu": cpu, "memory": 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)}


if __name__ == "__main__":
    main()
