"""MicroLens as a data source: who comments on which short video, with the videos' covers.

MicroLens-50k, -100k and -1M as their makers give them. Comments only: negatives are drawn when the dataset folder is
prepared.
"""

from collections.abc import Container, Iterator
from dataclasses import dataclass
from functools import cached_property

import pyarrow as pa
import pyarrow.compute as pc

from dicm_kit import (
    Component,
    DataSource,
    SourceColumn,
    SourceColumns,
    SourceFolder,
    TextTable,
    hookimpl,
    joined_fingerprint,
)

dicm_api = 1

_VERSION = 1  # raised when the same files and config would give other tables
_HOLDS = {
    "MicroLens-*_pairs.csv": "comments: user,item,timestamp in milliseconds (the .tsv has no times)",
    "MicroLens-*_title*.csv": "one line for each video: its number and its title",
    "MicroLens-*_likes_and_views.txt": "likes and views of each video (not needed)",
    "tags_to_summary.csv": "a category for each video (not needed)",
    "MicroLens-*_covers/": "covers <video>.jpg, named by the recipe's `covers`",
}
_PAIRS = {"user": "int64", "item": "int64", "timestamp": "int64"}
_TITLES = "MicroLens-*_title*.csv"
_LEAST = 10**11  # of milliseconds since 1970: one in seconds is below
_COUNTS = {"item": "int64", "likes": "float64", "views": "float64"}


@dataclass
class MicroLensConfig:
    """Short videos that people commented on (MicroLens): every row a click, negatives are drawn."""

    root: str
    """Folder with MicroLens-50k_pairs.csv (or 100k, 1M), the titles, and what else there is."""
    covers: str | None = None
    """Folder of the covers `<video>.jpg`, a path from `root`: MicroLens-50k_covers. Videos may lack one. null: none."""


class MicroLens(DataSource):
    """Streams of a MicroLens folder; what is said of the videos, 91,000 at most, is held in memory."""

    def __init__(self, root: str, covers: str | None):
        folder = SourceFolder(root, _HOLDS)
        self._pairs = folder.table("MicroLens-*_pairs.csv", _PAIRS)
        # Only 50k has a header and quotes; elsewhere titles have commas and lone quotes: a line is read as one text.
        self._titles = folder.table(_TITLES, {"line": "string"}, separator="\t\t", header=False, quotes=False)
        self._has_header = next(self._titles.batches())["line"][0].as_py() == "item,title"
        if self._has_header:
            self._titles = folder.table(_TITLES, {"item": "int64", "title": "string?"})
        self._beside: list[TextTable] = []  # tables by video
        if folder.has("MicroLens-*_likes_and_views.txt"):
            form = {"separator": "\t", "header": False, "quotes": False}
            self._beside.append(folder.table("MicroLens-*_likes_and_views.txt", _COUNTS, **form))
        if folder.has("tags_to_summary.csv"):
            tags = {"item": "int64", "tag": "string?"}
            self._beside.append(folder.table("tags_to_summary.csv", tags, header=False, quotes=False))
        self._covers = folder.pictures(covers, self._names, "covers") if covers is not None else None
        names = [name for table in self._beside for name in table.columns if name != "item"]
        kinds = {name: SourceColumn("id" if name == "tag" else "number") for name in names}
        self.columns = SourceColumns(item={"title": SourceColumn("id")} | kinds)
        self.fingerprint = joined_fingerprint(["microlens", _VERSION, *names, covers is None])
        self.pieces = {"pairs": self._pairs.fingerprint}

    @cached_property
    def snapshot(self) -> str:
        """Of what is said of the videos, and of the list of covers."""
        files = [table.fingerprint for table in (self._titles, *self._beside)]
        return joined_fingerprint([*files, self._covers.fingerprint if self._covers else ""])

    def impressions(self, piece: str) -> Iterator[pa.RecordBatch]:
        """Yields every comment; what its time has below a second goes into `order`."""
        for batch in self._pairs.batches():
            early = pc.less(batch["timestamp"], _LEAST)
            self._pairs.refuse(batch, early, "`timestamp` is not in milliseconds since 1970")
            second = pc.divide(batch["timestamp"], 1000)
            yield pa.RecordBatch.from_pydict(
                {
                    "user": batch["user"],
                    "item": batch["item"],
                    "time": second,
                    "order": pc.subtract(batch["timestamp"], pc.multiply(second, 1000)),
                    "label": pa.repeat(pa.scalar(1.0, pa.float32()), len(batch)),
                }
            )

    def items(self) -> Iterator[pa.RecordBatch]:
        """Yields every video that has a title line, with likes, views and tag where the folder has them."""
        beside = [pa.Table.from_batches(table.batches()) for table in self._beside]
        for item, title in self._lines():
            rows = {"item": item, "picture": item.cast(pa.string()) if self._covers else pa.nulls(len(item))}
            for table in beside:
                place = pc.index_in(item, value_set=table["item"])
                rows |= {name: table[name].combine_chunks().take(place) for name in table.schema.names[1:-1]}
            yield pa.RecordBatch.from_pydict(rows | {"title": title})

    def users(self) -> Iterator[pa.RecordBatch]:
        """Yields none: nothing is known of them but their number."""
        return iter(())

    def pictures(self, have: Container[str]) -> Iterator[tuple[str, bytes | str]]:
        """Yields the covers of videos."""
        return self._covers.read(have) if self._covers else iter(())

    def _lines(self) -> Iterator[tuple[pa.Array, pa.Array]]:
        """Yields numbers of videos, and titles."""
        for batch in self._titles.batches():
            if self._has_header:
                yield batch["item"], batch["title"]
                continue
            parts = pc.extract_regex(batch["line"], r"^(?P<item>\d{1,18}),(?P<title>.*)$")
            self._titles.refuse(batch, parts.is_null(), "no video's number and comma at the beginning")
            yield pc.struct_field(parts, "item").cast(pa.int64()), pc.struct_field(parts, "title")

    def _names(self) -> Iterator[str]:
        for item, _ in self._lines():
            yield from map(str, item.to_pylist())


def build(config: MicroLensConfig, shapes: None = None) -> MicroLens:
    """Returns the source that the config describes."""
    return MicroLens(config.root, config.covers)


@hookimpl
def dicm_data_sources() -> list[Component[DataSource]]:
    """Returns the data source of this plugin."""
    no_effect = {"covers": "names a folder that need not be there"}
    paper = "arXiv:2309.15379"
    return [Component(name="microlens", config=MicroLensConfig, build=build, paper=paper, no_effect=no_effect)]
