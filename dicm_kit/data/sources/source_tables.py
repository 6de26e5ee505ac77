"""Tables of a known dataset in text files, read a block at a time; what is wrong is told with file, line and column."""

import csv
import json
from codecs import BOM_UTF8
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from dicm_kit.data.sources.log_blocks import Block, blocks, plain_text
from dicm_kit.data.sources.log_csv import csv_batches, lines_of
from dicm_kit.data.sources.log_files import LogFile, TextForm, fingerprint
from dicm_kit.data.sources.log_problems import rows_text
from dicm_kit.errors import DataError, some

if TYPE_CHECKING:
    import pyarrow as pa

_SHOWN = 5
_BLOCK = 2**21
_JSON = TextForm(separator=",", header=False, quotes=False, encoding="utf-8")
_OF_JSON = {"int64": "whole number", "float64": "number", "string": "text", "bool": "true or false"}


class SourceTable:
    """What the tables of a `SourceFolder` have in common."""

    def __init__(self, file: LogFile, columns: Mapping[str, str]):
        """`columns`: name -> type, with a `?` behind it where a value may be missing. DataError: the file is empty."""
        self._file = file
        self.columns = tuple(columns)
        """Names of the columns that are read."""
        self._types = {name: kind.removesuffix("?") for name, kind in columns.items()}
        self._never_null = [name for name, kind in columns.items() if not kind.endswith("?")]
        if not file.size:
            raise DataError("the file is empty", where=file.where, todo="Copy it anew.")

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
        line that cannot be read.
        """
        import pyarrow as pa

        wanted = list(columns) or list(self._types)
        first = 0
        for batch in self._read({name: _arrow(self._types[name]) for name in wanted}):
            rows = pa.array(np.arange(first, first + len(batch)))
            first += len(batch)
            batch = pa.RecordBatch.from_arrays([*batch.columns, rows], [*wanted, "row"])
            for name in (name for name in self._never_null if name in wanted):
                self.refuse(batch, batch[name].is_null(), f"`{name}` has no value")
            yield batch

    def refuse(self, batch: "pa.RecordBatch", wrong: "pa.Array", what: str, todo: str = "Mend these lines.") -> None:
        """Raises DataError when rows of a batch of `batches` are wrong (true), with the lines of the first five."""
        if count := wrong.true_count:
            lines = self._lines_of(batch["row"].filter(wrong)[:_SHOWN].to_pylist())
            places = ", ".join(f"line {line}" for line in lines)
            raise DataError(f"{what} in {rows_text(count)} ({places})", where=self.where, todo=todo)

    def _read(self, types: "dict[str, pa.DataType]") -> "Iterator[pa.RecordBatch]":
        """Yields these columns, in this order."""
        raise NotImplementedError

    def _lines_of(self, rows: list[int]) -> list[int]:
        """Returns the line that each row begins in, rows ascending."""
        raise NotImplementedError


class TextTable(SourceTable):
    """A `SourceTable` of a text file, read a block of 2 MiB at a time; made by `SourceFolder.table`."""

    def __init__(self, file: LogFile, columns: Mapping[str, str], form: TextForm):
        """`columns`: name -> type, as `SourceFolder.table` takes them. DataError when the file is empty."""
        super().__init__(replace(file, form=form), columns)
        self._names = self._read_header() if form.header else list(columns)

    def _read(self, types: "dict[str, pa.DataType]") -> "Iterator[pa.RecordBatch]":
        in_file = {name.strip(): name for name in self._names}
        types = {in_file[name]: kind for name, kind in types.items()}
        return csv_batches(self._file, types, self._names, dict.fromkeys(types, ""), set())

    def _lines_of(self, rows: list[int]) -> list[int]:
        return lines_of(self._file, rows)

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


class JsonLines(SourceTable):
    """A `SourceTable` of JSON objects, one a line, read a block of 2 MiB at a time: `SourceFolder.json_lines`."""

    def __init__(self, file: LogFile, columns: Mapping[str, str]):
        """`columns`: key -> type, as `SourceFolder.json_lines` takes them.

        DataError: the file is empty; ValueError: JSON has no such type.
        """
        super().__init__(replace(file, form=_JSON), columns)
        for name, kind in self._types.items():
            if kind.removeprefix("list[").removesuffix("]") not in _OF_JSON:
                raise ValueError(f"`{name}`: JSON has no {kind}, only {', '.join(_OF_JSON)} and lists of them")

    def _read(self, types: "dict[str, pa.DataType]") -> "Iterator[pa.RecordBatch]":
        import pyarrow as pa
        from pyarrow import json as arrow

        form = arrow.ParseOptions(explicit_schema=pa.schema(list(types.items())), unexpected_field_behavior="ignore")
        for block in blocks(self._file, _BLOCK):
            block = replace(block, data=block.data.removeprefix(BOM_UTF8)) if block.is_first else block
            reading = arrow.ReadOptions(use_threads=False, block_size=len(block.data) + 1)
            try:
                block.data.decode()  # Arrow would hand on what is no UTF-8
                table = arrow.read_json(pa.BufferReader(block.for_arrow()), reading, form)
            except (pa.ArrowInvalid, UnicodeDecodeError) as error:
                raise self._explained(block, types, error) from error
            yield from table.select(list(types)).to_batches()

    def _explained(self, block: Block, names: Iterable[str], error: Exception) -> DataError:
        """Returns the error for the first line of a block that Arrow cannot read."""
        todo = "Mend the line, or leave it out of the file."
        for number, line in enumerate(block.data.split(b"\n"), block.line):
            where = f"{self.where}:{number}"
            try:
                value = json.loads(line) if line.strip() else {}
            except UnicodeDecodeError:
                return DataError("is not in UTF-8", where=where, todo="Write the file in UTF-8.")
            except ValueError as broken:
                return DataError(f"is no JSON: {broken}: {_shown(line)}", where=where, todo=todo)
            if not isinstance(value, dict):
                return DataError(f"is no JSON object: {_shown(line)}", where=where, todo=todo)
            for name in names:
                kind = self._types[name]
                if not _fits(value.get(name), kind):
                    shown = json.dumps(value[name], ensure_ascii=False)[:80]
                    return DataError(f"`{name}` is no {_told(kind)}: {shown}", where=where, todo=todo)
        return DataError(f"cannot be read as JSON lines: {error}", where=self.where, todo="Write the file anew.")

    def _lines_of(self, rows: list[int]) -> list[int]:
        """Reads the file again, a line at a time: for messages."""
        with plain_text(self._file) as text:
            filled = (line for line, held in enumerate(text, 1) if held.strip())
            return [line for row, line in zip(range(rows[-1] + 1), filled, strict=False) if row in rows]


def _arrow(kind: str) -> "pa.DataType":
    """Returns `int64`, `list[string]` and the like as Arrow has them."""
    import pyarrow as pa

    inner = kind.removeprefix("list[").removesuffix("]")
    return pa.type_for_alias(inner) if inner == kind else pa.list_(pa.type_for_alias(inner))


def _fits(value: Any, kind: str) -> bool:
    """Returns whether a JSON value is of a kind; null is of every kind."""
    if value is None:
        return True
    if kind.startswith("list["):
        return isinstance(value, list) and all(_fits(each, kind[5:-1]) for each in value)
    if kind == "string":
        return isinstance(value, str)
    if kind == "bool" or isinstance(value, bool):
        return kind == "bool" and isinstance(value, bool)
    if kind == "int64":
        return isinstance(value, int) and -(2**63) <= value < 2**63
    return isinstance(value, int | float)


def _told(kind: str) -> str:
    """Returns a kind as messages call it."""
    return f"list, each a {_OF_JSON[kind[5:-1]]}" if kind.startswith("list[") else _OF_JSON[kind]


def _shown(line: bytes) -> str:
    return repr(line[:80].decode(errors="replace"))
