"""A log in files: tables as Parquet or CSV, pictures, and whatever files a recipe of the `log` source asks for."""

import tarfile
from collections.abc import Mapping
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as csv
import pyarrow.parquet as pq
from little_shop import picture

from dicm_kit.data.sources.log import LogSource
from dicm_kit.data.sources.log_config import ImpressionsConfig, ItemsConfig, LogConfig, PicturesConfig, UsersConfig

DAY = 86_400
FIRST = 1_700_006_400  # 2023-11-15 00:00 UTC


def write_table(path: Path, columns: Mapping[str, Any] | pa.Table) -> None:
    """Writes a table in the format that the name ends in; in CSV lists are joined by `|`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    table = columns if isinstance(columns, pa.Table) else pa.table(dict(columns))
    if path.suffix == ".parquet":
        pq.write_table(table, path)
        return
    for index, name in enumerate(table.schema.names):
        if pa.types.is_list(table.schema.field(name).type):
            texts = [row if row is None else "|".join(map(str, row)) for row in table[name].to_pylist()]
            table = table.set_column(index, name, pa.array(texts, pa.string()))
    with pa.output_stream(str(path)) as stream:  # .gz is packed by its name
        csv.write_csv(table, stream, csv.WriteOptions(delimiter="\t" if ".tsv" in path.name else ","))


def write_tar(path: Path, files: Mapping[str, bytes]) -> None:
    """Writes a tar file, packed when its name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz" if path.suffix in (".gz", ".tgz") else "w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, BytesIO(content))


