"""`data.root` -> the files below it, here or behind any fsspec address, and fingerprints of their content."""

import glob
import hashlib
import posixpath
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING, Any, BinaryIO

from dicm_kit.errors import DataError, FieldError, did_you_mean, some

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

PARQUET = (".parquet", ".parq", ".pq")
CSV = {".csv": ",", ".csv.gz": ",", ".tsv": "\t", ".tsv.gz": "\t"}
"""Endings of CSV files and what separates their values."""
_JSON = (".jsonl", ".ndjson", ".json", ".jsonl.gz", ".ndjson.gz", ".json.gz")
_READS_JSON = (
    "Of JSON lines make Parquet, a row for each impression or item, or read them in a plugin: "
    "`SourceFolder.json_lines` in docs/plugins/data_sources.md."
)

_BLOCK = 65_536
_SPREAD = 16  # blocks that are looked at between the first and the last
_LONGEST_FOOTER = 64 * 2**20
_CHECKSUMS = ("ETag", "etag", "md5Hash", "content_md5", "crc32c", "checksum")
"""What filesystems call the checksum of a file in what they say of it; asked in this order."""


@dataclass(frozen=True)
class TextForm:
    """How a text file is written whose name does not say it: a known dataset's."""

    separator: str
    """What stands between values; of several characters, they never stand in a value."""
    header: bool
    """Whether the first line names the columns."""
    quotes: bool
    """Whether values may stand in double quotes; without, a quote is a letter and a line is a row."""
    encoding: str

    @property
    def byte(self) -> str:
        """The separator in blocks: one byte, since Arrow takes no more."""
        return self.separator if len(self.separator) == 1 else "\x1f"

    def utf8(self, rows: bytes) -> bytes:
        """Returns whole rows in UTF-8 with separators of one byte; UnicodeDecodeError."""
        if self.encoding != "utf-8":
            rows = rows.decode(self.encoding).encode()
        return rows if len(self.separator) == 1 else rows.replace(self.separator.encode(), self.byte.encode())


@dataclass(frozen=True)
class LogFile:
    """A file of the log."""

    name: str
    """Its path from the root, or all of its path or address where it lies elsewhere."""
    fs: "AbstractFileSystem"
    path: str
    size: int
    """Bytes; -1 where the filesystem does not know."""
    form: TextForm | None = None
    """None: Parquet, or CSV with a header, quotes and UTF-8, by its ending."""

    @property
    def where(self) -> str:
        """What messages call it."""
        return self.path if is_local(self.fs) else self.fs.unstrip_protocol(self.path)

    @property
    def separator(self) -> str | None:
        """What separates the values of a CSV file; None for Parquet."""
        if self.form is not None:
            return self.form.byte
        return next((separator for ending, separator in CSV.items() if self.path.lower().endswith(ending)), None)

    @property
    def has_header(self) -> bool:
        """Whether the first line of a CSV file names the columns."""
        return self.form is None or self.form.header

    @property
    def has_quotes(self) -> bool:
        """Whether values of a CSV file may stand in quotes."""
        return self.form is None or self.form.quotes

    def open(self) -> BinaryIO:
        """Opens it for reading."""
        try:
            return self.fs.open(self.path, "rb")
        except OSError as error:
            raise DataError(f"cannot be read: {error}", where=self.where) from error


