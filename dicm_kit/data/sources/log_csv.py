"""CSV files -> record batches, a block at a time; a line that cannot be read is an error with file and line.

Blocks are cut here, where a row ends, and given to Arrow one by one. Arrow's own reader of streams reads ahead in
threads that call Python, and when the process ends in that moment, it aborts.
"""

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING, Literal, TextIO, cast

import numpy as np

from dicm_kit.data.sources.log_blocks import Block, blocks, plain_text
from dicm_kit.data.sources.log_files import LogFile
from dicm_kit.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa
    from pyarrow.csv import InvalidRow

NULLS = ("", "NULL", "null", "NaN", "nan", "\\N")
"""What stands for "no value"."""

_SNIFFED = 2**18  # bytes of a file that its types are guessed from
_BLOCK = 2**21
_GLANCE = 2**16  # bytes that stay in the processor's cache: six times as fast as a whole block
_CONVERSION = re.compile(r"In CSV column #(\d+): (?:Row #(\d+): )?CSV conversion error to ([^:]+): (.*)", re.DOTALL)
_TYPES = {"int64": "whole number", "double": "number", "bool": "yes or no", "date32[day]": "date like 2026-11-24"}


def csv_start(file: LogFile) -> "pa.Table":
    """Returns the first 256 KiB of a CSV file with the types that these suggest."""
    return _Reader(file, {}, None, {}, set()).table(next(blocks(file, _SNIFFED)))


def csv_batches(
    file: LogFile, types: "dict[str, pa.DataType]", header: list[str], hints: dict[str, str], ids: set[str]
) -> "Iterator[pa.RecordBatch]":
    """Yields the columns of `types`; `header`: all columns of the file; `hints`: more to do about a wrong value.

    Of `ids`, those that are read as whole numbers may have no zeros in front: 007 and 7 would become one id.
    """
    reader = _Reader(file, types, header, hints, ids)
    for block in blocks(file, _BLOCK):
        yield from reader.table(block).to_batches()


def lines_of(file: LogFile, rows: list[int]) -> list[int]:
    """Returns the line that each row begins in; row 0 is the first below the header, if any, and `rows` ascend.

    It reads the file again, a line at a time: for messages.
    """
    wanted, lines = iter(rows), list[int]()
    next_row = next(wanted, None)
    for row, line in enumerate(_first_lines(plain_text(file), file), -1 if file.has_header else 0):
        while next_row is not None and row == next_row:
            lines.append(line)
            next_row = next(wanted, None)
        if next_row is None:
            break
    return lines


