"""The pictures of a log, from a column of paths, a folder or tar files. What is not there is left out."""

import errno
from collections.abc import Callable, Container, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from posixpath import basename
from typing import TYPE_CHECKING

import numpy as np

from dicm_kit.data.pictures import KnownNames, hash_of_name
from dicm_kit.data.sources.log_files import LogFile, Root, fingerprint, joined_fingerprint, listing
from dicm_kit.data.sources.log_tar import tar_members
from dicm_kit.errors import ImageError, some
from dicm_kit.pixels import MAX_BYTES

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

ENDINGS = (".jpg", ".jpeg", ".png", ".webp")
"""Pictures in folders and tar files."""
_THREADS = 4
_AT_ONCE = 64
_TEXT = " Where ids have zeros in front, read them as text (`items.text`, `impressions.text`)."
_OUTSIDE = "refused: no path inside `data.root`"
_MISSING = (FileNotFoundError, IsADirectoryError, NotADirectoryError, ValueError)
"""There is no such picture; ValueError: no file can have such a name."""


class PicturesOfColumn:
    """Pictures whose path, from the root, stands in a column of the items. Paths that leave the root are refused."""

    fingerprint = ""
    """A column has no list of its own: the items table is it."""

    def __init__(self, root: Root, names: Callable[[], Iterable[str | None]]):
        """`names`: gives the column, each time it is called."""
        self._root, self._names = root, names

    def read(self, have: Container[str]) -> Iterator[tuple[str, bytes | str]]:
        """Yields (name, bytes) of each picture that is not in `have`, once; for a refused path the reason."""
        return _read(self._root.fs, ((name, self._root.inside(name)) for name in self._distinct() if name not in have))

    def _distinct(self) -> Iterator[str]:
        """Yields each name once, where it stands first; holds 8 bytes a name."""
        hashes = np.fromiter((hash_of_name(name) for name in self._names() if name), np.uint64)
        first = np.zeros(len(hashes), dtype=bool)
        first[np.unique(hashes, return_index=True)[1]] = True
        for name, is_first in zip((name for name in self._names() if name), first, strict=True):
            if is_first:
                yield name


class PicturesOfFolder:
    """Pictures named after the items, anywhere below a folder; of several of one name the first by path counts."""

    def __init__(self, root: Root, folder: str, items: Callable[[], Iterable[str]], key: str = "pictures.folder"):
        self._fs, path = root.folder(folder, key)
        self._folder, self._items, self._key = folder, items, key
        self._listed = lambda: listing(self._fs, path, ENDINGS)

    @property
    def fingerprint(self) -> str:
        """Of the names and sizes of all pictures."""
        return joined_fingerprint(self._listed())

    def read(self, have: Container[str]) -> Iterator[tuple[str, bytes | str]]:
        """Yields (name, bytes) of each picture of an item that is not in `have`, once."""
        chosen = _Chosen(self._items(), have, self._folder, _TEXT if self._key == "pictures.folder" else "")
        paths = [path for path, _ in self._listed()]
        yield from _read(self._fs, ((stem(path), path) for path in paths if chosen.takes(stem(path))))
        chosen.raise_if_none()


class PicturesOfTars:
    """Pictures named after the items, in tar files, which are read from end to end; the first of a name counts."""

    def __init__(self, files: list[LogFile], items: Callable[[], Iterable[str]]):
        self._files, self._items = files, items

    @property
    def fingerprint(self) -> str:
        """Of the files' content."""
        return joined_fingerprint(map(fingerprint, self._files))

    def read(self, have: Container[str]) -> Iterator[tuple[str, bytes]]:
        """Yields (name, bytes) of each picture of an item that is not in `have`, once."""
        chosen = _Chosen(self._items(), have, some(file.name for file in self._files))
        for file in self._files:
            members = tar_members(file, ENDINGS, lambda name: chosen.takes(stem(name)), MAX_BYTES + 1)
            yield from ((stem(name), content) for name, content in members)
        chosen.raise_if_none()


class _Chosen:
    """Which pictures of a folder or tar are read: each once, and only the items'."""

    def __init__(self, items: Iterable[str], have: Container[str], place: str, hint: str = _TEXT):
        self._items, self._have, self._place, self._hint = KnownNames.of(items), have, place, hint
        self._seen: set[int] = set()
        self._matched = False
        self._others: list[str] = []

    def takes(self, name: str) -> bool:
        """Returns whether this picture is to be read."""
        if name not in self._items:
            self._others += [name] if len(self._others) < 3 else []
            return False
        self._matched = True
        if name in self._have or (key := hash_of_name(name)) in self._seen:
            return False
        self._seen.add(key)
        return True

    def raise_if_none(self) -> None:
        """Raises ImageError when there were pictures, but none of an item."""
        if self._others and not self._matched:
            raise ImageError(
                f"no picture is named after an item; they are called {', '.join(self._others)}, ...",
                where=self._place,
                todo=f"Names are item ids as the table has them.{self._hint}",
            )


def stem(path: str) -> str:
    """Returns the file's name without folders and ending: the item that a picture is of."""
    return basename(path).rpartition(".")[0]


def _read(fs: "AbstractFileSystem", named: Iterable[tuple[str, str | None]]) -> Iterator[tuple[str, bytes | str]]:
    """Yields (name, bytes) in the order of `named`, several read at a time; files that are not there are left out.

    Names without a path come with the reason, before those that are read together with them.
    No more than one byte above the limit is read of a file: that is enough to refuse it.
    """
    together = getattr(fs, "async_impl", False)
    named = iter(named)
    with ThreadPoolExecutor(_THREADS) as pool:
        while several := list(islice(named, _AT_ONCE)):
            yield from ((name, _OUTSIDE) for name, path in several if path is None)
            batch = [(name, path) for name, path in several if path is not None]
            paths = [path for _, path in batch]
            if together and paths:
                found = fs.cat_ranges(paths, 0, MAX_BYTES + 1, on_error="return")
            else:
                found = list(pool.map(lambda path: _content(fs, path), paths))
            for (name, path), content in zip(batch, found, strict=True):
                if isinstance(content, bytes):
                    yield name, content
                elif not _is_missing(content):
                    yield name, _without_range(fs, path, content)


def _content(fs: "AbstractFileSystem", path: str) -> bytes | Exception:
    try:
        with fs.open(path, "rb") as file:
            return file.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        return error


def _is_missing(error: Exception) -> bool:
    """Returns whether there is no such file, or can be none."""
    return isinstance(error, _MISSING) or getattr(error, "errno", None) in (errno.ENAMETOOLONG, errno.ELOOP)


def _without_range(fs: "AbstractFileSystem", path: str, error: Exception) -> bytes:
    """Returns nothing for an empty file, of which object stores refuse to give a range; else raises ImageError."""
    try:
        if fs.size(path) == 0:
            return b""
    except OSError:
        pass
    raise ImageError(f"cannot be read: {error}", where=path) from error
