"""prepare on logs of 1 and of 10 million impressions: peak memory, and impressions a second end to end.

    python tests/benchmarks/prepare.py [--impressions 1000000 10000000] [--folder DIR]

Each log is a Parquet file of 14 days, 5 impressions a page, one user for 50 impressions, 50,000 items; each is
prepared by the `log` source in a process of its own. Peak memory is what the kernel says of that process.
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
import pyarrow.parquet as pq

ITEMS, DAYS, PAGE = 50_000, 14, 5
FIRST = 1_700_006_400


def main() -> None:
    """Prints the table, or (with --one) prepares one log and prints what it took as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--impressions", type=int, nargs=2, default=[1_000_000, 10_000_000])
    parser.add_argument("--folder", type=Path, default=None, help="where logs and datasets go for the while")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(prepare_one(options.one)))
        return
    found = []
    for impressions in options.impressions:
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            write_log(Path(folder), impressions)
            command = [sys.executable, __file__, "--one", folder]
            found.append(json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout))
        print(
            f"{impressions:>12,} impressions: {impressions / found[-1]['seconds']:>9,.0f} a second, peak "
            f"{found[-1]['peak']:,.0f} MiB ({found[-1]['imported']:,.0f} MiB before the first row)",
            flush=True,
        )
    small, large = found
    print(f"peak of the larger / peak of the smaller: {large['peak'] / small['peak']:.3f}")


def write_log(folder: Path, impressions: int) -> None:
    """Writes log.parquet and items.parquet."""
    draw = np.random.default_rng(0)
    schema = pa.schema([("user", pa.int64()), ("item", pa.int64()), ("time", pa.int64()), ("clicked", pa.int8())])
    with pq.ParquetWriter(folder / "log.parquet", schema) as file:
        for start in range(0, impressions, 100_000):
            count = min(100_000, impressions - start)
            pages = -(-count // PAGE)
            columns = {
                "user": np.repeat(draw.integers(0, impressions // 50, pages), PAGE)[:count],
                "item": (draw.random(count) ** 3 * ITEMS).astype(np.int64),
                "time": np.repeat(draw.integers(0, DAYS * 86_400, pages) + FIRST, PAGE)[:count],
                "clicked": (draw.random(count) < 0.1).astype(np.int8),
            }
            file.write_table(pa.table(columns, schema=schema))
    item = np.arange(ITEMS)
    pq.write_table(pa.table({"item": item, "category": item % 100}), folder / "items.parquet")


def prepare_one(folder: Path) -> dict[str, float]:
    """Prepares the log of a folder; returns seconds and MiB."""
    from dicm_kit.data.options import PrepareOptions
    from dicm_kit.data.prepare import prepare
    from dicm_kit.data.sources.log import LogSource
    from dicm_kit.data.sources.log_config import ImpressionsConfig, ItemsConfig

    log = ImpressionsConfig(file="log.parquet", user="user", item="item", time="time", label="clicked")
    items = ItemsConfig(file="items.parquet", item="item", columns={"category": "id"})
    before, imported = time.perf_counter(), peak()
    source = LogSource(str(folder), log, items)
    dataset = prepare(source, PrepareOptions(), folder / "out", progress=False)
    seconds = time.perf_counter() - before
    assert sum(info.impressions for info in dataset.splits.values()) > 0
    return {"seconds": seconds, "peak": peak(), "imported": imported}


def peak() -> float:
    """Returns the most memory that this process has had so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
