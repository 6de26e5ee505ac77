"""Your own log as a data source: Parquet or CSV files whose columns the recipe names, and your own pictures.

```
log_config    the recipe's keys                    log_files    data.root -> files, and fingerprints of them
log_tables    columns and types, file by file      log_types, log_csv, log_blocks       how they are read
log_problems  rows that cannot be used
log_rows      a file of the log -> impressions     log_time, log_filters, log_history   parts of that
log_side      items and users -> rows              log_pictures, log_tar                paths, folder, tars -> pictures
```
"""

import json
from collections.abc import Container, Iterator, Mapping
from dataclasses import asdict
from functools import cached_property
from typing import TYPE_CHECKING

from dicm_kit.data.sources.log_config import ImpressionsConfig, ItemsConfig, LogConfig, PicturesConfig, UsersConfig
from dicm_kit.data.sources.log_files import Root, fingerprint, joined_fingerprint
from dicm_kit.data.sources.log_filters import Filters
from dicm_kit.data.sources.log_pictures import PicturesOfColumn, PicturesOfFolder, PicturesOfTars
from dicm_kit.data.sources.log_rows import ImpressionRows
from dicm_kit.data.sources.log_side import SideRows
from dicm_kit.data.sources.log_tables import Table, Wanted
from dicm_kit.data.sources.log_tar import TARS
from dicm_kit.errors import FieldError, FieldsError
from dicm_kit.interfaces import DataSource, Kind, SourceColumn, SourceColumns

if TYPE_CHECKING:
    import pyarrow as pa

_VERSION = 1  # raised when the same files and config would give other streams
_RESERVED = {
    "impressions": (
        "user",
        "item",
        "time",
        "label",
        "order",
        "weight",
        "split",
        "history",
        "history_time",
        "click_probability",
    ),
    "items": ("item", "picture", "item_id"),
    "users": ("user", "user_id"),
}
"""Columns that every source has by itself; a feature may not take their names."""


def build_log(config: LogConfig, shapes: None = None) -> "LogSource":
    """Returns the log that the config describes."""
    return LogSource(config.root, config.impressions, config.items, config.users, config.pictures)


class LogSource(DataSource):
    """Streams of a log's files. To make one, files are listed, and of each the columns' names and types are read.

    Raises:
        FieldError: what the recipe names is not there or is of no use; FieldsError: several of them.
    """

    def __init__(
        self,
        root: str,
        impressions: ImpressionsConfig,
        items: ItemsConfig,
        users: UsersConfig | None = None,
        pictures: PicturesConfig | None = None,
    ):
        self._config = LogConfig(root=root, impressions=impressions, items=items, users=users, pictures=pictures)
        _raise(list(_contradictions(self._config)))
        filters = Filters(impressions.where, impressions.since, impressions.until)
        self._root = Root(root)
        self._tables = self._open(_wanted(self._config))
        _raise(list(_misfits(self._config, self._tables, filters)))
        self._impressions = ImpressionRows(impressions, self._tables["impressions"], filters)
        item_columns = {name: f"feature_{name}" for name in items.columns}
        by_name = "item" if pictures else "picture" if items.picture else "none"
        self._items = SideRows(self._tables["items"], "item", {"picture": by_name} | item_columns)
        self._users: SideRows | None = None
        if users is not None:
            self._users = SideRows(self._tables["users"], "user", {name: f"feature_{name}" for name in users.columns})
        self._pictures = self._find_pictures(pictures)
        self.columns = SourceColumns(
            user=_source_columns(users.columns if users else {}),
            item=_source_columns(items.columns),
            context=_source_columns(impressions.columns),
        )
        self.fingerprint = joined_fingerprint([json.dumps(self._described(), sort_keys=True)])

    @cached_property
    def pieces(self) -> dict[str, str]:  # type: ignore[override] # settable, but made when it is first asked for
        """The files of the log, each with a fingerprint of its content."""
        return {file.name: fingerprint(file) for file in self._tables["impressions"].files}

    @cached_property
    def snapshot(self) -> str:  # type: ignore[override]
        """Of the content of the items' and users' files, and of the list of pictures where there is one."""
        files = [
            file for section in ("items", "users") if section in self._tables for file in self._tables[section].files
        ]
        pictures = self._pictures.fingerprint if self._pictures else ""
        return joined_fingerprint([*map(fingerprint, files), pictures])

    def impressions(self, piece: str) -> "Iterator[pa.RecordBatch]":
        """Yields the impressions of a file."""
        (file,) = (file for file in self._tables["impressions"].files if file.name == piece)
        return self._impressions.batches(file)

    def items(self) -> "Iterator[pa.RecordBatch]":
        """Yields the rows of the items table; without a column of paths, pictures are called as their items."""
        return self._items.batches()

    def users(self) -> "Iterator[pa.RecordBatch]":
        """Yields the rows of the users table; none without one."""
        return self._users.batches() if self._users else iter(())

    def pictures(self, have: Container[str]) -> Iterator[tuple[str, bytes | str]]:
        """Yields the pictures that are there, and refused paths; at most one byte above the limit is read of one."""
        return self._pictures.read(have) if self._pictures else iter(())

    def _open(self, wanted: Mapping[str, list[Wanted]]) -> dict[str, Table]:
        tables: dict[str, Table] = {}
        problems: list[FieldError] = []
        for section, columns in wanted.items():
            part = getattr(self._config, section)
            try:
                files = self._root.find(part.file, f"{section}.file")
            except FieldError as error:
                problems.append(error)
                continue
            tables[section] = Table(section, files, columns, part.text)
            problems += tables[section].problems
        _raise(problems)
        return tables

    def _find_pictures(
        self, config: PicturesConfig | None
    ) -> PicturesOfColumn | PicturesOfFolder | PicturesOfTars | None:
        if config is None:
            if self._config.items.picture is None:
                return None
            return PicturesOfColumn(self._root, lambda: self._items.column("picture"))
        if config.folder is not None:
            return PicturesOfFolder(self._root, config.folder, self._items.keys)
        assert config.tar is not None
        return PicturesOfTars(self._root.find(config.tar, "pictures.tar", TARS), self._items.keys)

    def _described(self) -> dict[str, object]:
        """Returns the config without what only says where the files are: their content has fingerprints of its own."""
        described = asdict(self._config)
        del described["root"]
        for section in ("impressions", "items", "users"):
            if described[section] is not None:
                del described[section]["file"]
        described["pictures"] = "by item" if self._config.pictures else "by path"
        return {"log": _VERSION} | described


