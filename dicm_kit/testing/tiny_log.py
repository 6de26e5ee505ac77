"""A tiny log of a shop in files: what the `log` source is checked on, and a dataset folder for a plugin's own tests."""

import atexit
import shutil
import tempfile
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

DAY = 86_400
FIRST = 1_700_006_400  # 2023-11-15 00:00 UTC
USERS, ITEMS, IMPRESSIONS = 6, 8, 72


def write_tiny_log(folder: Path) -> None:
    """Writes `log.parquet` (72 impressions of 3 days), `items.parquet`, `users.parquet` and `images/<item>.png`.

    Items 1000 to 1007, the last without a picture; users 100 to 105.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq
    from PIL import Image

    (folder / "images").mkdir(parents=True, exist_ok=True)
    row = range(IMPRESSIONS)
    items = [1000 + index for index in range(ITEMS)]
    names = [f"images/{item}.png" for item in items[:-1]]
    log = {
        "user_id": [100 + index % USERS for index in row],
        "item_id": [1000 + (index * 5 + index // USERS) % ITEMS for index in row],
        "timestamp": [FIRST + index * 3600 for index in row],
        "clicked": [int(index % 7 in (0, 3, 5)) for index in row],
        "channel": [f"c{index % 3}" for index in row],
        "price": [0.5 * (index % 5) for index in row],
    }
    pq.write_table(pa.table(log), folder / "log.parquet")
    pq.write_table(
        pa.table({"item_id": items, "image": [*names, None], "colour": [f"k{item % 3}" for item in items]}),
        folder / "items.parquet",
    )
    users = list(range(100, 100 + USERS))
    pq.write_table(pa.table({"user_id": users, "city": [f"t{user % 2}" for user in users]}), folder / "users.parquet")
    for index, name in enumerate(names):
        buffer = BytesIO()
        Image.new("RGB", (12, 10), (30 * index, 255 - 30 * index, 100)).save(buffer, "PNG")
        (folder / name).write_bytes(buffer.getvalue())


def tiny_log_config(root: Path) -> dict[str, Any]:
    """Returns the keys of a recipe's `data` section that read a tiny log, without `name`."""
    return {
        "root": str(root),
        "impressions": {
            "file": "log.parquet",
            "user": "user_id",
            "item": "item_id",
            "time": "timestamp",
            "label": "clicked",
            "columns": {"channel": "id", "price": "number"},
        },
        "items": {"file": "items.parquet", "item": "item_id", "picture": "image", "columns": {"colour": "id"}},
        "users": {"file": "users.parquet", "user": "user_id", "columns": {"city": "id"}},
    }


@cache
def tiny_log_configs() -> tuple[dict[str, Any], ...]:
    """Returns configs of the `log` source on a tiny log that is there until the process ends."""
    root = Path(tempfile.mkdtemp(prefix="dicm-tiny-log-"))
    atexit.register(shutil.rmtree, root, ignore_errors=True)
    write_tiny_log(root)
    whole = tiny_log_config(root)
    named = {**whole, "items": {"file": "items.parquet", "item": "item_id"}, "pictures": {"folder": "images"}}
    return whole, {**named, "users": None}