class Root:
    """The log's folder: finds files in it."""

    def __init__(self, address: str):
        self.fs, self.path = _filesystem(address, "root")
        self.address = address
        try:
            is_file, is_folder = self.fs.isfile(self.path), self.fs.isdir(self.path)
        except Exception as error:  # no credentials, no network: every filesystem has errors of its own
            todo = "Its filesystem takes credentials from the environment or from fsspec's config files."
            raise FieldError("root", f"cannot open {address}: {error}", todo=todo) from error
        if is_file:
            raise FieldError("root", f"is a file, not a folder: {address}", todo="Name the folder that it is in.")
        if not is_folder:
            looked = (
                self.path if is_local(self.fs) else address
            )  # absolute: a relative one starts where dicm was called
            raise FieldError("root", f"there is no folder {looked}", todo="Give it as `data.root=/path/to/your/log`.")

    def find(self, name: str, field: str, endings: Iterable[str] = (*PARQUET, *CSV)) -> list[LogFile]:
        """Returns the file, the files below the folder, or those that the glob matches, by name.

        Below a folder only files with one of the `endings` count. What begins with `.` or `_`, or lies below that, is
        found only by a name or glob that says so. FieldError for `field` when there is none.
        """
        fs, path, pattern = self._located(name, field)
        endings = tuple(endings)
        found: dict[str, Any] = {}
        if fs.isfile(path):
            found[path] = fs.info(path)
        elif fs.isdir(path):
            found = _below(fs, path, endings)
        elif glob.has_magic(name):
            for match, info in fs.glob(pattern, detail=True).items():
                if not _is_hidden(match.removeprefix(self.path), unless=name):
                    found |= _below(fs, match, endings) if info["type"] == "directory" else {match: info}
        if not found:
            raise FieldError(field, self._nothing(fs, path, name, endings), todo=self._near(fs, path, name, endings))
        if wrong := [each for each in found if not each.lower().endswith(endings)]:
            todo = f"It reads {', '.join(endings)}.{_of_json(wrong, endings)}"
            raise FieldError(field, f"cannot read {some(wrong)}", todo=todo)
        files = [LogFile(self._name(fs, each), fs, each, _size(info)) for each, info in found.items()]
        return sorted(files, key=lambda file: file.name)

    def folder(self, name: str, field: str) -> "tuple[AbstractFileSystem, str]":
        """Returns the filesystem and path of a folder that exists."""
        fs, path, _ = self._located(name, field)
        if not fs.isdir(path):
            raise FieldError(field, f"there is no folder {name}", todo=self._near(fs, path, name))
        return fs, path

    def inside(self, name: str) -> str | None:
        """Returns the path of a file that a table of the log names; None when it would lie outside the root.

        The tables may come from strangers: `../../etc/passwd`, `/etc/passwd` or `https://...` is not followed.
        """
        if "\0" in name or not name:
            return None
        if "://" in name:
            protocols = (self.fs.protocol,) if isinstance(self.fs.protocol, str) else self.fs.protocol
            if name.partition("://")[0] not in protocols:
                return None
            name = self.fs._strip_protocol(name)
        path = posixpath.normpath(posixpath.join(self.path, name))
        return path if path.startswith(self.path.rstrip("/") + "/") else None

    def _located(self, name: str, field: str) -> "tuple[AbstractFileSystem, str, str]":
        """Returns the filesystem, the path, and the path as a glob."""
        if "://" in name or PurePath(name).is_absolute():
            fs, path = _filesystem(name, field)
            return fs, path, path
        path = posixpath.normpath(posixpath.join(self.path, name))
        return self.fs, path, posixpath.join(glob.escape(self.path), name)

    def _name(self, fs: "AbstractFileSystem", path: str) -> str:
        if fs is not self.fs:
            return fs.unstrip_protocol(path)
        return path.removeprefix(self.path.rstrip("/") + "/")

    def _nothing(self, fs: "AbstractFileSystem", path: str, name: str, endings: tuple[str, ...]) -> str:
        if glob.has_magic(name):
            return f"no file matches {name} in {self.address}"
        if fs.isdir(path):
            return f"no file below {name} ends in {', '.join(endings)}"
        return f"there is no {name} in {self.address}"

    def _near(self, fs: "AbstractFileSystem", path: str, name: str, endings: tuple[str, ...] = ()) -> str:
        if fs.isdir(path):
            found = sorted(each.removeprefix(f"{path}/") for each in fs.find(path))
            return f"There: {some(found)}.{_of_json(found, endings)}" if found else ""
        folder = posixpath.dirname(path)
        beside = [posixpath.basename(each) for each in fs.ls(folder, detail=False)] if fs.isdir(folder) else []
        near = did_you_mean(posixpath.basename(path), beside)
        return near or (f"There: {some(sorted(beside), 10)}." if beside else f"{name} is looked up from `data.root`.")