@dataclass
class _Reader:
    """Gives blocks of one file to Arrow."""

    file: LogFile
    types: "dict[str, pa.DataType]"
    header: list[str] | None
    """None: not known yet."""
    hints: dict[str, str]
    ids: set[str]

    def table(self, block: Block) -> "pa.Table":
        """Returns the rows of a block; DataError with the line of the first that cannot be read."""
        import pyarrow as pa

        table = self._read(block, self.types)
        numbers = [name for name, kind in self.types.items() if name in self.ids and kind == pa.int64()]
        if numbers:
            self._check_zeros(block, table, numbers)
        return table

    def _check_zeros(self, block: Block, table: "pa.Table", numbers: list[str]) -> None:
        """Raises DataError for a whole number with zeros in front.

        To read all numbers as text would take half as long again; so that is done only where zeros are in front of
        more values than the text columns account for.
        """
        import pyarrow as pa
        import pyarrow.compute as pc

        zeros = _zeros_in_front(block, cast(str, self.file.separator))
        for name in (name for name, kind in self.types.items() if zeros and kind == pa.string()):
            zeros -= pc.sum(_has_zeros(table[name])).as_py() or 0
        if not zeros:
            return
        again = self._read(block, dict.fromkeys(numbers, pa.string()))
        for name in numbers:
            if (row := pc.index(_has_zeros(again[name]), True).as_py()) >= 0:
                value = again[name][row].as_py()
                what = f"`{name}` is read as a whole number, which loses the zeros in front of {value!r}"
                where = self._at(block, row + 1 + (block.is_first and self.file.has_header))
                raise DataError(what, where=where, todo=self.hints[name].strip())

    def _read(self, block: Block, types: "dict[str, pa.DataType]") -> "pa.Table":
        import pyarrow as pa
        from pyarrow import csv as arrow

        broken: list[InvalidRow] = []

        def refuse(row: "InvalidRow") -> str:
            broken.append(row)
            return "error"

        names = None if block.is_first and self.file.has_header else self.header
        try:
            return arrow.read_csv(
                pa.BufferReader(block.for_arrow()),
                arrow.ReadOptions(use_threads=False, block_size=max(len(block.data), 1), column_names=names),
                arrow.ParseOptions(
                    delimiter=cast(str, self.file.separator),
                    quote_char='"' if self.file.has_quotes else False,
                    newlines_in_values=self.file.has_quotes,
                    invalid_row_handler=refuse,
                ),
                arrow.ConvertOptions(
                    null_values=list(NULLS),
                    strings_can_be_null=True,
                    include_columns=list(types),
                    column_types=types,
                ),
            )
        except pa.ArrowInvalid as error:
            raise self._explained(error, block, broken) from error

    def _explained(self, error: Exception, block: Block, broken: "list[InvalidRow]") -> DataError:
        if broken:
            row = broken[0]
            should = "the header has" if self.file.has_header else "there should be"
            what = f"a broken line: {row.actual_columns} values, {should} {row.expected_columns}"
            todo = "Mend the line, or leave it out of the file."
            return DataError(f"{what}: {row.text[:80]!r}", where=self._at(block, row.number), todo=todo)
        if match := _CONVERSION.match(str(error)):
            column, number, kind, what = match.groups()
            header = self.header or []
            name = header[int(column)] if int(column) < len(header) else f"column {column}"
            where = self._at(block, int(number) if number else None)
            if "UTF8" in what:
                return DataError(f"`{name}` is not in UTF-8", where=where, todo="Write the file in UTF-8.")
            what = f"`{name}` is no {_TYPES.get(kind, kind)}: {what.removeprefix('invalid value ')}"
            todo = f"Mend the line; for no value write nothing, or {', '.join(NULLS[1:])}.{self.hints.get(name, '')}"
            return DataError(what, where=where, todo=todo)
        todo = f"Write the file anew; it must be UTF-8 text{' with a header line' if self.file.has_header else ''}."
        return DataError(f"cannot be read as CSV: {error}", where=self.file.where, todo=todo)

    def _at(self, block: Block, number: int | None) -> str:
        """Returns file and line of a row as Arrow counts in a block: from 1, empty lines not."""
        if number is None:
            return self.file.where
        text = StringIO(block.data.decode("utf-8-sig", errors="replace"), newline="")
        lines = [line for _, line in zip(range(number), _first_lines(text, self.file), strict=False)]
        return f"{self.file.where}:{block.line + lines[-1] - 1}"


def _zeros_in_front(block: Block, separator: str) -> int:
    """Returns how many values of all columns begin with 0 and another digit; some that only look so count too."""
    letters = np.frombuffer(b"\n" + block.data, np.uint8)
    count = 0
    for start in range(0, len(letters), _GLANCE):
        part = letters[start : start + _GLANCE + 2]
        before, first, second = part[:-2], part[1:-1], part[2:]
        begins = (before == ord(separator)) | (before == ord("\n")) | (before == ord('"'))
        count += int(
            np.count_nonzero(begins & (first == ord("0")) & (second - ord("0") < 10))
        )  # of bytes: none is below 0
    return count


def _has_zeros(text: "pa.ChunkedArray") -> "pa.ChunkedArray":
    """Returns which values begin with 0 and another digit."""
    import pyarrow.compute as pc

    return pc.and_(pc.greater_equal(text, "00"), pc.less(text, "0:"))  # `:` comes after `9`


def _first_lines(text: TextIO, file: LogFile) -> Iterator[int]:
    """Yields the line in which each row begins, from 1; empty lines are no rows."""
    with text:
        quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if file.has_quotes else csv.QUOTE_NONE
        rows = csv.reader(text, delimiter=cast(str, file.separator), quoting=quoting)
        line = 1
        for row in rows:
            if row:
                yield line
            line = rows.line_num + 1
