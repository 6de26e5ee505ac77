"""Pictures from a column of paths, a folder or tar files, local and remote; what is missing, hostile or cut."""

import gzip
import os
import tarfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.asyn import AsyncFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from little_log import FIRST, write_table, write_tar
from little_shop import picture

from dicm_kit.data.sources.log import LogSource
from dicm_kit.data.sources.log_config import ImpressionsConfig, ItemsConfig, PicturesConfig
from dicm_kit.data.sources.log_files import Root
from dicm_kit.data.sources.log_pictures import _read
from dicm_kit.errors import FieldError, ImageError
from dicm_kit.pixels import MAX_BYTES, check_picture


def source(root: Path, items: list[Any], paths: list[str | None] | None = None, **pictures: str) -> LogSource:
    """Returns a log with these items, and their paths or what `pictures` says."""
    write_table(root / "log.csv", {"user": [1], "item": items[:1], "time": [FIRST]})
    write_table(root / "items.parquet", {"item": items} | ({"path": paths} if paths else {}))
    log = ImpressionsConfig(file="log.csv", user="user", item="item", time="time", text=_text(items))
    table = ItemsConfig(file="items.parquet", item="item", picture="path" if paths else None)
    return LogSource(str(root), log, table, pictures=PicturesConfig(**pictures) if pictures else None)


def _text(items: list[Any]) -> list[str]:
    return ["item"] if isinstance(items[0], str) else []


def write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


# --- a column of paths ---


def test_a_column_gives_each_path_once(tmp_path: Path) -> None:
    for shade in range(3):
        write(tmp_path / f"shop/{shade}.PNG", picture(shade))
    paths = [
        "shop/1.PNG",
        None,
        "shop/0.PNG",
        "shop/1.PNG",
        "",
        "./shop/2.PNG",
        str(tmp_path / "shop/2.PNG"),
        "gone.jpg",
    ]
    log = source(tmp_path, list(range(8)), paths)
    found = dict(log.pictures(set()))
    assert list(found) == ["shop/1.PNG", "shop/0.PNG", "./shop/2.PNG", str(tmp_path / "shop/2.PNG")], "as first named"
    assert found["shop/0.PNG"] == picture(0)
    assert list(dict(log.pictures({"shop/1.PNG"}))) == list(found)[1:]


def test_paths_that_leave_the_root_are_not_followed(tmp_path: Path) -> None:
    write(tmp_path / "secret.png", picture(1))
    write(tmp_path / "log/a/ok.png", picture(2))
    paths = [
        "../secret.png",
        "a/../../secret.png",
        str(tmp_path / "secret.png"),
        "/etc/passwd",
        f"file://{tmp_path}/secret.png",
        "https://example.com/a.png",
        "a/\0.png",
        "a",
        "a/ok.png/b.png",
        "x" * 5000,
        "a/../a/ok.png",
        f"file://{tmp_path}/log/a/ok.png",
    ]
    log = source(tmp_path / "log", list(range(len(paths))), paths)
    found = dict(log.pictures(set()))
    refused, read = paths[:7], paths[-2:]
    assert list(found) == refused + read
    assert {found[path] for path in refused} == {"refused: no path inside `data.root`"}
    assert {found[path] for path in read} == {picture(2)}
    assert list(dict(log.pictures({*refused, read[0]}))) == read[1:]


