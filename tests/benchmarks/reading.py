"""How fast prepared samples become Batches on one core: python tests/benchmarks/reading.py

One impression per group, histories of 32, three history columns and picture keys; 1 million groups by default. The
target is 500,000 impressions a second.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dicm_kit.data.collate import ColumnsUsed, ItemTables
from dicm_kit.data.dataset import SPLITS, ColumnInfo, Dataset, PartInfo, SplitInfo
from dicm_kit.data.lanes import ROW_GROUP
from dicm_kit.data.reader import read_batches

LANES, LENGTH = 16, 32
USED = ColumnsUsed(user=("user_id",), target=("item_id", "category", "price"), history=("item_id", "category", "brand"))


def write_dataset(folder: Path, groups: int, items: int) -> Dataset:
    """Writes a dataset folder of random numbers, in the layout of `prepare`."""
    draw = np.random.default_rng(0)
    columns = {name: ColumnInfo("id", name, items + 1) for name in ("item_id", "category", "brand")}
    table = {
        "item": np.arange(items),
        "picture_key": draw.integers(1, 2**62, items),
        "train_count": np.ones(items, int),
    }
    table |= {name: draw.integers(1, items + 1, items) for name in columns}
    table["price"] = draw.random(items, np.float32)
    (folder / "images").mkdir(parents=True)
    (folder / "vocab").mkdir()
    pq.write_table(pa.table(table), folder / "items.parquet")
    for name in (*columns, "user_id"):
        index = np.arange(10**6 + 1 if name == "user_id" else items + 1)
        pq.write_table(pa.table({"value": index, "index": index, "count": index}), folder / "vocab" / f"{name}.parquet")
    per_lane = groups // LANES
    one = np.arange(per_lane + 1, dtype=np.int32)
    for split in SPLITS:
        (folder / "samples" / split).mkdir(parents=True)
        for lane in range(LANES):
            ages = np.sort(draw.random((per_lane, LENGTH), np.float32) * 14, axis=1).ravel()
            clicks = draw.integers(0, items, per_lane * LENGTH).astype(np.int32)
            lists = {
                "history_item": (one * LENGTH, clicks),
                "history_age": (one * LENGTH, ages),
                "item": (one, draw.integers(0, items, per_lane).astype(np.int32)),
                "label": (one, (draw.random(per_lane) < 0.2).astype(np.float32)),
                "time": (one, np.arange(per_lane)),
                "weight": (one, np.ones(per_lane, np.float32)),
            }
            rows = {"user": pa.array(draw.integers(0, 10**6, per_lane)), "user_user_id": pa.array(np.arange(per_lane))}
            rows |= {name: pa.ListArray.from_arrays(*map(pa.array, parts)) for name, parts in lists.items()}
            pq.write_table(
                pa.table(rows),
                folder / "samples" / split / f"lane-{lane:03d}.parquet",
                compression="lz4",
                use_dictionary=False,
                write_statistics=False,
                row_group_size=ROW_GROUP,
            )
        groups, per_lane, one = LANES, 1, np.arange(2, dtype=np.int32)  # little for the other splits
    Dataset(
        folder=folder,
        fingerprint="0" * 16,
        user={"user_id": ColumnInfo("id", "user_id", 10**6 + 1)},
        item=columns | {"price": ColumnInfo("number")},
        context={},
        lanes=LANES,
        partitions=16,
        parts={split: PartInfo(0, 0, 0, 0) for split in SPLITS},
        splits={split: SplitInfo((split,), 0, 0, 0, 0) for split in SPLITS},
        num_items=items,
        num_pictures=items,
        history_max_length=LENGTH,
        has_truth=False,
        pictures_fingerprint="0" * 16,
    ).save()
    return Dataset.open(folder)


def measure(dataset: Dataset, batch_size: int, shuffle: bool, **reading: int) -> float:
    """Returns impressions per second of processor time, over one pass: what one core does that does nothing else."""
    tables = ItemTables.read(dataset, USED)
    start, impressions = time.process_time(), 0
    for batch in read_batches(
        dataset,
        "train",
        columns=USED,
        batch_size=batch_size,
        max_history=LENGTH,
        shuffle=shuffle,
        tables=tables,
        **reading,
    ):
        impressions += batch.num_impressions
    return impressions / (time.process_time() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--groups", type=int, default=1_000_000)
    options = parser.parse_args()
    print(f"{'items':>10} {'batch':>6} {'order':>9} {'impressions/s':>14}   of the target")
    for items in (10_000, 1_000_000):
        with tempfile.TemporaryDirectory() as folder:
            dataset = write_dataset(Path(folder) / "dataset", options.groups, items)
            for batch_size in (2048, 256):
                for shuffle in (False, True):
                    speed = measure(dataset, batch_size, shuffle)
                    order = "shuffled" if shuffle else "as stored"
                    print(f"{items:>10,} {batch_size:>6} {order:>9} {speed:>14,.0f}   {speed / 500_000:.2f}")


if __name__ == "__main__":
    main()
