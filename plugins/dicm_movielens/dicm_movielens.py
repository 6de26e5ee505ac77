"""MovieLens as a data source: who likes which film, with posters that the user brings.

Three layouts, told apart by the files in the folder: ml-100k (`u.data`), ml-1m (`ratings.dat`), and the CSV files of
ml-latest-small, ml-latest, ml-20m, ml-25m and ml-32m (`ratings.csv`).
"""

from collections.abc import Container, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dicm_kit import (
    Component,
    DataSource,
    FieldError,
    SourceColumn,
    SourceColumns,
    SourceFolder,
    hookimpl,
    joined_fingerprint,
)

dicm_api = 1

_VERSION = 1  # raised when the same files and config would give other tables
_FLAGS = (
    "unknown Action Adventure Animation Children's Comedy Crime Documentary Drama Fantasy Film-Noir Horror Musical "
    "Mystery Romance Sci-Fi Thriller War Western"
)
_GENRES = tuple(_FLAGS.split(" "))
"""The flags at the end of a line of u.item, in their order."""
_PLAIN = {"header": False, "quotes": False, "encoding": "latin-1"}
_TABS, _BARS, _COLONS = (_PLAIN | {"separator": separator} for separator in ("\t", "|", "::"))
# Layout -> table -> file, columns in their order (those of `ratings` are user, item, stars, time), form.
_LAYOUTS: dict[str, dict[str, tuple[str, str, dict[str, Any]]]] = {
    "ml-100k": {
        "ratings": ("u.data", "user item rating time", _TABS),
        "films": ("u.item", f"item title released on_video url {_FLAGS}", _BARS),
        "users": ("u.user", "user age gender occupation zip_code", _BARS),
    },
    "ml-1m": {
        "ratings": ("ratings.dat", "user item rating time", _COLONS),
        "films": ("movies.dat", "item title genres", _COLONS),
        "users": ("users.dat", "user gender age occupation zip_code", _COLONS),
    },
    "ml-latest": {
        "ratings": ("ratings.csv", "userId movieId rating timestamp", {}),
        "films": ("movies.csv", "movieId title genres", {}),
    },
}
_NUMBERS = ("rating", "age")
_TEXTS = ("gender", "occupation", "zip_code", "title", "genres", "released", "on_video", "url")
_TYPES = dict.fromkeys(_NUMBERS, "float64") | dict.fromkeys(_TEXTS, "string?")
"""Of the columns that are no whole numbers."""
_HOLDS = {
    "u.data, u.item, u.user": "ml-100k",
    "ratings.dat, movies.dat, users.dat": "ml-1m",
    "ratings.csv, movies.csv": "ml-latest-small, ml-latest, ml-20m, ml-25m, ml-32m",
}


@dataclass
class MovieLensConfig:
    """Films that people rated (GroupLens): a rating of `liked_from` stars or more is a click."""

    root: str
    """Folder as GroupLens packs it: ml-100k, ml-1m, ml-latest-small, ml-latest, ml-20m, ml-25m, ml-32m."""
    posters: str | None = None
    """Folder of posters `<movie id>.jpg` (or jpeg, png, webp), a path from `root`; films may lack one. null: none."""
    liked_from: float = 4.0
    """Stars from which on a rating means "liked": label 1."""
    only_liked: bool = False
    """Leave out the other ratings, as in a log of clicks; then have negatives drawn: `data.negatives`."""


