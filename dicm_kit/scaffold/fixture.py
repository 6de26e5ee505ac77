"""A little of the made-up shop as files: what a new data source reads in its tests."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from dicm_kit.data.sources.synthetic import SyntheticConfig, build_synthetic

if TYPE_CHECKING:
    import pyarrow as pa

SHOP = SyntheticConfig(users=40, items=24, impressions=800, days=4, page_size=4, picture_size=16)


def write_fixture(folder: Path) -> None:
    """Writes clicks.csv, items.csv and pictures/<item>.jpg into a new folder, the same each time."""
    shop = build_synthetic(SHOP)
    (folder / "pictures").mkdir(parents=True)
    pictures = dict(shop.pictures(have=()))
    for batch in shop.items():
        for item, picture in zip(batch["item"].to_pylist(), batch["picture"].to_pylist(), strict=True):
            if picture is not None:
                (folder / "pictures" / f"{item}.jpg").write_bytes(pictures[picture])
    (piece,) = shop.pieces
    clicks = {"user": "user", "item": "item", "time": "time", "label": "clicked", "position": "position"}
    _write(folder / "clicks.csv", shop.impressions(piece), clicks)
    _write(folder / "items.csv", shop.items(), {name: name for name in ("item", "category", "price")})


def _write(file: Path, batches: "Iterable[pa.RecordBatch]", columns: dict[str, str]) -> None:
    """Writes the columns, each under another name."""
    import pyarrow as pa
    from pyarrow.csv import WriteOptions, write_csv

    table = pa.Table.from_batches(list(batches)).select(list(columns)).rename_columns(list(columns.values()))
    write_csv(table, file, WriteOptions(quoting_style="needed"))