def test_what_lies_beside_a_root_of_the_same_beginning(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()
    root = Root(str(tmp_path / "log"))
    assert root.inside("../log2/a.png") is None
    assert root.inside("..") is None
    assert root.inside(".") is None
    assert root.inside("a/b.png") == str(tmp_path / "log/a/b.png")
    assert Root("/").inside("etc/a.png") == "/etc/a.png", "who gives / as the root means all files"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_that_may_not_be_read_is_an_error(tmp_path: Path) -> None:
    write(tmp_path / "a.png", picture(1))
    (tmp_path / "a.png").chmod(0)
    with pytest.raises(ImageError, match=r"a.png: cannot be read: .*Permission"):
        dict(source(tmp_path, [1], ["a.png"]).pictures(set()))


def test_a_filesystem_that_fails_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = source(tmp_path, [1], ["a.png"])
    monkeypatch.setattr(
        "dicm_kit.data.sources.log_pictures._content", lambda fs, path: OSError(5, "input/output error")
    )
    with pytest.raises(ImageError, match=r"a.png: cannot be read: .*input/output error"):
        dict(log.pictures(set()))


def test_of_a_giant_only_as_much_is_read_as_refuses_it(tmp_path: Path) -> None:
    with (tmp_path / "giant.png").open("wb") as file:
        file.truncate(MAX_BYTES * 4)
    ((_, data),) = source(tmp_path, [1], ["giant.png"]).pictures(set())
    assert len(data) == MAX_BYTES + 1
    assert "more than the" in str(check_picture(data))


def test_no_pictures_at_all(tmp_path: Path) -> None:
    log = source(tmp_path, [1, 2])
    assert list(log.pictures(set())) == []
    assert next(log.items())["picture"].null_count == 2


# --- a folder ---


def test_a_folder_anywhere_below_it(tmp_path: Path) -> None:
    for name in (
        "images/1.jpg",
        "images/a/2.PNG",
        "images/b/2.png",
        "images/c/3.webp",
        "images/9.jpeg",
        "images/.4.jpg",
    ):
        write(tmp_path / name, name.encode())
    write(tmp_path / "images/1.txt", b"no picture")
    log = source(tmp_path, [1, 2, 3, 4, 5], folder="images")
    assert dict(log.pictures(set())) == {"1": b"images/1.jpg", "2": b"images/a/2.PNG", "3": b"images/c/3.webp"}
    assert dict(log.pictures({"1", "2"})) == {"3": b"images/c/3.webp"}
    assert next(log.items())["picture"].to_pylist() == ["1", "2", "3", "4", "5"]


def test_ids_that_lost_their_zeros_are_noticed(tmp_path: Path) -> None:
    write(tmp_path / "images/010/0108775015.jpg", picture(1))
    with pytest.raises(ImageError, match=r"(?s)images: no picture is named after an item; .* 0108775015, .*items.text"):
        dict(source(tmp_path, [108775015], folder="images").pictures(set()))
    assert dict(source(tmp_path, ["0108775015"], folder="images").pictures(set())) == {"0108775015": picture(1)}
    assert list(source(tmp_path, ["0108775015"], folder="images").pictures({"0108775015"})) == []


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(FieldError, match=r"(?s)`pictures.folder`: there is no folder image\n.*Did you mean `images`"):
        source(tmp_path, [1], folder="image")
    assert list(source(tmp_path, [1], folder="images").pictures(set())) == [], "an empty one has none"


# --- tar files ---


@pytest.mark.parametrize("name", ["posters.tar", "posters.tar.gz", "posters.tgz"])
def test_a_tar_file(name: str, tmp_path: Path) -> None:
    files = {"1.jpg": b"one", "posters/2.png": b"two", "1.cls": b"5", "a/b/3.jpeg": b"three", "9.jpg": b"nobody's"}
    write_tar(tmp_path / name, files | {"a/1.jpg": b"one again"})
    log = source(tmp_path, [1, 2, 3, 4], tar=name)
    assert dict(log.pictures(set())) == {"1": b"one", "2": b"two", "3": b"three"}
    assert dict(log.pictures({"1"})) == {"2": b"two", "3": b"three"}


def test_several_tar_files_in_order(tmp_path: Path) -> None:
    for number in (1, 0):
        write_tar(
            tmp_path / f"shards/x-{number}.tar", {"1.jpg": f"in {number}".encode(), f"{number + 2}.jpg": b"other"}
        )
    assert list(source(tmp_path, [1, 2, 3], tar="shards/x-*.tar").pictures(set())) == [
        ("1", b"in 0"),
        ("2", b"other"),
        ("3", b"other"),
    ]
    assert len(list(source(tmp_path, [1, 2, 3], tar="shards").pictures(set()))) == 3
    with pytest.raises(FieldError, match=r"`pictures.tar`: no file matches y-\*.tar"):
        source(tmp_path, [1], tar="y-*.tar")


@pytest.mark.parametrize("kind", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_folders_links_and_long_names(kind: int, tmp_path: Path) -> None:
    long = "x" * 90 + "/" + ("y" * 120 if kind != tarfile.USTAR_FORMAT else "y" * 60)
    with tarfile.open(tmp_path / "p.tar", "w", format=kind) as tar:
        for entry, what in (("a.jpg", tarfile.DIRTYPE), ("b.jpg", tarfile.SYMTYPE), ("c.jpg", tarfile.FIFOTYPE)):
            info = tarfile.TarInfo(entry)
            info.type, info.linkname = what, "/etc/passwd" if what == tarfile.SYMTYPE else ""
            tar.addfile(info)
        info = tarfile.TarInfo(f"{long}/1.jpg")
        info.size = 5
        tar.addfile(info, BytesIO(b"12345"))
    assert dict(source(tmp_path, ["1", "a", "b", "c"], tar="p.tar").pictures(set())) == {"1": b"12345"}


def _cut(data: bytes, where: str) -> bytes:
    """Returns a tar of three files of 700 bytes (a header and two blocks each), cut or garbled."""
    return {
        "in a file": data[: 1536 + 512 + 300],
        "in a header": data[: 1536 + 100],
        "between files": data[:1536],
        "garbled header": data[: 1536 + 10] + b"\xff" * 20 + data[1536 + 30 :],
        "empty": b"",
        "no tar": b"no tar at all" * 100,
    }[where]


@pytest.mark.parametrize("where", ["in a file", "in a header", "between files", "garbled header"])
@pytest.mark.parametrize("ending", [".tar", ".tar.gz"])
def test_a_cut_tar_names_the_last_good_picture(where: str, ending: str, tmp_path: Path) -> None:
    write_tar(tmp_path / "p.tar", {f"a/{number}.jpg": b"x" * 700 for number in (1, 2, 3)})
    data = _cut((tmp_path / "p.tar").read_bytes(), where)
    (tmp_path / f"p{ending}").write_bytes(gzip.compress(data) if ending == ".tar.gz" else data)
    log, found = source(tmp_path, [1, 2, 3], tar=f"p{ending}"), []
    with pytest.raises(ImageError) as caught:
        found += [name for name, _ in log.pictures(set())] or found
    assert str(caught.value).startswith(f"{tmp_path}/p{ending}: a cut or garbled tar file")
    assert "the last good picture is a/1.jpg" in str(caught.value)


@pytest.mark.parametrize("where", ["empty", "no tar"])
def test_what_is_no_tar_at_all(where: str, tmp_path: Path) -> None:
    (tmp_path / "p.tar").write_bytes(_cut(b"", where))
    with pytest.raises(ImageError, match=r"p.tar: a cut or garbled tar file .*; there is no good picture before it"):
        dict(source(tmp_path, [1], tar="p.tar").pictures(set()))


def test_a_cut_gzip(tmp_path: Path) -> None:
    rows = {f"{number}.jpg": os.urandom(700) for number in range(50)}
    write_tar(tmp_path / "p.tar.gz", rows)
    data = (tmp_path / "p.tar.gz").read_bytes()
    log = source(tmp_path, list(range(50)), tar="p.tar.gz")
    (tmp_path / "p.tar.gz").write_bytes(data[: len(data) // 2])
    with pytest.raises(ImageError, match=r"the last good picture is \d+.jpg"):
        dict(log.pictures(set()))
    (tmp_path / "p.tar.gz").write_bytes(data[:-8] + b"\0" * 8)
    with pytest.raises(ImageError, match=r"CRC check failed.*the last good picture is 49.jpg"):
        dict(log.pictures(set()))


def test_a_tar_that_claims_giants(tmp_path: Path) -> None:
    """The size in a header is not believed; of a real giant no more than the limit is held."""
    info = tarfile.TarInfo("1.jpg")
    info.size = 2**50
    (tmp_path / "p.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + b"x" * 512 * 3)
    with pytest.raises(ImageError, match="unexpected end of data"):
        dict(source(tmp_path, [1], tar="p.tar").pictures(set()))
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, 2**40
    (tmp_path / "p.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + b"x" * 512 * 3)
    with pytest.raises(ImageError, match=r"a header of 1,099,511,627,776 bytes"):
        dict(source(tmp_path, [1], tar="p.tar").pictures(set()))
    write_tar(tmp_path / "p.tar", {"1.jpg": bytes(MAX_BYTES + 1000), "2.jpg": b"next"})
    found = dict(source(tmp_path, [1, 2], tar="p.tar").pictures(set()))
    assert (len(found["1"]), found["2"]) == (MAX_BYTES + 1, b"next")


def test_one_of_three_ways(tmp_path: Path) -> None:
    with pytest.raises(FieldError, match="`pictures`: takes one of `folder` and `tar`"):
        source(tmp_path, [1], folder="a", tar="b")
    with pytest.raises(FieldError, match=r"`pictures`: `items.picture` says already where pictures are"):
        source(tmp_path, [1], ["a.png"], folder="a")


# --- remote ---


@pytest.fixture
def memory() -> Iterator[MemoryFileSystem]:
    """An empty filesystem in memory."""
    fs = fsspec.filesystem("memory")
    yield fs
    if fs.exists("/shop"):
        fs.rm("/shop", recursive=True)


def test_pictures_behind_an_address(memory: MemoryFileSystem) -> None:
    for name in ("a/1.png", "a/2.png"):
        memory.pipe(f"/shop/{name}", name.encode())
    root = Root("memory://shop")
    paths = [("x", root.inside("a/1.png")), ("y", root.inside("memory://shop/a/2.png")), ("z", root.inside("a/9.png"))]
    assert dict(_read(root.fs, paths)) == {"x": b"a/1.png", "y": b"a/2.png"}  # type: ignore[arg-type]
    assert root.inside("s3://shop/a/1.png") is None
    assert root.inside("memory://other/a/1.png") is None


class Store(AsyncFileSystem):
    """An object store: reads ranges of many files at once, and refuses a range of an empty one."""

    protocol = "store"
    files: ClassVar = {"/b/1.png": b"one", "/b/2.png": b"two", "/b/0.png": b"", "/b/locked.png": b"?"}
    calls: ClassVar[list[int]] = []

    async def _cat_file(self, path: str, start: int | None = None, end: int | None = None, **options: Any) -> bytes:
        if path not in self.files:
            raise FileNotFoundError(path)
        if path == "/b/locked.png":
            raise PermissionError("forbidden")
        if not self.files[path]:
            raise OSError(22, "the requested range is not satisfiable")
        return self.files[path][start:end]

    async def _cat_ranges(self, paths: list[str], starts: Any, ends: Any, **options: Any) -> Any:
        self.calls.append(len(paths))
        return await super()._cat_ranges(paths, starts, ends, **options)

    async def _info(self, path: str, **options: Any) -> dict[str, Any]:
        return {"name": path, "size": len(self.files[path]), "type": "file"}


def test_many_pictures_of_an_object_store_at_once() -> None:
    store = Store(skip_instance_cache=True)
    named = [(str(number), f"/b/{number}.png") for number in range(200)]
    assert dict(_read(store, named)) == {"0": b"", "1": b"one", "2": b"two"}
    assert store.calls == [64, 64, 64, 8]
    with pytest.raises(ImageError, match=r"/b/locked.png: cannot be read: forbidden"):
        dict(_read(store, [("x", "/b/locked.png")]))
