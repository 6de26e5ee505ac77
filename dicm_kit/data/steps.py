"""Files that appear whole or not at all, steps that are not done twice, and one process per folder."""

import errno
import fcntl
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dicm_kit.errors import DataError
from dicm_kit.whole_file import sync_folder, write_whole

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_STATE = "state.json"
_FULL = (errno.ENOSPC, errno.EDQUOT)
_FULL_IN_DUCKDB = ("No space left", "max_temp_directory_size")  # the second is a share of what is free


def publish(aside: Path, target: Path) -> None:
    """Puts a finished file, or a folder of them, in place; what an earlier attempt left there goes."""
    for path in [aside, *aside.rglob("*")] if aside.is_dir() else [aside]:
        sync_folder(path)  # fsync is the same for files
    if target.is_dir():
        shutil.rmtree(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    aside.replace(target)
    sync_folder(target.parent)


def move_in(source: Path, target: Path, merge: bool) -> None:
    """Moves a file or folder to its place; `merge`: a folder's entries one by one, beside those that are there.

    Nothing to move means that it was moved before.
    """
    if not source.exists():
        return
    if merge and source.is_dir() and target.is_dir():
        for each in sorted(source.iterdir()):
            move_in(each, target / each.name, merge=each.is_dir() and (target / each.name).is_dir())
    elif source.is_dir() and target.is_dir():
        # aside first: a folder cannot be put in the place of another in one step
        aside = source.with_name(f"{source.name}.old")
        shutil.rmtree(aside, ignore_errors=True)
        target.replace(aside)
        source.replace(target)
        shutil.rmtree(aside)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        source.replace(target)
    sync_folder(target.parent)


@contextmanager
def parquet_file(path: Path, schema: "pa.Schema", **options: Any) -> "Iterator[pq.ParquetWriter]":
    """Writes a Parquet file that is closed whatever happens: pyarrow's own writer leaves it open on a full disk."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pa.OSFile(str(path), "wb") as file:
        writer = pq.ParquetWriter(file, schema, **options)
        try:
            yield writer
        except BaseException:
            with suppress(OSError):  # the error that is on its way says more
                writer.close()
            raise
        writer.close()


class Steps:
    """Which steps of a preparation are finished, kept in `work/state.json` with what they were done for."""

    def __init__(self, work: Path, how: str, content: str, code: str | None):
        """Takes fingerprints of how the folder is made, and of what is made: when only the second has changed, the
        log has grown since a run was cut off, and all steps are done again. `code`: of the source's plugin."""
        self.work, self._for = work, {"how": how, "content": content}
        self._finished: list[str] = []
        self.code = code
        """That with which the first step was done."""
        try:
            state = json.loads((work / _STATE).read_text())
        except FileNotFoundError:
            return
        if state["how"] != how:
            raise DataError(
                "holds an unfinished preparation of another source or with other options",
                where=str(work.parent),
                todo="Delete the folder to begin anew, or choose another `data.out`.",
            )
        if state["content"] == content:
            self._finished = state["finished"]
            self.code = state.get("code") if self._finished else code
        else:
            shutil.rmtree(work)
            work.mkdir()

    def run(self, name: str, step: Callable[[], None]) -> None:
        """Does the step, unless it is finished. A step that was cut off is done again from its beginning."""
        if name in self._finished:
            return
        self._save()  # the folder says whose it is from the first byte on
        step()
        self._finished.append(name)
        self._save()

    def _save(self) -> None:
        state = {**self._for, "finished": self._finished, "code": self.code}
        write_whole(self.work / _STATE, json.dumps(state).encode())


@contextmanager
def locked(file: Path, waiting: Callable[[], None]) -> Iterator[None]:
    """Holds a folder's lock; waits for another process that has it, after a call of `waiting`.

    The lock ends with the process, however that ends; the file stays, since removing it would let two in.
    """
    with file.open("a") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


@contextmanager
def full_disk_explained(folder: Path, doing: Callable[[], str]) -> Iterator[None]:
    """Turns a full disk into a DataError that says where and what to do."""
    import duckdb

    try:
        yield
    except (OSError, duckdb.Error) as error:
        full = getattr(error, "errno", None) in _FULL or any(sign in str(error) for sign in _FULL_IN_DUCKDB)
        if not full:
            raise
        free = shutil.disk_usage(folder).free
        raise DataError(
            f"the disk is full ({free / 2**20:,.0f} MiB free) while preparing {doing()}",
            where=str(folder),
            todo="Make room, or choose another `data.out`. A new run goes on from the last finished step.",
        ) from error