def tables(
    seed: int = 0, impressions: int = 400, users: int = 20, items: int = 30, days: int = 5
) -> dict[str, pa.Table]:
    """Returns the three tables of a small log: `log` (by time, whole days), `items` and `users`.

    Every fifth item has no picture, every seventh shows that of the item before it.
    """
    draw = np.random.default_rng(seed)
    time = np.sort(draw.integers(0, days * 24, impressions)) * 3600 + FIRST
    time[-1] = FIRST + days * DAY - 1
    label = (draw.random(impressions) < 0.4).astype(np.int64)
    for day in range(days):  # every day has both
        label[np.flatnonzero((time - FIRST) // DAY == day)[:2]] = [0, 1]
    shown = np.arange(items) - (np.arange(items) % 7 == 6)
    return {
        "log": pa.table(
            {
                "user_id": draw.integers(0, users, impressions) + 100,
                "item_id": draw.integers(0, items, impressions) + 1000,
                "timestamp": time,
                "position": np.arange(impressions),
                "clicked": label,
                "channel": draw.integers(1, 4, impressions),
                "price": np.round(draw.random(impressions), 3),
            }
        ),
        "items": pa.table(
            {
                "item_id": np.arange(items) + 1000,
                "image": [None if item % 5 == 4 else f"images/{item + 1000}.png" for item in shown.tolist()],
                "colour": [None if item % 6 == 5 else f"c{item % 4}" for item in range(items)],
                "tags": [[f"t{tag}" for tag in range(item % 3)] or None for item in range(items)],
            }
        ),
        "users": pa.table({"user_id": np.arange(users) + 100, "city": [f"city {user % 3}" for user in range(users)]}),
    }


def write_log(folder: Path, ending: str = ".parquet", **options: int) -> None:
    """Writes `log`, `items` and `users` with this ending, and the pictures that items name into `images`."""
    made = tables(**options)
    for name, table in made.items():
        write_table(folder / f"{name}{ending}", table)
    for name in filter(None, made["items"]["image"].to_pylist()):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture(int(path.stem) % 256))


def little_log(root: Path | str, ending: str = ".parquet", **changed: Any) -> LogSource:
    """Returns the source of a log that `write_log` wrote; `changed`: keys of `impressions`."""
    keys: dict[str, Any] = {
        "file": f"log{ending}",
        "user": "user_id",
        "item": "item_id",
        "time": ["timestamp", "position"],
        "label": "clicked",
        "columns": {"channel": "id", "price": "number"},
    }
    return LogSource(
        str(root),
        ImpressionsConfig(**keys | changed),
        ItemsConfig(file=f"items{ending}", item="item_id", picture="image", columns={"colour": "id", "tags": "ids"}),
        UsersConfig(file=f"users{ending}", user="user_id", columns={"city": "id"}),
    )


def log_of(folder: Path, table: Mapping[str, Any], *, name: str = "log.parquet", **keys: Any) -> LogSource:
    """Returns the source of a log with these columns; `user`, `item` and `time` are filled in where they are not."""
    count = len(next(iter(table.values())))
    table = {"user": [1] * count, "item": [7] * count, "time": [FIRST] * count} | dict(table)
    write_table(folder / name, table)
    write_table(folder / "items.parquet", {"item": pa.chunked_array([table["item"]]).unique().drop_null()})
    keys = {"file": name, "user": "user", "item": "item", "time": "time"} | keys
    return LogSource(str(folder), ImpressionsConfig(**keys), ItemsConfig(file="items.parquet", item="item"))


def impressions(source: LogSource) -> dict[str, list[Any]]:
    """Returns all impressions, by column."""
    return pa.Table.from_batches([batch for piece in source.pieces for batch in source.impressions(piece)]).to_pydict()


# --- a log for any recipe ---


def fit_log(config: LogConfig, root: Path, rows: int = 60) -> None:
    """Writes under `root` a log that has the files, columns and pictures that a recipe names."""
    log, items, users = config.impressions, config.items, config.users
    rng = np.random.default_rng(0)
    ids = {"user": rng.integers(0, 8, rows) + 100, "item": rng.integers(0, 12, rows) + 1000}
    times = [log.time] if isinstance(log.time, str) else log.time
    table: dict[str, Any] = {
        log.user: _ids(ids["user"], log.user, log.text),
        log.item: _ids(ids["item"], log.item, log.text),
    }
    day = log.since or log.until
    first = FIRST if day is None else int(datetime.fromisoformat(f"{day}T00:00:00+00:00").timestamp())
    table |= {times[0]: np.arange(rows) * (600 if day else 3600) + first} | {
        name: np.arange(rows) for name in times[1:]
    }
    table |= {name: np.arange(rows) % 2 for name in (log.label, log.weight) if name}
    table |= {name: [("train", "val", "test")[row % 3] for row in range(rows)] for name in (log.split,) if name}
    if log.history is not None:
        table[log.history.column] = [[1000, 1001]] * rows
        table |= {name: [[FIRST - DAY] * 2] * rows for name in (log.history.times,) if name}
    table |= {name: _values(kind, rows) for name, kind in log.columns.items() if name not in table}
    table |= {name: [values[0]] * rows for name, values in log.where.items()}
    write_table(_file(root, log.file), table)
    item = np.arange(12) + 1000
    table = {items.item: _ids(item, items.item, items.text)}
    table |= {name: _values(kind, len(item)) for name, kind in items.columns.items() if name not in table}
    if items.picture is not None:
        table[items.picture] = [f"images/{each}.png" for each in item]
    write_table(_file(root, items.file), table)
    if users is not None:
        user = np.arange(8) + 100
        table = {users.user: _ids(user, users.user, users.text)}
        table |= {name: _values(kind, len(user)) for name, kind in users.columns.items() if name not in table}
        write_table(_file(root, users.file), table)
    _fit_pictures(config.pictures or PicturesConfig(folder="images"), root, item.tolist())


def _fit_pictures(config: PicturesConfig, root: Path, items: list[int]) -> None:
    made = {f"{item}.png": picture(item % 256) for item in items}
    if config.tar is not None:
        write_tar(_file(root, config.tar), made)
        return
    assert config.folder is not None
    for name, content in made.items():
        path = root / config.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


def _file(root: Path, name: str) -> Path:
    """Returns a file that a name, a folder or a glob finds."""
    path = root / name.replace("*", "0").replace("?", "0")
    return path if path.suffix else path / "part-0.parquet"


def _ids(values: np.ndarray, name: str, text: list[str]) -> Any:
    return np.char.mod("%d", values) if name in text else values


def _values(kind: str, rows: int) -> Any:
    if kind == "ids":
        return [[f"v{row % 3}", "v9"] for row in range(rows)]
    return np.arange(rows) / 7 if kind == "number" else [f"v{row % 3}" for row in range(rows)]
