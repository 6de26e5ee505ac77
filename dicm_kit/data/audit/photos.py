"""Items and their pictures: which are there, which are not and why, and whether one stands for many items."""

from collections import Counter
from pathlib import Path

import numpy as np
import yaml

from dicm_kit.data.audit.format import ITEMS, has_columns
from dicm_kit.data.audit.result import Findings, PictureCounts, Refused
from dicm_kit.data.dataset import DATASET_FILE, Dataset
from dicm_kit.errors import ImageError, some
from dicm_kit.exchange.owner import partition
from dicm_kit.shards import COUNTS, list_shards, shard_keys

_LOOKED_UP = 200_000  # pictures whose names are read in the shards
_EXAMPLES = 5


def look_at_pictures(dataset: Dataset, findings: Findings) -> PictureCounts:
    """Returns the counts; items whose picture is in no shard, lost shards and wrong counts go to `findings`."""
    key = dataset.items["picture_key"].to_numpy()
    distinct, counts = np.unique(key[key != 0], return_counts=True)
    most = int(np.argmax(counts)) if len(counts) else 0
    shared = np.flatnonzero(key == distinct[most])[:_EXAMPLES] if len(counts) else np.zeros(0, np.int64)
    return PictureCounts(
        items=len(key),
        with_picture=int(np.count_nonzero(key)),
        distinct=len(distinct),
        stored=_check_shards(dataset, distinct, findings),
        refused=_refused(dataset.images_folder / "rejected.parquet", findings),
        shared_by=int(counts[most]) if len(counts) else 0,
        shared_key=int(distinct[most]) if len(counts) else 0,
        shared_examples=tuple(str(dataset.items["item"][int(row)]) for row in shared),
    )


def _refused(file: Path, findings: Findings) -> dict[str, Refused]:
    """Returns the pictures that count as missing by reason."""
    import pyarrow.parquet as pq

    text = ("string", "large_string")
    if not file.exists() or not has_columns(file, f"images/{file.name}", {"name": text, "reason": text}, findings):
        return {}
    counts: Counter[str] = Counter()
    names: dict[str, list[str]] = {}
    with pq.ParquetFile(file) as table:
        for batch in table.iter_batches(columns=["name", "reason"]):
            for name, reason in zip(batch["name"].to_pylist(), batch["reason"].to_pylist(), strict=True):
                counts[reason] += 1
                if len(known := names.setdefault(reason, [])) < _EXAMPLES:
                    known.append(name)
    return {reason: Refused(count, tuple(names[reason])) for reason, count in counts.most_common()}


def _check_shards(dataset: Dataset, wanted: np.ndarray, findings: Findings) -> int:
    """Returns how many pictures the shards hold; looks for the wanted ones in some partitions, or in all of a small
    dataset."""
    todo = "Copy the shards again, or prepare the dataset again."
    try:
        shards = list_shards(dataset.images_folder)
    except ImageError as error:
        findings.add(f"images/{COUNTS}", error.what, error.todo or todo)
        return 0
    except (KeyError, TypeError, AttributeError, yaml.YAMLError) as error:
        findings.add(f"images/{COUNTS}", f"cannot be read: {type(error).__name__} {error}", todo)
        return 0
    stored = sum(shard.count for shard in shards)
    if stored < dataset.num_pictures:
        what = f"counts {stored:,} pictures; {DATASET_FILE} says num_pictures {dataset.num_pictures:,}"
        findings.add(f"images/{COUNTS}", what, todo)
    if wrong := sorted({shard.partition for shard in shards if shard.partition >= dataset.partitions}):
        what = f"lists shards of partition {some(wrong)}; {DATASET_FILE} says partitions {dataset.partitions}"
        findings.add(f"images/{COUNTS}", what, todo)
        return stored
    of_partition = partition(wanted, dataset.partitions)
    looked_up = 0
    for number in range(dataset.partitions):
        if looked_up >= _LOOKED_UP:
            break
        there: list[int] = []
        for shard in (shard for shard in shards if shard.partition == number):
            try:
                keys = shard_keys(shard.path)
            except ImageError as error:
                findings.add(f"images/{shard.path.name}", error.what, error.todo or todo)
                return stored
            if len(keys) != shard.count:
                what = f"holds {len(keys):,} pictures; {COUNTS} says {shard.count:,}"
                findings.add(f"images/{shard.path.name}", what, todo)
            there += keys
        mine = wanted[of_partition == number]
        lost = mine[~np.isin(mine, np.array(there, np.int64))]
        looked_up += len(there)
        example = f"key {lost[0]}" if len(lost) else ""
        findings.add(ITEMS, "pictures of items are in no shard", todo, count=len(lost), example=example)
    return stored
