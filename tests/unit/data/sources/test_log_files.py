"""Files below a root, on disk and behind an address; fingerprints: what they see and what they do not."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from little_log import impressions, little_log, write_log

from dicm_kit.data.sources.log_files import LogFile, Root, fingerprint
from dicm_kit.errors import DataError, FieldError

BLOCK = 65_536


@pytest.fixture
def memory() -> Iterator[MemoryFileSystem]:
    """An empty filesystem in memory."""
    fs = fsspec.filesystem("memory")
    yield fs
    if fs.exists("/shop"):
        fs.rm("/shop", recursive=True)


@pytest.mark.parametrize("ending", [".parquet", ".csv", ".csv.gz"])
def test_a_log_behind_an_address_is_the_same_log(ending: str, memory: MemoryFileSystem, tmp_path: Path) -> None:
    write_log(tmp_path, ending)
    memory.put(str(tmp_path), "/shop", recursive=True)
    here, there = little_log(tmp_path, ending), little_log("memory://shop", ending)
    assert impressions(here) == impressions(there)
    assert pa.Table.from_batches(here.items()) == pa.Table.from_batches(there.items())
    assert dict(here.pictures(set())) == dict(there.pictures(set()))
    assert (here.fingerprint, here.pieces, here.snapshot) == (there.fingerprint, there.pieces, there.snapshot)


def test_a_file_elsewhere_than_the_root(memory: MemoryFileSystem, tmp_path: Path) -> None:
    write_log(tmp_path)
    memory.put(str(tmp_path / "log.parquet"), "/shop/log.parquet")
    for file in ("memory://shop/log.parquet", "memory://shop/*.parquet", "memory://shop"):
        source = little_log(tmp_path, file=file)
        assert list(source.pieces) == ["memory:///shop/log.parquet"]
        assert impressions(source) == impressions(little_log(tmp_path))


def test_a_root_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for address, says in [
        (tmp_path / "nowhere", "there is no folder"),
        (tmp_path / "file", "is a file, not a folder"),
        ("memory://nowhere", "there is no folder memory://nowhere"),
        ("nonsense://a", "cannot open nonsense://a: Protocol not known: nonsense"),
    ]:
        with pytest.raises(FieldError, match=says) as caught:
            Root(str(address))
        assert caught.value.field == "root"


def test_a_root_that_cannot_be_asked(memory: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(type(memory), "isdir", lambda fs, path: (_ for _ in ()).throw(RuntimeError("no credentials")))
        with pytest.raises(FieldError, match=r"`root`: cannot open memory://shop: no credentials"):
            Root("memory://shop")


def test_files_that_are_not_there(tmp_path: Path) -> None:
    write_log(tmp_path)
    (tmp_path / "notes.txt").touch()
    root = Root(str(tmp_path))
    for name, says in [
        ("lag.parquet", r"(?s)`x.file`: there is no lag.parquet in .*Did you mean `log.parquet`"),
        ("log-*.parquet", r"(?s)`x.file`: no file matches log-\*.parquet in "),
        (
            "images",
            r"(?s)`x.file`: no file below images ends in \.parquet, \.parq, \.pq, \.csv.*\n\n  There: \w+\.\w+, ",
        ),
        ("notes.txt", r"(?s)`x.file`: cannot read .*notes.txt.*It reads \.parquet"),
        ("/nowhere/log.csv", r"`x.file`: there is no /nowhere/log.csv"),
        ("nonsense://a", r"`x.file`: cannot open nonsense://a"),
    ]:
        with pytest.raises(FieldError, match=says):
            root.find(name, "x.file")


def test_json_is_told_who_reads_it(tmp_path: Path) -> None:
    write_log(tmp_path)
    (tmp_path / "events").mkdir()
    (tmp_path / "empty").mkdir()
    (tmp_path / "events/2026-03-10.jsonl.gz").touch()
    root = Root(str(tmp_path))
    for name in ("events", "events/2026-03-10.jsonl.gz", "events/*"):
        with pytest.raises(FieldError, match=r"2026-03-10\.jsonl\.gz") as caught:
            root.find(name, "x.file")
        assert "`SourceFolder.json_lines`" in (caught.value.todo or "")
        assert "Did you mean" not in str(caught.value)
    with pytest.raises(FieldError, match=r"There: 2026-03-10\.jsonl\.gz\.$"):
        root.find("events", "x.file", (".tar",))
    with pytest.raises(FieldError, match=r"no file below empty ends in ") as caught:
        root.find("empty", "x.file")
    assert not caught.value.todo


def test_a_file_that_is_no_parquet(tmp_path: Path) -> None:
    write_log(tmp_path)
    (tmp_path / "log.parquet").write_text("no Parquet")
    with pytest.raises(DataError, match=r"log.parquet: cannot be read as Parquet: .*magic bytes"):
        little_log(tmp_path)
    write_log(tmp_path)
    data = bytearray((tmp_path / "log.parquet").read_bytes())
    data[4:2000] = b"\xff" * 1996
    (tmp_path / "log.parquet").write_bytes(data)
    with pytest.raises(DataError, match=r"log.parquet: cannot be read as Parquet"):
        impressions(little_log(tmp_path))


# --- fingerprints ---


def _file(path: Path) -> LogFile:
    (file,) = Root(str(path.parent)).find(path.name, "file")
    return file


def test_a_short_file_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    data = bytearray(np.random.default_rng(0).bytes(18 * BLOCK))
    path.write_bytes(data)
    seen = {fingerprint(_file(path))}
    for place in (0, BLOCK + 1, 9 * BLOCK, len(data) - 1):
        changed = data.copy()
        changed[place] ^= 1
        path.write_bytes(changed)
        seen.add(fingerprint(_file(path)))
    assert len(seen) == 5
    path.write_bytes(data)
    assert fingerprint(_file(path)) in seen, "when it was written does not count"


def test_of_a_long_file_the_size_the_ends_and_blocks_between(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    data = bytearray(np.random.default_rng(0).bytes(60 * BLOCK + 17))
    path.write_bytes(data)
    first = fingerprint(_file(path))

    def changed(place: int) -> str:
        other = data.copy()
        other[place] ^= 1
        path.write_bytes(other)
        return fingerprint(_file(path))

    assert first not in {changed(0), changed(BLOCK - 1), changed(len(data) - 1), changed(len(data) - BLOCK)}
    path.write_bytes(data + b"\n")
    assert fingerprint(_file(path)) != first
    seen = [changed(place) != first for place in range(BLOCK, 59 * BLOCK, BLOCK // 2)]
    assert 16 <= sum(seen) <= 40, "about 16 of 58 blocks are looked at, as documented"


def test_all_of_a_long_footer(tmp_path: Path) -> None:
    """A Parquet file's footer has the sizes and bounds of all its column chunks."""
    columns = {f"column {number}": np.arange(4000) * number for number in range(60)}
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table(columns), path, row_group_size=200, compression="none", use_dictionary=False)
    file = _file(path)
    footer = pq.read_metadata(path).serialized_size
    assert file.size > 30 * BLOCK
    assert footer > BLOCK + 1000
    first = fingerprint(file)
    data = bytearray(path.read_bytes())
    data[len(data) - footer + 50] ^= 1
    path.write_bytes(data)
    assert fingerprint(file) != first


