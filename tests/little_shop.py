"""A data source in memory, small enough to check by hand, and what shares it."""

from collections.abc import Container, Iterator
from copy import copy
from io import BytesIO
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from dicm_kit.interfaces import DataSource, SourceColumn, SourceColumns

DAY = 86_400


def picture(shade: int) -> bytes:
    """Returns a small PNG of one shade."""
    buffer = BytesIO()
    Image.new("RGB", (8, 8), (shade, shade // 2, 255 - shade)).save(buffer, "PNG")
    return buffer.getvalue()


class LittleShop(DataSource):
    """Tables and pictures that are given; `batch` rows at a time."""

    def __init__(
        self,
        impressions: dict[str, Any],
        items: dict[str, Any],
        users: dict[str, Any] | None = None,
        pictures: list[tuple[str, bytes]] | None = None,
        columns: SourceColumns | None = None,
        fingerprint: str = "little",
        batch: int = 1000,
    ):
        self.tables = {"impressions": pa.table(impressions), "items": pa.table(items), "users": pa.table(users or {})}
        self._pictures = pictures or []
        self.columns = columns or SourceColumns()
        self.fingerprint, self._batch = fingerprint, batch
        self.pieces, self.snapshot = {"log": fingerprint}, fingerprint
        self.asked: list[str] = []
        """Which streams were asked for."""

    def cut(self, *ends: int) -> "LittleShop":
        """Returns the shop with its log in pieces by day: `day 0` ends before day `ends[0]`, and so on."""
        shop = copy(self)
        time, shop.asked, begin = self.tables["impressions"]["time"].to_numpy(), [], 0
        shop.pieces, shop.tables = {}, dict(self.tables)
        for end in ends:
            name = f"day {begin}"
            shop.tables[name] = self.tables["impressions"].filter(pa.array((time >= begin * DAY) & (time < end * DAY)))
            shop.pieces[name] = f"{name} of {self.fingerprint}"
            begin = end
        return shop

    def _stream(self, name: str) -> "Iterator[pa.RecordBatch]":
        self.asked.append(name)
        yield from self.tables[name].to_batches(self._batch)

    def impressions(self, piece: str) -> "Iterator[pa.RecordBatch]":
        return self._stream("impressions" if piece == "log" else piece)

    def items(self) -> "Iterator[pa.RecordBatch]":
        return self._stream("items")

    def users(self) -> "Iterator[pa.RecordBatch]":
        return self._stream("users")

    def pictures(self, have: Container[str]) -> Iterator[tuple[str, bytes]]:
        self.asked.append("pictures")
        yield from ((name, data) for name, data in self._pictures if name not in have)


def random_shop(
    seed: int = 0,
    impressions: int = 2000,
    users: int = 30,
    items: int = 40,
    days: int = 6,
    page: int = 4,
    strings: bool = False,
    batch: int = 1000,
) -> LittleShop:
    """Returns a shop with columns of every kind: pages at few different times, items without a picture or a brand."""
    draw = np.random.default_rng(seed)
    pages = -(-impressions // page)
    user = np.repeat(draw.integers(0, users, pages), page)[:impressions]
    time = np.repeat(draw.integers(0, days * 24, pages) * 3600, page)[:impressions]
    time[-1] = days * DAY - 1  # so that the log has all its days
    item = draw.integers(0, items, impressions)
    label = (draw.random(impressions) < 0.3).astype(np.int64)
    for day in range(days):  # every day has both
        label[np.flatnonzero(time // DAY == day)[:2]] = [0, 1][: np.count_nonzero(time // DAY == day)]
    name = np.char.mod("u%d", user) if strings else user
    tags = [[f"t{tag}" for tag in draw.integers(0, 9, count)] for count in draw.integers(0, 4, items)]
    return LittleShop(
        impressions={
            "user": name,
            "item": np.char.mod("i%d", item) if strings else item,
            "time": time,
            "label": label,
            "order": draw.integers(0, 3, impressions),
            "weight": draw.choice([0.5, 1.0, 2.0], impressions).astype(np.float32),
            "click_probability": draw.random(impressions),
            "hour": time // 3600 % 24,
            "queries": [draw.integers(0, 6, count).tolist() for count in draw.integers(0, 3, impressions)],
        },
        items={
            "item": np.char.mod("i%d", np.arange(items)) if strings else np.arange(items),
            "picture": [None if index % 7 == 3 else f"p{index // 2}" for index in range(items)],
            "brand": [None if index % 5 == 4 else f"b{index % 6}" for index in range(items)],
            "tags": tags,
            "price": [None if index % 9 == 8 else float(index) for index in range(items)],
            "shop": np.char.mod("s%d", np.arange(items) % 4),
        },
        users={
            "user": np.char.mod("u%d", np.arange(users)) if strings else np.arange(users),
            "city": np.char.mod("c%d", np.arange(users) % 5),
            "likes": [[f"t{index % 9}"] * (index % 3) for index in range(users)],
        },
        pictures=[(f"p{index}", picture(index * 3 % 256)) for index in range(-(-items // 2))],
        columns=SourceColumns(
            user={"city": SourceColumn("id"), "likes": SourceColumn("ids", vocab="tags")},
            item={
                "brand": SourceColumn("id"),
                "tags": SourceColumn("ids"),
                "price": SourceColumn("number"),
                "shop": SourceColumn("hash"),
            },
            context={"hour": SourceColumn("id"), "queries": SourceColumn("ids")},
        ),
        fingerprint=f"random {seed} {strings}",
        batch=batch,
    )
