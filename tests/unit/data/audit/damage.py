"""Prepared folders, and ways to damage them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from little_shop import DAY, LittleShop, picture

from dicm_kit.interfaces import SourceColumn, SourceColumns

MONDAY = 19_723 * DAY
"""2024-01-01."""


Rows = list[tuple[int, int, int, int]]
"""(user, item, seconds since MONDAY, label)."""


def pages(users: int = 150, days: int = 4, size: int = 10, clicked: int = 3, seconds: int = 60) -> Rows:
    """Every user sees one page a day of different items, `seconds` after the user before; the first are clicked."""
    return [
        (user, 20 + (user * 7 + day * 3 + place) % 30, day * DAY + user * seconds, int(place < clicked))
        for user in range(users)
        for day in range(days)
        for place in range(size)
    ]


def shop(rows: Rows, **changes: Any) -> LittleShop:
    """Returns a shop; all items but 11 have a picture."""
    items = sorted({10, 11, 12} | {item for _, item, _, _ in rows})
    names = [None if item == 11 else f"p{item}" for item in items]
    given: dict[str, Any] = {
        "impressions": {
            "user": [user for user, *_ in rows],
            "item": [item for _, item, *_ in rows],
            "time": [MONDAY + seconds for *_, seconds, _ in rows],
            "label": [label for *_, label in rows],
            "place": ["top" if seconds % 20 == 0 else "low" for *_, seconds, _ in rows],
        },
        "items": {
            "item": items,
            "picture": names,
            "colour": [["red", "blue"][item % 2] for item in items],
            "price": [item / 2 for item in items],
        },
        "pictures": [(name, picture(index * 7 % 256)) for index, name in enumerate(names) if name],
        "columns": SourceColumns(
            item={"colour": SourceColumn("id"), "price": SourceColumn("number")},
            context={"place": SourceColumn("id")},
        ),
        "fingerprint": "a shop by hand",
    }
    for name, change in changes.items():
        given[name] = given[name] | change if isinstance(change, dict) else change
    return LittleShop(**given)


BY_HAND = [
    (1, 10, 100, 1),
    (1, 11, 100, 0),
    (2, 10, 200, 1),
    (1, 10, 300, 1),
    (2, 11, DAY, 0),
    (1, 10, DAY + 50, 1),
    (2, 12, 2 * DAY, 1),
    (1, 12, 2 * DAY + 10, 0),
]
"""Train, validation and test are a day each."""


def lanes(folder: Path, split: str) -> list[Path]:
    """Returns the lane files of a split."""
    parts = yaml.safe_load((folder / "dataset.yaml").read_text())["splits"][split]["parts"]
    return [file for part in parts for file in sorted((folder / "samples" / part).iterdir())]


def change_rows(file: Path, change: Callable[[list[dict[str, Any]]], Any]) -> None:
    """Writes a Parquet file anew, after `change` of its rows."""
    table = pq.read_table(file, partitioning=None)
    rows = table.to_pylist()
    change(rows)
    pq.write_table(pa.Table.from_pylist(rows, table.schema), file)


def change_groups(folder: Path, split: str, change: Callable[[dict[str, Any]], Any]) -> None:
    """Changes every group of a split."""
    for file in lanes(folder, split):
        change_rows(file, lambda rows: [change(row) for row in rows])


def change_table(file: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Writes a Parquet file anew, changed."""
    pq.write_table(change(pq.read_table(file, partitioning=None)), file)


def change_yaml(folder: Path, change: Callable[[dict[str, Any]], Any], name: str = "dataset.yaml") -> None:
    """Writes a YAML file anew, after `change` of its content."""
    content = yaml.safe_load((folder / name).read_text())
    change(content)
    (folder / name).write_text(yaml.safe_dump(content, sort_keys=False))
