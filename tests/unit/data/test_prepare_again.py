"""prepare when it is cut off, repeated, done twice at once, or the disk is full."""

import errno
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml
from little_shop import random_shop

from dicm_kit.data import preparation as preparation_module
from dicm_kit.data.dataset import Dataset
from dicm_kit.data.prepare import PrepareOptions, code_of, prepare
from dicm_kit.data.steps import locked
from dicm_kit.errors import DataError

OPTIONS = PrepareOptions(lanes=2, partitions=2)
STREAMS = ["items", "users", "impressions", "pictures"]


class Killed(BaseException):
    pass


def made(folder: Path, source=None, options=OPTIONS) -> Dataset:
    return prepare(source or random_shop(impressions=300), options, folder, progress=False)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole") / "out"
    made(folder)
    return content(folder)


STEPS = ["items", "users", "impressions", "pictures", "checks", "vocabularies", "item table", "sorting", "samples"]


@pytest.mark.parametrize("at", ["impressions", "pictures", "item table", "samples"])
@pytest.mark.parametrize("before", [True, False])
def test_a_run_that_was_cut_off_goes_on_with_the_step_that_was_not_finished(tmp_path, monkeypatch, whole, at, before):
    """Cut off right before a step's end is noted, or right after."""
    done = preparation_module.Preparation._step

    def cut(self, name, step):
        def killed() -> None:
            step()
            raise Killed

        done(self, name, killed if before and name == at else step)
        if name == at:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(preparation_module.Preparation, "_step", cut)
        with pytest.raises(Killed):
            made(tmp_path / "out")
    with pytest.raises(DataError, match="its preparation was not finished"):
        Dataset.open(tmp_path / "out")
    source = random_shop(impressions=300)
    made(tmp_path / "out", source)
    finished = STEPS[: STEPS.index(at) + (0 if before else 1)]
    assert source.asked == [stream for stream in STREAMS if stream not in finished]
    assert content(tmp_path / "out") == whole


def test_killed_in_the_middle_of_a_file_it_ends_as_if_nothing_had_happened(tmp_path, whole):
    script = f"""
import os, signal, sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from pathlib import Path
from little_shop import random_shop
from dicm_kit.data import lanes, prepare
def die(*_): os.kill(os.getpid(), signal.SIGKILL)
lanes._LaneWriter._write = die
prepare.prepare(random_shop(impressions=300), prepare.PrepareOptions(lanes=2, partitions=2), {str(tmp_path / "out")!r})
"""
    root = str(Path(__file__).parents[3])
    code = subprocess.run([sys.executable, "-c", script], env=os.environ | {"PYTHONPATH": root}, check=False)
    assert code.returncode == -signal.SIGKILL
    made(tmp_path / "out")
    assert content(tmp_path / "out") == whole


@pytest.mark.parametrize(("at", "kept"), [("items", "new"), ("users", "old")])
def test_a_folder_keeps_the_code_that_its_first_step_was_done_with(tmp_path, monkeypatch, at, kept):
    def fail(*_):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(preparation_module.Preparation, f"_ingest_{at}", fail)
        with pytest.raises(Killed):
            prepare(random_shop(impressions=300), OPTIONS, tmp_path / "out", progress=False, code="old")
    prepare(random_shop(impressions=300), OPTIONS, tmp_path / "out", progress=False, code="new")
    assert code_of(tmp_path / "out") == kept
    prepare(random_shop(impressions=300), OPTIONS, tmp_path / "out", progress=False, code="newest")
    assert code_of(tmp_path / "out") == kept


def test_a_folder_without_a_state_keeps_no_code(tmp_path):
    prepare(random_shop(impressions=300), OPTIONS, tmp_path / "out", progress=False, code="old")
    shutil.rmtree(tmp_path / "out/state")
    assert code_of(tmp_path / "out") is None


def test_a_complete_folder_is_returned_at_once(tmp_path):
    before = made(tmp_path / "out")
    source = random_shop(impressions=300)
    assert made(tmp_path / "out", source) == before
    assert source.asked == []


def test_a_folder_of_other_options_or_of_another_source_is_left_alone(tmp_path):
    made(tmp_path / "out")
    before = content(tmp_path / "out")
    with pytest.raises(DataError, match=r"was prepared .* with other options \(min_count was 1, now 2\)"):
        made(tmp_path / "out", options=PrepareOptions(lanes=2, partitions=2, min_count=2))
    with pytest.raises(DataError, match=r"source was random 0 False, now random 1 False"):
        made(tmp_path / "out", random_shop(seed=1, impressions=300))
    assert content(tmp_path / "out") == before


