"""CSV files -> record batches, a block at a time; a line that cannot be read is an error with file and line."""

import csv
import gzip
import re
from collections.abc import Iterator
from contextlib import contextmanager
from io import RawIOBase, TextIOWrapper
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from dicm_kit.data.sources.log_files import LogFile
from dicm_kit.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.csv import CSVStreamingReader, InvalidRow

NULLS = ("", "NULL", "null", "NaN", "nan", "\\N")
"""What stands for "no value"."""

_SNIFFED = 2**20  # bytes of a file that its types are guessed from
_BLOCK = 4 * 2**20
_CONVERSION = re.compile(r"In CSV column #(\d+): (?:Row #(\d+): )?CSV conversion error to ([^:]+): (.*)", re.DOTALL)
_TYPES = {"int64": "whole number", "double": "number", "bool": "yes or no"}


def csv_schema(file: LogFile) -> "pa.Schema":
    """Returns the columns of a CSV file with the types that its first mebibyte suggests."""
    with _reader(file, {}, _SNIFFED) as reader:
        return reader.schema


def csv_batches(
    file: LogFile, types: "dict[str, pa.DataType]", header: list[str], hints: dict[str, str]
) -> "Iterator[pa.RecordBatch]":
    """Yields the columns of `types`; `header`: all columns of the file; `hints`: more to do about a wrong value."""
    with _reader(file, types, _BLOCK, header, hints) as reader:
        yield from reader


def lines_of(file: LogFile, rows: list[int]) -> list[int]:
    """Returns the line that each row begins in; row 0 is the first below the header, `rows` ascend.

    It reads the file again, a line at a time: for messages.
    """
    wanted, lines = iter(rows), list[int]()
    next_row = next(wanted, None)
    for row, (line, _) in enumerate(_rows(file), -1):
        while next_row is not None and row == next_row:
            lines.append(line)
            next_row = next(wanted, None)
        if next_row is None:
            break
    return lines


@contextmanager
def _reader(
    file: LogFile,
    types: "dict[str, pa.DataType]",
    block: int,
    header: list[str] | None = None,
    hints: dict[str, str] | None = None,
) -> "Iterator[CSVStreamingReader]":
    import pyarrow as pa
    from pyarrow import csv as arrow

    broken: list[InvalidRow] = []

    def refuse(row: "InvalidRow") -> str:
        broken.append(row)
        return "error"

    stream = _Counted(file)
    try:
        with stream, pa.PythonFile(stream, "r") as source:
            yield arrow.open_csv(
                source,
                arrow.ReadOptions(use_threads=False, block_size=block),
                arrow.ParseOptions(
                    delimiter=cast(str, file.separator), newlines_in_values=True, invalid_row_handler=refuse
                ),
                arrow.ConvertOptions(
                    null_values=list(NULLS), strings_can_be_null=True, include_columns=list(types), column_types=types
                ),
            )
    except (pa.ArrowInvalid, EOFError, OSError) as error:
        raise _explained(file, error, broken, header or [], hints or {}) from error
    if stream.ended and stream.open_quote and (line := _unclosed(file)):
        raise _never_closed(file, line)


def _explained(
    file: LogFile, error: Exception, broken: "list[InvalidRow]", header: list[str], hints: dict[str, str]
) -> DataError:
    if broken:
        row = broken[0]
        line = _line(file, row.number)
        what = f"a broken line: {row.actual_columns} values, the header has {row.expected_columns}: {row.text[:80]!r}"
        return DataError(what, where=_at(file, line), todo="Mend the line, or leave it out of the file.")
    if match := _CONVERSION.match(str(error)):
        column, number, kind, what = match.groups()
        name = header[int(column)] if int(column) < len(header) else f"column {column}"
        where = _at(file, _line(file, int(number) if number else None))
        if "UTF8" in what:
            return DataError(f"`{name}` is not in UTF-8", where=where, todo="Write the file in UTF-8.")
        what = f"`{name}` is no {_TYPES.get(kind, kind)}: {what.removeprefix('invalid value ')}"
        todo = f"Mend the line; for no value write nothing, or {', '.join(NULLS[1:])}.{hints.get(name, '')}"
        return DataError(what, where=where, todo=todo)
    if "straddling" in str(error) and (line := _unclosed(file)):
        return _never_closed(file, line)
    todo = "Write the file anew; it must be UTF-8 text with a header line."
    return DataError(f"cannot be read as CSV: {error}", where=file.where, todo=todo)


def _never_closed(file: LogFile, line: int) -> DataError:
    what = "a quote opens a value here that no quote closes"
    return DataError(what, where=_at(file, line), todo="Mend the line: inside quotes a quote is written twice.")


def _at(file: LogFile, line: int | None) -> str:
    return file.where if line is None else f"{file.where}:{line}"


def _line(file: LogFile, number: int | None) -> int | None:
    """Returns the line of a row as Arrow counts: from 1, the header included, empty lines not."""
    return next(iter(lines_of(file, [number - 2])), None) if number else None


def _unclosed(file: LogFile) -> int | None:
    """Returns the line in which a quote opens that never closes."""
    return next((line for line, good in _rows(file, strict=True) if not good), None)


def _rows(file: LogFile, *, strict: bool = False) -> Iterator[tuple[int, bool]]:
    """Yields the line in which each row begins, the header's first, and True; last and with False one that has no end.

    Empty lines are no rows. `strict`: what follows a closing quote must be the end of the value.
    """
    with _plain(file) as stream:
        text = TextIOWrapper(cast(Any, stream), "utf-8-sig", errors="replace", newline="")
        rows = csv.reader(text, delimiter=cast(str, file.separator), strict=strict)
        line = 1
        try:
            for row in rows:
                if row:
                    yield line, True
                line = rows.line_num + 1
        except csv.Error:  # the file ends inside quotes, or a value is longer than any value is
            yield line, False


def _plain(file: LogFile) -> BinaryIO:
    stream = file.open()
    return cast(BinaryIO, gzip.GzipFile(fileobj=stream)) if file.path.lower().endswith(".gz") else stream


class _Counted(RawIOBase):
    """A file that remembers whether it was read to its end, and whether an odd number of quotes went by."""

    def __init__(self, file: LogFile):
        self._stream = _plain(file)
        self.ended = self.open_quote = False

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        data = self._stream.read(size)
        self.ended |= not data
        self.open_quote ^= bool(data.count(b'"') % 2)
        return data

    def close(self) -> None:
        self._stream.close()
        super().close()