def test_an_object_store_says_it_itself(monkeypatch: pytest.MonkeyPatch, memory: MemoryFileSystem) -> None:
    """With an ETag nothing is read."""
    memory.pipe("/shop/a.csv", b"a\n1\n")
    (file,) = Root("memory://shop").find("a.csv", "file")
    tags: dict[str, Any] = {"ETag": "one"}
    with monkeypatch.context() as patch:
        patch.setattr(type(memory), "info", lambda fs, path, **options: {"name": path, "size": 4, **tags})
        patch.setattr(LogFile, "open", lambda file: pytest.fail("it was read"))
        first = fingerprint(file)
        assert fingerprint(file) == first
        tags["ETag"] = "two"
        assert fingerprint(file) != first


def test_a_file_of_unknown_size_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    seen = set()
    for place in range(0, 20 * BLOCK, BLOCK):
        data = bytearray(20 * BLOCK)
        data[place] = 1
        path.write_bytes(data)
        seen.add(fingerprint(replace(_file(path), size=-1)))
    assert len(seen) == 20


def test_it_is_the_same_on_every_machine(tmp_path: Path) -> None:
    """Golden: a fingerprint that changes by itself would prepare everything anew."""
    path = tmp_path / "a.csv"
    path.write_bytes(b"user,item\n1,2\n")
    assert fingerprint(_file(path)) == "ae9fad3a61612dda"