def fingerprint(file: LogFile) -> str:
    """Returns 16 hex digits of a file's content, at a price that does not grow with it.

    It is made of the size and of the checksum that the filesystem keeps (object stores), else of the first and the last
    64 KiB and 16 blocks of 64 KiB between, and of all of a Parquet file's footer. So it sees every change of a file of
    up to 1.1 MiB, and of longer ones every change of the size and almost any way to write the file anew; it does
    not see bytes changed in place, between the blocks, in a file that stays as long as it was.
    """
    digest = hashlib.sha256(str(file.size).encode())
    info = file.fs.info(file.path)
    checksum = next((info[name] for name in _CHECKSUMS if info.get(name)), None)
    if checksum is not None:
        digest.update(str(checksum).encode())
    else:
        with file.open() as stream:
            if file.size < 0:
                for block in iter(lambda: stream.read(_BLOCK), b""):
                    digest.update(block)
            for start, length in _blocks(stream, file):
                stream.seek(start)
                digest.update(stream.read(length))
    return digest.hexdigest()[:16]


def joined_fingerprint(parts: Iterable[object]) -> str:
    """Returns 16 hex digits of several texts or numbers."""
    return hashlib.sha256("\n".join(str(part) for part in parts).encode()).hexdigest()[:16]


def is_local(fs: "AbstractFileSystem") -> bool:
    """Returns whether files lie on this machine's own filesystem."""
    protocol = fs.protocol if isinstance(fs.protocol, str) else fs.protocol[0]
    return protocol in ("file", "local")


def listing(fs: "AbstractFileSystem", folder: str, endings: tuple[str, ...]) -> list[tuple[str, int]]:
    """Returns path and size of the files below a folder that have one of the endings, by path."""
    return sorted((path, _size(info)) for path, info in _below(fs, folder, endings).items())


def _blocks(stream: BinaryIO, file: LogFile) -> list[tuple[int, int]]:
    """Returns (start, length) of what a fingerprint looks at."""
    if file.size <= (_SPREAD + 2) * _BLOCK:
        return [(0, file.size)] if file.size > 0 else []
    tail = _BLOCK
    if file.separator is None:
        stream.seek(file.size - 8)
        tail = max(tail, min(8 + int.from_bytes(stream.read(4), "little"), _LONGEST_FOOTER, file.size))
    step = (file.size - 2 * _BLOCK) // (_SPREAD + 1)
    spread = [(_BLOCK + number * step, _BLOCK) for number in range(1, _SPREAD + 1)]
    return [(0, _BLOCK), *spread, (file.size - tail, tail)]


def _of_json(names: list[str], endings: tuple[str, ...]) -> str:
    """Returns what to do with JSON among the files that a table was looked for in."""
    json = PARQUET[0] in endings and any(name.lower().endswith(_JSON) for name in names)
    return f" {_READS_JSON}" if json else ""


def _size(info: dict[str, Any]) -> int:
    return -1 if info.get("size") is None else int(info["size"])


def _below(fs: "AbstractFileSystem", folder: str, endings: tuple[str, ...]) -> dict[str, Any]:
    found = fs.find(folder, detail=True)
    return {
        path: info
        for path, info in found.items()
        if path.lower().endswith(endings) and not _is_hidden(path.removeprefix(folder))
    }


def _is_hidden(path: str, unless: str = "") -> bool:
    """Returns whether a part begins with `.` or `_`, as what other tools leave beside their files does."""
    marks = {part[0] for part in PurePath(path).parts} & {".", "_"}
    return bool(marks - {part[0] for part in PurePath(unless).parts})


def _filesystem(address: str, field: str) -> "tuple[AbstractFileSystem, str]":
    from fsspec.core import url_to_fs

    try:
        fs, path = url_to_fs(address)
    except (ValueError, ImportError) as error:  # an unknown protocol; a package that it needs
        raise FieldError(field, f"cannot open {address}: {error}") from error
    return fs, path.rstrip("/") or path
