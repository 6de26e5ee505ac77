"""The recipe's keys of the `log` source: which files, which columns, which rows."""

from dataclasses import dataclass, field
from typing import Any, Literal

from dicm_kit.interfaces import Kind

TimeUnit = Literal["auto", "s", "ms", "us", "ns", "order"]


@dataclass(kw_only=True)
class HistoryColumnConfig:
    """A column of lists: what the user has clicked already, as the log itself tells it."""

    column: str
    """Lists of item ids (from text: joined by `|`)."""
    times: str | None = None
    """Lists of the times of these clicks, as long as those of `column`, in the unit of `impressions.time`."""
    order: Literal["newest_first", "oldest_first"] = "newest_first"
    """How the lists are ordered."""


@dataclass(kw_only=True)
class ImpressionsConfig:
    """The log: one row for each item shown to a user (or, with `label: null`, for each item clicked)."""

    file: str
    """One file, a folder or a glob (`log/day-*.parquet`), Parquet or CSV; each file is a piece that is read once."""
    user: str
    """Column of the user's id."""
    item: str
    """Column of the item's id."""
    time: str | list[str]
    """Column of the time; a second column breaks ties: `[timestamp, position]`."""
    time_unit: TimeUnit = "auto"
    """Unit of a time column of numbers; `auto`: by their size; `order`: they are no clock, only an order."""
    label: str | None = None
    """Column with 1 for a click and 0 for none; null: every row is a click."""
    weight: str | None = None
    """Column with how much a row counts; null: each counts 1."""
    kept_negatives: float = 1.0
    """Share of the rows with label 0 that the log keeps: each counts 1/share, so that predictions stay calibrated."""
    split: str | None = None
    """Column with `train`, `val` or `test`, for `data.split.by: column`."""
    history: HistoryColumnConfig | None = None
    """Column with what the user has clicked already; null: histories come from the log's own clicks."""
    columns: dict[str, Kind] = field(default_factory=dict)
    """Context columns and their kinds: `{channel: id}`."""
    where: dict[str, list[Any]] = field(default_factory=dict)
    """Keeps the rows whose column has one of these values: `{channel: [1, 2]}`."""
    since: str | None = None
    """First day that is kept, YYYY-MM-DD (UTC)."""
    until: str | None = None
    """Last day that is kept, YYYY-MM-DD (UTC)."""
    text: list[str] = field(default_factory=list)
    """Columns that are read as text though they look like numbers, so that 0108775015 keeps its zero."""


@dataclass(kw_only=True)
class ItemsConfig:
    """The items: one row each."""

    file: str
    """One file, a folder or a glob, Parquet or CSV."""
    item: str
    """Column of the item's id."""
    picture: str | None = None
    """Column with the path of the item's picture, from `data.root`; null: none, or as `data.pictures` says."""
    columns: dict[str, Kind] = field(default_factory=dict)
    """Item columns and their kinds: `{colour: id, price: number}`."""
    text: list[str] = field(default_factory=list)
    """Columns that are read as text though they look like numbers."""


@dataclass(kw_only=True)
class UsersConfig:
    """The users: one row each."""

    file: str
    """One file, a folder or a glob, Parquet or CSV."""
    user: str
    """Column of the user's id."""
    columns: dict[str, Kind] = field(default_factory=dict)
    """User columns and their kinds: `{city: id}`."""
    text: list[str] = field(default_factory=list)
    """Columns that are read as text though they look like numbers."""


@dataclass(kw_only=True)
class PicturesConfig:
    """Pictures named after the items, `<item id>.jpg` (or jpeg, png, webp); one of the two keys."""

    folder: str | None = None
    """A folder; the pictures may lie in folders below it."""
    tar: str | None = None
    """A tar file or a glob of them, also .tar.gz: WebDataset shards."""


@dataclass(kw_only=True)
class LogConfig:
    """Your own log: Parquet or CSV files whose columns the recipe names, and your own pictures."""

    root: str
    """Folder of the log, or its address (`s3://...`): paths below start here, unless they are whole themselves."""
    impressions: ImpressionsConfig
    """The log: who was shown what, when, and whether it was clicked."""
    items: ItemsConfig
    """The items, with their pictures."""
    users: UsersConfig | None = None
    """The users; null: there is only their id."""
    pictures: PicturesConfig | None = None
    """Pictures named after the items, where `items.picture` names no column."""
