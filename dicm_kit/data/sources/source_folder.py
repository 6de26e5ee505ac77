"""The folder of a known dataset: its files, its tables of text and its pictures, for data sources of plugins.

What is missing is an error that names the file and what the folder should hold; what is wrong in a table, one that
names the file, and where a line or a value is to blame, the line and the column.
"""

import glob
import posixpath
from collections.abc import Callable, Iterable, Mapping

from dicm_kit.data.sources.log_files import LogFile, Root, TextForm, is_local
from dicm_kit.data.sources.log_pictures import PicturesOfFolder
from dicm_kit.data.sources.source_tables import JsonLines, TextTable
from dicm_kit.errors import FieldError, some


class SourceFolder:
    """A dataset's folder, here or behind any fsspec address (`s3://...`)."""

    def __init__(self, root: str, holds: Mapping[str, str]):
        """`root`: as the recipe's key `root` gives it; `holds`: files that belong there, or globs of them, and what
        each is, for messages. FieldError for `root` when there is no such folder."""
        self._root, self._holds = Root(root), holds

    def has(self, name: str) -> bool:
        """Returns whether there is a file of this name, or one that this glob matches."""
        return bool(self._matches(name))

    def files(self, name: str) -> list[str]:
        """Returns the files that a glob matches, sorted, as paths from the root: what `table` and `json_lines` take.

        FieldError for `root` when there is none.
        """
        found = self._matches(name)
        if not found:
            raise self._error(f"there is no {name}")
        return found

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
        """Returns the table in a text file, unpacked where its name ends in `.gz`.

        `name`: a path from the root, or a glob that only one file matches.

        `columns`: name -> `int64`, `float64`, `string` or `date32` (2026-11-24), with a `?` behind it where a value may
        be missing (nothing, NULL, null, NaN, nan, \\N). Without `header` they are all columns in their order; with it
        the file may have more, in any order. Without `quotes` a quote is a letter. `separator`: an ASCII letter, or
        several that stand in no value.

        Raises:
            FieldError: for `root`: there is no such file, or several; DataError: its header lacks a column;
                ValueError: no such separator can be.
        """
        if not separator or (len(separator) == 1 and not "\0" < separator < "\x80"):
            raise ValueError(f"separator: an ASCII letter but NUL, or several letters, got {separator!r}")
        return TextTable(self._file(name), columns, TextForm(separator, header, quotes, encoding))

    def json_lines(self, name: str, columns: Mapping[str, str]) -> JsonLines:
        """Returns the table in a file of JSON objects, one a line, unpacked where its name ends in `.gz`.

        `name`: a path from the root, or a glob that only one file matches. `columns`: key -> `int64`, `float64`,
        `string`, `bool`, or `list[...]` of one of these, with a `?` behind it where a key may be absent or null;
        objects may have more keys. Times and dates are text: `batch["at"].cast(pa.timestamp("ms", "UTC"))`.

        FieldError for `root` when there is no such file, or several.
        """
        return JsonLines(self._file(name), columns)

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
            raise self._error(f"there are several {name}: {some(found)}" if found else f"there is no {name}")
        path = posixpath.join(self._root.path, found[0])
        return LogFile(found[0], self._root.fs, path, int(self._root.fs.info(path)["size"]))

    def _matches(self, name: str) -> list[str]:
        root = self._root.path
        paths = self._root.fs.glob(posixpath.join(glob.escape(root), name))
        return sorted(path.removeprefix(f"{root.rstrip('/')}/") for path in paths if self._root.fs.isfile(path))

    def _error(self, what: str) -> FieldError:
        lines = [f"{each:<28} {what}" for each, what in self._holds.items()]
        return FieldError(
            "root",
            f"{what} in {self._root.path if is_local(self._root.fs) else self._root.address}",
            todo="\n  ".join(["The folder should hold:", *(f"  {line}" for line in lines)]),
        )
