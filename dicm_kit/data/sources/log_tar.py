"""A tar file, also gzipped, as a stream of its files; one that is cut says so and names the last good file."""

import gzip
import tarfile
import zlib
from collections.abc import Callable, Iterator

from dicm_kit.data.sources.log_files import LogFile
from dicm_kit.errors import ImageError

TARS = (".tar", ".tar.gz", ".tgz")
_LONGEST_NAME = 2**20  # bytes of the extra headers that hold long names
_EXTRA = (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)


def tar_members(
    file: LogFile, endings: tuple[str, ...], takes: Callable[[str], bool], limit: int
) -> Iterator[tuple[str, bytes]]:
    """Yields (name, first `limit` bytes) of each file with one of the endings that `takes` wants, in order.

    Folders, links and other files are passed over.
    """
    last: str | None = None
    try:
        with file.open() as raw:
            packed = file.path.lower().endswith("gz")
            stream = gzip.GzipFile(fileobj=raw) if packed else raw
            with tarfile.open(fileobj=stream, mode="r|", tarinfo=_StrictInfo) as tar:
                while (info := tar.next()) is not None:
                    if info.isreg() and info.name.lower().endswith(endings) and takes(info.name):
                        yield info.name, _content(tar, info, limit)
                        last = info.name
                    tar.members.clear()  # type: ignore[attr-defined] # it would keep all of them
            while packed and stream.read(2**20):  # to where gzip's own checksum stands
                pass
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        good = f"the last good picture is {last}" if last else "there is no good picture before it"
        todo = "Write or copy the file anew."
        raise ImageError(f"a cut or garbled tar file ({error}); {good}", where=file.where, todo=todo) from error


def _content(tar: tarfile.TarFile, info: tarfile.TarInfo, limit: int) -> bytes:
    stream = tar.extractfile(info)
    assert stream is not None, "it is a file"
    content = stream.read(min(info.size, limit))
    if len(content) < min(info.size, limit):
        raise tarfile.ReadError("unexpected end of data")
    return content


class _StrictInfo(tarfile.TarInfo):
    """A header; unlike in `tarfile`, a file that ends without the end mark or goes on with garbage is an error."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_StrictInfo":
        """Returns the header in these bytes."""
        if len(buf) < tarfile.BLOCKSIZE:
            raise tarfile.ReadError("it has no end mark")
        try:
            info = super().frombuf(buf, encoding, errors)
        except tarfile.HeaderError as error:
            if buf.count(b"\0") == len(buf):
                raise  # the end mark
            raise tarfile.ReadError(f"no header where one must be: {error}") from error
        if info.type in _EXTRA and info.size > _LONGEST_NAME:
            raise tarfile.ReadError(f"a header of {info.size:,} bytes")
        return info
