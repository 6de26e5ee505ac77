"""The folder of a known dataset: its files, its tables of text and its pictures, for data sources of plugins.

What is missing or wrong is an error that names the file, the line, the column and what the folder should hold.
"""

import csv
import glob
import posixpath
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, cast

import numpy as np

from dicm_kit.data.sources.log_blocks import plain_text
from dicm_kit.data.sources.log_csv import csv_batches
from dicm_kit.data.sources.log_files import LogFile, Root, TextForm, fingerprint, is_local
from dicm_kit.data.sources.log_pictures import PicturesOfFolder
from dicm_kit.data.sources.log_problems import places_of, rows_text
from dicm_kit.errors import DataError, FieldError, some

if TYPE_CHECKING:
    import pyarrow as pa

_SHOWN = 5


class SourceFolder:
    """A dataset's folder, here or behind any fsspec address (`s3://...`)."""

    def __init__(self, root: str, holds: Mapping[str, str]):
        """`root`: as the recipe's key `root` gives it; `holds`: files that belong there, or globs of them, and what
        each is, for messages. FieldError for `root` when there is no such folder."""
        self._root, self._holds = Root(root), holds

    def has(self, name: str) -> bool:
        """Returns whether there is a file of this name, or one that this glob matches."""
        return bool(self._matches(name))

    def table(
        self,
        name: str,
        columns: Mapping[str, str],
        *,
        separator: str = ",",
        header: bool = True,
        quotes: bool = True,
        encoding: str = "utf-8",
    ) -> "TextTable":
        """Returns the table in a text file, whose name may be a glob that only one file matches.

        `columns`: name -> `int64`, `float64`, `string` or `date32` (2026-11-24), with a `?` behind it where a value may
        be missing (nothing, NULL, null, NaN, nan, \\N). Without `header` they are all columns in their order; with it
        the file may have more, in any order. Without `quotes` a quote is a letter. `separator` may be several letters.

        Raises:
            FieldError: for `root`: there is no such file, or several; DataError: its header lacks a column.
        """
        return TextTable(self._file(name), columns, TextForm(separator, header, quotes, encoding))

    def pictures(self, folder: str, names: Callable[[], Iterable[str]], key: str = "pictures") -> PicturesOfFolder:
        """Returns the pictures `<name>.jpg` (or jpeg, png, webp) anywhere below a folder, a path from the root.

        `names`: gives those of the items, each time it is called; other pictures are not read. `.read(have)` is what
        `DataSource.pictures` yields; its `.fingerprint`, which changes with the list of
        pictures, belongs into `snapshot`. FieldError for the recipe's `key` when there is no such folder.
        """
        return PicturesOfFolder(self._root, folder, names, key)

    def _file(self, name: str) -> LogFile:
        found = self._matches(name)
        if len(found) != 1:
            lines = [f"{each:<28} {what}" for each, what in self._holds.items()]
            what = f"there is no {name}" if not found else f"there are several {name}: {some(found)}"
            raise FieldError(
                "root",
                f"{what} in {self._root.path if is_local(self._root.fs) else self._root.address}",
                todo="\n  ".join(["The folder should hold:", *(f"  {line}" for line in lines)]),
            )
        path = posixpath.join(self._root.path, found[0])
        return LogFile(found[0], self._root.fs, path, int(self._root.fs.info(path)["size"]))

    def _matches(self, name: str) -> list[str]:
        paths = self._root.fs.glob(posixpath.join(glob.escape(self._root.path), name))
        return sorted(posixpath.basename(path) for path in paths if self._root.fs.isfile(path))


class TextTable:
    """A table in a text file, read a block of 2 MiB at a time; made by `SourceFolder.table`."""

    def __init__(self, file: LogFile, columns: Mapping[str, str], form: TextForm):
        """`columns`: name -> type, as `SourceFolder.table` takes them. DataError when the file is empty."""
        self._file = replace(file, form=form)
        self.columns = tuple(columns)
        """Names of the columns that are read."""
        self._types = {name: kind.removesuffix("?") for name, kind in columns.items()}
        self._never_null = [name for name, kind in columns.items() if not kind.endswith("?")]
        if not file.size:
            raise DataError("the file is empty", where=self._file.where, todo="Copy it anew.")
        self._names = self._read_header() if form.header else list(columns)

    @property
    def where(self) -> str:
        """What messages call the file."""
        return self._file.where

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that change when the file does."""
        return fingerprint(self._file)

    def batches(self, *columns: str) -> "Iterator[pa.RecordBatch]":
        """Yields the rows with these columns, or all, and `row`, the row's number in the file from 0.

        DataError, with the line, for a value that its column cannot hold, one that is missing where none may be, and a
        line with too few or too many values.
        """
        import pyarrow as pa

        wanted = list(columns) or list(self._types)
        in_file = {name.strip(): name for name in self._names}
        types = {in_file[name]: pa.type_for_alias(self._types[name]) for name in wanted}
        first = 0
        for batch in csv_batches(self._file, types, self._names, dict.fromkeys(types, ""), set()):
            rows = pa.array(np.arange(first, first + len(batch)))
            first += len(batch)
            batch = pa.RecordBatch.from_arrays([*batch.columns, rows], [*wanted, "row"])
            for name in (name for name in self._never_null if name in wanted):
                self.refuse(batch, batch[name].is_null(), f"`{name}` has no value")
            yield batch

    def refuse(self, batch: "pa.RecordBatch", wrong: "pa.Array", what: str, todo: str = "Mend these lines.") -> None:
        """Raises DataError when rows of a batch of `batches` are wrong (true), with the lines of the first five."""
        if count := wrong.true_count:
            places = places_of(self._file, batch["row"].filter(wrong)[:_SHOWN].to_pylist())
            raise DataError(f"{what} in {rows_text(count)} ({', '.join(places)})", where=self.where, todo=todo)

    def _read_header(self) -> list[str]:
        """Returns the file's names of columns, spaces round them included."""
        with plain_text(self._file) as text:
            header = next(csv.reader(text, delimiter=cast(str, self._file.separator)), [])
        names = [name.strip() for name in header]
        missing = [name for name in self._types if name not in names]
        if missing:
            others = [f"`{name}`" for name in names if name not in self._types]
            instead = f"instead there is {some(others)}" if others else "nothing is in their place"
            what = f"the header lacks {some(f'`{name}`' for name in missing)}; {instead}"
            todo = f"The first line should name the columns: {','.join(self._types)}."
            raise DataError(what, where=f"{self.where}:1", todo=todo)
        return header