class MovieLens(DataSource):
    """Streams of a MovieLens folder; only the films' ids are held in memory, while pictures are read."""

    def __init__(self, root: str, posters: str | None, liked_from: float, only_liked: bool):
        folder = SourceFolder(root, _HOLDS)
        found = [name for name, layout in _LAYOUTS.items() if folder.has(layout["ratings"][0])]
        tables = _LAYOUTS[found[0] if found else "ml-latest"]  # where nothing is found, the error lists all layouts
        self._tables = {
            name: folder.table(file, {column: _TYPES.get(column, "int64") for column in columns.split(" ")}, **form)
            for name, (file, columns, form) in tables.items()
        }
        self._posters = folder.pictures(posters, self._names, "posters") if posters is not None else None
        self._liked_from, self._only_liked = liked_from, only_liked
        user = {"age": SourceColumn("number")} | {
            name: SourceColumn("id") for name in ("gender", "occupation", "zip_code")
        }
        item = {"title": SourceColumn("id"), "year": SourceColumn("id"), "genres": SourceColumn("ids")}
        self.columns = SourceColumns(user=user if "users" in self._tables else {}, item=item)
        self.fingerprint = joined_fingerprint(
            ["movielens", _VERSION, *tables.values(), liked_from, only_liked, posters is None]
        )
        self.pieces = {"ratings": self._tables["ratings"].fingerprint}

    @cached_property
    def snapshot(self) -> str:
        """Of the films, the users and the list of posters."""
        sides = [table.fingerprint for name, table in self._tables.items() if name != "ratings"]
        return joined_fingerprint([*sides, self._posters.fingerprint if self._posters else ""])

    def impressions(self, piece: str) -> Iterator[pa.RecordBatch]:
        """Yields every rating, or those of liked films."""
        table = self._tables[piece]
        for batch in table.batches():
            user, item, rating, time, _ = batch.columns
            wrong = pc.or_(pc.less(rating, 0.5), pc.greater(rating, 5))
            table.refuse(batch, wrong, "`rating` is not between 0.5 and 5")
            liked = pc.greater_equal(rating, self._liked_from)
            rows = {"user": user, "item": item, "time": time, "label": liked.cast(pa.float32())}
            made = pa.RecordBatch.from_pydict(rows)
            yield made.filter(liked) if self._only_liked else made

    def items(self) -> Iterator[pa.RecordBatch]:
        """Yields every film with its title, the year at the title's end, and its genres."""
        for batch in self._tables["films"].batches():
            item, title = batch[0], batch["title"]
            yield pa.RecordBatch.from_pydict(
                {
                    "item": item,
                    "picture": item.cast(pa.string()) if self._posters else pa.nulls(len(item), pa.string()),
                    "title": title,
                    "year": pc.struct_field(pc.extract_regex(title, r"\((?P<year>\d{4})\)\s*$"), "year"),
                    "genres": _genres(batch),
                }
            )

    def users(self) -> Iterator[pa.RecordBatch]:
        """Yields every user; none where the folder says nothing of them."""
        if "users" in self._tables:
            yield from (batch.drop_columns("row") for batch in self._tables["users"].batches())

    def pictures(self, have: Container[str]) -> Iterator[tuple[str, bytes | str]]:
        """Yields the posters of films."""
        return self._posters.read(have) if self._posters else iter(())

    def _names(self) -> Iterator[str]:
        for batch in self._tables["films"].batches():
            yield from map(str, batch[0].to_pylist())


def _genres(batch: pa.RecordBatch) -> pa.Array:
    """Returns lists of genres, from flags or from text like `Comedy|Drama`."""
    if "genres" not in batch.schema.names:
        flags = np.stack([batch[name].to_numpy() for name in _GENRES], axis=1)
        return pa.array([[_GENRES[place] for place in np.flatnonzero(row)] for row in flags], pa.list_(pa.string()))
    text = batch["genres"]
    none = pc.or_kleene(text.is_null(), pc.equal(text, "(no genres listed)"))
    return pc.split_pattern(pc.if_else(none, pa.scalar(None, pa.string()), text), "|")


def build(config: MovieLensConfig, shapes: None = None) -> MovieLens:
    """Returns the source that the config describes."""
    if not 0.5 <= config.liked_from <= 5:
        raise FieldError("liked_from", f"is {config.liked_from}, and ratings are 0.5 to 5 stars")
    return MovieLens(config.root, config.posters, config.liked_from, config.only_liked)


@hookimpl
def dicm_data_sources() -> list[Component[DataSource]]:
    """Returns the data source of this plugin."""
    no_effect = {"posters": "names a folder of the user's own, which the dataset does not have"}
    paper = "Harper and Konstan 2015"
    return [Component(name="movielens", config=MovieLensConfig, build=build, paper=paper, no_effect=no_effect)]
