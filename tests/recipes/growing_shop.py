"""The debug recipe's shop as the files of a log that grows by a day at a time."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from recipes.debug_runs import DEBUG

from dicm_kit.data.sources.synthetic import SyntheticConfig, build_synthetic

DAY = 86_400
SHOP = SyntheticConfig(users=60, items=80, impressions=4000, days=5, picture_size=32)


def write_shop(folder: Path) -> list[pa.Table]:
    """Writes the debug recipe's shop as the files of a log, but for its impressions: those are returned by day."""
    source = build_synthetic(SHOP)
    (folder / "pictures").mkdir(parents=True)
    for name, data in source.pictures(()):
        (folder / "pictures" / f"{name}.jpg").write_bytes(data)
    items, users = (pa.Table.from_batches(list(each)) for each in (source.items(), source.users()))
    shown = [name if name is None else f"pictures/{name}.jpg" for name in items["picture"].to_pylist()]
    pq.write_table(
        items.set_column(items.column_names.index("picture"), "picture", pa.array(shown)), folder / "items.parquet"
    )
    pq.write_table(users, folder / "users.parquet")
    (folder / "log").mkdir()
    log = pa.Table.from_batches(list(source.impressions("log")))
    day = log["time"].to_numpy() // DAY
    return [log.filter(pa.array(day == each)) for each in np.unique(day)]


def daily_recipe(folder: Path) -> Path:
    """Writes the debug recipe with its data from the log; all runs are below `runs`, and start from each other."""
    text = DEBUG.read_text()
    data = f"""data:
  name: log
  root: {folder / "shop"}
  impressions: {{file: log, user: user, item: item, time: time, label: label, columns: {{position: id}}}}
  items: {{file: items.parquet, item: item, picture: picture, columns: {{category: id, price: number}}}}
  users: {{file: users.parquet, user: user, columns: {{segment: id}}}}
  history: {{max_length: 8}}
  split: {{by: time, test: 1, validation: 1}}
  lanes: 4
  partitions: 4
  min_count: 5
  out: {folder / "data"}
warm_start: {{run: {folder / "runs"}, parts: all}}
"""
    path = folder / "daily.yaml"
    path.write_text(text[: text.index("data:\n")] + data + text[text.index("batch_size:") :])
    return path
