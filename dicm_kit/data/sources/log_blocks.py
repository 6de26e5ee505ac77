"""A CSV file in blocks of whole rows: rows end at line ends that are not inside quotes."""

import gzip
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any, BinaryIO, TextIO, cast

import numpy as np

from dicm_kit.data.sources.log_files import LogFile
from dicm_kit.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

_LONGEST = 2**26  # bytes that a row may have
_QUOTE = ord('"')


@dataclass(frozen=True)
class Block:
    """Whole rows of a file."""

    data: bytes
    line: int
    """The line that it begins with, from 1."""

    @property
    def is_first(self) -> bool:
        """Whether it begins with the header."""
        return self.line == 1

    def for_arrow(self) -> "pa.Buffer":
        """Returns a copy in Arrow's own memory: Python's bytes would be given back in one of Arrow's threads."""
        import pyarrow as pa

        held = pa.allocate_buffer(len(self.data))
        memoryview(held).cast("B")[:] = self.data
        return held


def blocks(file: LogFile, size: int) -> Iterator[Block]:
    """Yields the file in blocks of about this many bytes, at least one; DataError for a quote that never closes."""
    line, rest = 1, b""
    with plain(file) as stream:
        while data := _read(file, stream, size):
            rest += data
            end, quote = _end_of_rows(rest, file)
            if not end and len(rest) > _LONGEST:
                what = "a row begins here that is longer than 64 MiB"
                raise _unclosed(file, rest, line, quote) if quote is not None else _at(file, line, what)
            if end:
                yield Block(_utf8(file, rest[:end], line), line)
                line, rest = line + rest.count(b"\n", 0, end), rest[end:]
    _, quote = _end_of_rows(rest, file)
    if quote is not None:
        raise _unclosed(file, rest, line, quote)
    if rest or line == 1:
        yield Block(_utf8(file, rest, line), line)


def _utf8(file: LogFile, rows: bytes, line: int) -> bytes:
    """Returns whole rows, the first in this line, in UTF-8 and with separators of one byte."""
    if file.form is None:
        return rows
    try:
        return file.form.utf8(rows)
    except UnicodeDecodeError as error:
        what = f"is not in {file.form.encoding}: {error.reason}"
        raise _at(file, line + rows.count(b"\n", 0, error.start), what, "Look at which encoding it is.") from error


def plain(file: LogFile) -> BinaryIO:
    """Opens the file, unpacked."""
    stream = file.open()
    return cast(BinaryIO, gzip.GzipFile(fileobj=stream)) if file.path.lower().endswith(".gz") else stream


def plain_text(file: LogFile) -> TextIO:
    """Opens the file as text, whatever bytes it holds."""
    return TextIOWrapper(cast(Any, plain(file)), "utf-8-sig", errors="replace", newline="")


def _read(file: LogFile, stream: BinaryIO, size: int) -> bytes:
    try:
        return stream.read(size)
    except (EOFError, OSError, zlib.error) as error:
        raise DataError(f"cannot be read: {error}", where=file.where, todo="Write or copy the file anew.") from error


def _end_of_rows(data: bytes, file: LogFile) -> tuple[int, int | None]:
    """Returns where the last whole row ends, 0 for none, and where a quote opens that does not close."""
    if not file.has_quotes:
        return data.rfind(b"\n") + 1, None
    quotes = _quotes(data, cast(str, file.separator))
    open_quote = int(quotes[-1]) if len(quotes) % 2 else None
    end = data.rfind(b"\n")
    while end >= 0 and (before := int(np.searchsorted(quotes, end))) % 2:
        end = data.rfind(b"\n", 0, quotes[before - 1])
    return end + 1, open_quote


def _quotes(data: bytes, separator: str) -> np.ndarray:
    """Returns the places of the quotes that open and close values, in turn.

    A quote opens a value only where the value begins, so `5" wide` has none. Inside, a quote is written twice: it
    closes and opens again, which comes to the same.
    """
    if b'"' not in data:
        return np.zeros(0, np.int64)
    letters = np.frombuffer(data, np.uint8)
    places = np.flatnonzero(letters == _QUOTE)
    before = letters[places[::2] - 1]
    opens = (before == ord(separator)) | (before == ord("\n")) | (before == _QUOTE) | (places[::2] == 0)
    if opens.all():
        return places
    values = re.finditer(rb'(?<![^\n%b])"[^"]*(?:""[^"]*)*("?)' % separator.encode(), data)
    ends = [place for value in values for place in (value.start(), value.end() - 1)[: 1 + bool(value[1])]]
    return np.array(ends, np.int64)


def _unclosed(file: LogFile, data: bytes, line: int, quote: int) -> DataError:
    what = "a quote opens a value here that no quote closes"
    return _at(file, line + data.count(b"\n", 0, quote), what, "Mend the line: inside quotes a quote is written twice.")


def _at(file: LogFile, line: int, what: str, todo: str | None = None) -> DataError:
    return DataError(what, where=f"{file.where}:{line}", todo=todo or "Mend the line.")