def test_an_unfinished_folder_of_another_source_is_left_alone(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(preparation_module, "write_lanes", lambda *_, **__: (_ for _ in ()).throw(Killed))
        with pytest.raises(Killed):
            made(tmp_path / "out")
    with pytest.raises(DataError, match="unfinished preparation of another source"):
        made(tmp_path / "out", random_shop(seed=1, impressions=300))


def test_a_folder_of_another_version_is_left_alone(tmp_path):
    made(tmp_path / "out")
    file = tmp_path / "out" / "dataset.yaml"
    file.write_text(file.read_text().replace("dicm_dataset: 2", "dicm_dataset: 99"))
    with pytest.raises(DataError, match="dataset folder of version 99; this program reads version 2"):
        made(tmp_path / "out")


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(DataError, match="not empty and not a dataset folder"):
        made(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]
    with pytest.raises(DataError, match="is a file"):
        made(tmp_path / "thesis.txt")


def test_two_at_once_do_it_once(tmp_path):
    source, found = random_shop(impressions=300), []
    threads = [threading.Thread(target=lambda: found.append(made(tmp_path / "out", source))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] == found[1]
    assert source.asked == STREAMS


def test_the_lock_waits_and_says_so(tmp_path):
    waiting, got = threading.Event(), []

    def second() -> None:
        with locked(tmp_path / "lock", waiting.set):
            got.append("second")

    with locked(tmp_path / "lock", lambda: pytest.fail("nobody else has it")):
        thread = threading.Thread(target=second)
        thread.start()
        assert waiting.wait(10)
        assert got == []
    thread.join()
    assert got == ["second"]


def test_a_full_disk_says_where_and_a_new_run_goes_on(tmp_path, monkeypatch, whole):
    def full(*_, **__) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("dicm_kit.data.lanes._LaneWriter._write", full)
        with pytest.raises(
            DataError, match=r"out: the disk is full \([\d,]+ MiB free\) while preparing samples"
        ) as err:
            made(tmp_path / "out")
    assert "A new run goes on" in err.value.todo
    source = random_shop(impressions=300)
    made(tmp_path / "out", source)
    assert source.asked == []
    assert content(tmp_path / "out") == whole


@pytest.mark.parametrize("size", ["24k", "80k", "140k"])
def test_a_disk_that_is_really_full(tmp_path, whole, size):
    """In pyarrow while the log comes in, in duckdb, and in pyarrow while lanes are written."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(disk)]
    if os.geteuid() or not shutil.which("mount") or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("needs root and a kernel that lets it mount a small tmpfs")
    try:
        with pytest.raises(DataError, match="the disk is full"):
            made(disk / "out")
        subprocess.run(["mount", "-o", "remount,size=100m", str(disk)], check=True)
        made(disk / "out")
        assert content(disk / "out") == whole
    finally:
        subprocess.run(["umount", str(disk)], check=True)


# --- opening ---


def test_a_folder_that_is_no_dataset(tmp_path):
    with pytest.raises(DataError, match=r"is not a dataset folder: it has no dataset\.yaml"):
        Dataset.open(tmp_path)


def test_missing_parts_are_named(tmp_path):
    made(tmp_path / "out")
    (tmp_path / "out" / "vocab" / "tags.parquet").unlink()
    (tmp_path / "out" / "samples" / "1970-01-05" / "lane-001.parquet").unlink()
    with pytest.raises(
        DataError, match=r"2 of \d+ parts are missing: vocab/tags\.parquet, samples/1970-01-05/lane-001\.parquet"
    ):
        Dataset.open(tmp_path / "out")


@pytest.mark.parametrize("text", ["dicm_dataset: 2\nlanes: 2", "{", "dicm_dataset: 2\ncolumns: 3"])
def test_a_description_that_cannot_be_read(tmp_path, text):
    (tmp_path / "dataset.yaml").write_text(text)
    with pytest.raises(DataError, match="cannot be read"):
        Dataset.open(tmp_path)


def test_the_description_is_plain_yaml(tmp_path):
    dataset = made(tmp_path / "out")
    description = yaml.safe_load((tmp_path / "out" / "dataset.yaml").read_text())
    assert description["columns"]["item"]["price"] == {"kind": "number"}
    assert description["made"]["history"] == {"max_length": 32, "max_age_days": None}
    assert Dataset.open(tmp_path / "out") == dataset
