"""The mistake: times are milliseconds."""

from dataclasses import dataclass
from io import BytesIO

import pyarrow as pa
from PIL import Image

from dicm_kit import Component, DataSource, SourceColumn, SourceColumns, hookimpl

dicm_api = 1
CAUGHT_BY = "times_are_whole_seconds"
ALSO = ("makes_a_dataset",)


@dataclass
class Config:
    """A shop of four items and three users, in pieces of a day."""

    days: int = 4
    """Length of the log."""


class Shop(DataSource):
    columns = SourceColumns(
        user={"city": SourceColumn("id")},
        item={"colour": SourceColumn("id"), "price": SourceColumn("number")},
        context={"place": SourceColumn("id")},
    )
    snapshot = "always the same"

    def __init__(self, days):
        self.fingerprint = f"shop of {days} days"
        self.pieces = {f"day {day}": "done" for day in range(days)}

    def impressions(self, piece):
        day = int(piece.removeprefix("day "))
        rows = range(12)
        yield pa.RecordBatch.from_pydict(
            {
                "user": pa.array([1 + row % 3 for row in rows]),
                "item": pa.array([10 + (row + day) % 4 for row in rows]),
                "time": pa.array([(19_700 * 86_400 + day * 86_400 + 3600 * row) * 1000 for row in rows]),
                "label": pa.array([row % 2 for row in rows]),
                "place": pa.array([row % 5 for row in rows]),
            }
        )

    def items(self):
        yield pa.RecordBatch.from_pydict(
            {
                "item": pa.array([10, 11, 12, 13]),
                "picture": pa.array(["a", "b", "c", None]),
                "colour": pa.array(["red", "red", "blue", "blue"]),
                "price": pa.array([1.0, 2.0, 3.0, 4.0]),
            }
        )

    def users(self):
        yield pa.RecordBatch.from_pydict({"user": pa.array([1, 2, 3]), "city": pa.array(["x", "y", "x"])})

    def pictures(self, have):
        for name in ("a", "b", "c"):
            if name in have:
                continue
            yield name, drawn(name)


def drawn(name):
    buffer = BytesIO()
    Image.new("RGB", (8, 8), (50 * (ord(name) - 96), 0, 100)).save(buffer, "PNG")
    return buffer.getvalue()


def build(config, shapes):
    return Shop(config.days)


@hookimpl
def dicm_data_sources():
    return [Component(name="mine", config=Config, build=build)]
