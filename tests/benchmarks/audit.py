"""The audit of datasets of 1 and of 10 million impressions: seconds and peak memory.

    python tests/benchmarks/audit.py [--impressions 1000000 10000000] [--page 8] [--folder DIR]

Each dataset is a made-up shop (one user for 50 impressions, `--page` items a page) and is prepared in a process of its
own, then audited in another. Peak memory is what the kernel says of that one.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def main() -> None:
    """Prints a line per dataset, or (with --prepare, --audit) does one of the two things."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--impressions", type=int, nargs="+", default=[1_000_000, 10_000_000])
    parser.add_argument("--page", type=int, default=8)
    parser.add_argument("--folder", type=Path, default=None, help="where datasets go for the while")
    parser.add_argument("--prepare", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--audit", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.prepare:
        prepare_one(options.prepare, options.impressions[0], options.page)
    elif options.audit:
        audit_one(options.audit)
    else:
        for impressions in options.impressions:
            with tempfile.TemporaryDirectory(dir=options.folder) as folder:
                out = f"{folder}/out"
                size = ["--impressions", str(impressions), "--page", str(options.page)]
                subprocess.run([sys.executable, __file__, "--prepare", out, *size], check=True)
                subprocess.run([sys.executable, __file__, "--audit", out], check=True)


def prepare_one(out: Path, impressions: int, page: int) -> None:
    """Prepares a made-up shop."""
    from dicm_kit.data.options import PrepareOptions
    from dicm_kit.data.prepare import prepare
    from dicm_kit.data.sources.synthetic import SyntheticConfig, build_synthetic

    size = {"users": max(10, impressions // 50), "items": max(2000, impressions // 500), "page_size": page}
    shop = build_synthetic(SyntheticConfig(impressions=impressions, picture_size=16, **size))
    prepare(shop, PrepareOptions(), out, progress=False)


def audit_one(folder: Path) -> None:
    """Audits a dataset and prints what it took."""
    from dicm_kit.data.audit import audit
    from dicm_kit.data.dataset import Dataset

    dataset = Dataset.open(folder)
    before, imported = time.perf_counter(), peak()
    found = audit(dataset)
    seconds = time.perf_counter() - before
    impressions = sum(split.impressions for split in found.splits.values())
    entries = sum(split.history_entries for split in found.splits.values())
    assert found.problems == []
    print(
        f"{impressions:>12,} impressions, {entries:>12,} history entries: {seconds:6.1f} s, peak {peak():,.0f} MiB "
        f"({imported:,.0f} MiB before); 1 user in {found.one_user_in}",
        flush=True,
    )


def peak() -> float:
    """Returns the most memory that this process has had so far, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