def _wanted(config: LogConfig) -> dict[str, list[Wanted]]:
    """Returns the columns that the recipe names, by table."""
    log, items, users = config.impressions, config.items, config.users
    times = [log.time] if isinstance(log.time, str) else log.time
    wanted = {
        "impressions": [
            Wanted("user", "impressions.user", log.user, "id"),
            Wanted("item", "impressions.item", log.item, "id"),
            Wanted("time", "impressions.time", times[0], "time"),
            *(Wanted("order", "impressions.time", name, "order") for name in times[1:]),
            *_optional("label", log.label),
            *_optional("weight", log.weight),
            *_optional("split", log.split),
            *(Wanted(f"where_{name}", f"impressions.where.{name}", name, "where") for name in log.where),
            *_features("impressions", log.columns),
        ],
        "items": [Wanted("item", "items.item", items.item, "id"), *_features("items", items.columns)],
    }
    if log.history is not None:
        wanted["impressions"].append(Wanted("history", "impressions.history.column", log.history.column, "ids"))
        if log.history.times is not None:
            key = "impressions.history.times"
            wanted["impressions"].append(Wanted("history_time", key, log.history.times, "times"))
    if items.picture is not None:
        wanted["items"].append(Wanted("picture", "items.picture", items.picture, "picture"))
    if users is not None:
        wanted["users"] = [Wanted("user", "users.user", users.user, "id"), *_features("users", users.columns)]
    return wanted


def _optional(name: str, column: str | None) -> list[Wanted]:
    roles = {"label": "label", "weight": "weight", "split": "split"}
    return [] if column is None else [Wanted(name, f"impressions.{name}", column, roles[name])]  # type: ignore[arg-type]


def _features(section: str, columns: Mapping[str, Kind]) -> list[Wanted]:
    return [Wanted(f"feature_{name}", f"{section}.columns.{name}", name, kind) for name, kind in columns.items()]


def _source_columns(columns: Mapping[str, Kind]) -> dict[str, SourceColumn]:
    return {name: SourceColumn(kind) for name, kind in columns.items()}


def _contradictions(config: LogConfig) -> Iterator[FieldError]:
    """Yields what is wrong with the recipe's keys whatever the files hold."""
    log, pictures = config.impressions, config.pictures
    if isinstance(log.time, list) and len(log.time) not in (1, 2):
        yield FieldError("impressions.time", f"names {len(log.time)} columns", todo="One, or one and what breaks ties.")
    if not 0 < log.kept_negatives <= 1:
        yield FieldError("impressions.kept_negatives", f"is a share, above 0 and up to 1, got {log.kept_negatives}")
    elif log.kept_negatives != 1 and log.label is None:
        todo = "Name the `label`; negatives that are drawn for a log of clicks need no such share."
        yield FieldError(
            "impressions.kept_negatives", "is given, but without `label` there are no negatives", todo=todo
        )
    if log.time_unit == "order" and (log.since or log.until):
        yield FieldError("impressions.time_unit", "is `order`: `since` and `until` have no days to go by")
    for section, reserved in _RESERVED.items():
        part = getattr(config, section)
        for name in (name for name in (part.columns if part else {}) if name in reserved):
            todo = "Every source has a column of that name by itself. Rename yours."
            yield FieldError(f"{section}.columns.{name}", f"a feature may not be called `{name}`", todo=todo)
    if pictures is not None and (pictures.folder is None) == (pictures.tar is None):
        yield FieldError("pictures", "takes one of `folder` and `tar`")
    if pictures is not None and config.items.picture is not None:
        yield FieldError("pictures", "`items.picture` says already where pictures are", todo="Leave one of them out.")


def _misfits(config: LogConfig, tables: Mapping[str, Table], filters: Filters) -> Iterator[FieldError]:
    """Yields what is wrong between the tables, or between the recipe and what columns hold."""
    log = tables["impressions"]
    yield from filters.problems(log)
    if log.shapes["time"] in ("calendar", "text") and config.impressions.time_unit != "auto":
        what = f"`{log['time'].column}` holds no numbers, it says its unit itself"
        yield FieldError("impressions.time_unit", what, todo="Leave `time_unit` out.")
    for section, name in (("items", "item"), ("users", "user")):
        if section in tables and {log.shapes[name], tables[section].shapes[name]} == {"whole", "text"}:
            words = {"whole": "whole numbers", "text": "text"}
            ours, theirs = words[tables[section].shapes[name]], words[log.shapes[name]]
            number = section if ours == "whole numbers" else "impressions"
            column = (tables[section] if number == section else log)[name].column
            yield FieldError(
                f"{section}.{name}",
                f"`{tables[section][name].column}` holds {ours}, `{log[name].column}` of the log {theirs}",
                todo=f"`{number}.text: [{column}]` reads those numbers as text.",
            )


def _raise(problems: list[FieldError]) -> None:
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise FieldsError(problems)
