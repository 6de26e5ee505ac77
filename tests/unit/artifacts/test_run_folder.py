"""A run folder holds one run at a time, and nothing in it is overwritten unasked."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from dicm_kit.artifacts.run_folder import claimed, earlier_run, read_result, runs_in, write_result
from dicm_kit.errors import RunError
from dicm_kit.whole_file import write_whole

HOLD = """
import sys
from pathlib import Path
from dicm_kit.artifacts.run_folder import claimed
with claimed(Path(sys.argv[1]), resume=False, overwrite=False):
    print("in", flush=True)
    sys.stdin.read()
"""


def files(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def claim(folder: Path, *, resume: bool = False, overwrite: bool = False) -> set[str]:
    """Claims the folder and returns what the run then finds in it."""
    with claimed(folder, resume=resume, overwrite=overwrite):
        return files(folder) - {".lock"}


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "checkpoints/last.ckpt").write_bytes(b"weights")
    write_whole(folder / "recipe.yaml", "dicm: 1\n")
    write_result(folder, {"test": {"gauc": 0.5}})
    return folder


def test_a_new_folder_is_made(tmp_path: Path) -> None:
    assert claim(tmp_path / "runs/new") == set()
    assert (tmp_path / "runs/new/.lock").read_text() == f"{os.getpid()} on {socket.gethostname()}\n"


def test_an_empty_folder_can_be_claimed_again(tmp_path: Path) -> None:
    """A run that ended before it wrote anything, by a wrong dataset for one, leaves no trace."""
    assert claim(tmp_path) == set()
    assert claim(tmp_path) == set()


def test_another_process_keeps_the_folder(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "in\n"
        for asked in ({}, {"resume": True}, {"overwrite": True}):
            said = rf"another run is in this folder now \(process {holder.pid} on {socket.gethostname()}\)"
            with pytest.raises(RunError, match=said):
                claim(tmp_path, **asked)
    assert claim(tmp_path) == set(), "free when it has ended"


def test_a_killed_run_holds_nothing(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        holder.kill()
        holder.wait()
        assert claim(tmp_path, resume=True) == set()


def test_a_finished_run_is_left_alone(finished: Path) -> None:
    before = files(finished)
    with pytest.raises(RunError, match="holds a finished run") as caught:
        claim(finished)
    assert "--resume" in str(caught.value)
    assert "--overwrite" in str(caught.value)
    assert files(finished) - {".lock"} == before


def test_a_run_that_was_not_finished_is_called_so(finished: Path) -> None:
    (finished / "test.json").unlink()
    with pytest.raises(RunError, match="holds a run that was not finished"):
        claim(finished)


def test_a_run_that_never_began_needs_no_permission(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("dicm: 1\n")
    assert claim(tmp_path) == {"recipe.yaml"}
    (tmp_path / "checkpoints").mkdir()
    assert claim(tmp_path) == {"recipe.yaml", "checkpoints"}, "its first step raised"
    (tmp_path / "metrics.csv").touch()
    with pytest.raises(RunError, match="holds a run that was not finished"):
        claim(tmp_path)


def test_resume_keeps_everything(finished: Path) -> None:
    assert claim(finished, resume=True) == {"recipe.yaml", "test.json", "checkpoints"}


def test_overwrite_empties_the_folder(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere/kept").touch()
    (finished / "link").symlink_to(tmp_path / "elsewhere")
    assert claim(finished, overwrite=True) == set()
    assert files(tmp_path / "elsewhere") == {"kept"}, "a link goes, not what it leads to"


def test_overwrite_never_empties_a_folder_that_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(RunError, match="is not a run folder"):
        claim(tmp_path, overwrite=True)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_the_result_is_read_as_written(finished: Path) -> None:
    assert read_result(finished) == {"test": {"gauc": 0.5}}
    assert read_result(finished / "checkpoints") is None
    assert not [name for name in files(finished) if name.endswith(".tmp")]
    (finished / "test.json").write_text('{"test": {')
    with pytest.raises(RunError, match="is not JSON"):
        read_result(finished)


def test_the_runs_of_a_folder_come_in_the_order_of_their_seeds(tmp_path: Path) -> None:
    for name in ("seed-7", "seed-10", "seed-9", "seed-11", "seed-x", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "recipe.yaml").write_text("dicm: 1\n")
    (tmp_path / "seed-11/recipe.yaml").unlink()
    assert [each.name for each in runs_in(tmp_path)] == ["seed-7", "seed-9", "seed-10"]
    assert runs_in(tmp_path / "seed-7") == [tmp_path / "seed-7"]
    with pytest.raises(RunError, match="is no run folder"):
        runs_in(tmp_path / "seed-11")


@pytest.mark.parametrize("below", ["seed-7", "row/seed-7"])
def test_runs_below_are_runs_of_their_own(below: str, tmp_path: Path) -> None:
    (tmp_path / below).mkdir(parents=True)
    (tmp_path / below / "recipe.yaml").write_text("dicm: 1\n")
    (tmp_path / "against-other.json").write_text("{}")
    claim(tmp_path)  # they are not in the way
    (tmp_path / "recipe.yaml").write_text("dicm: 1\n")
    (tmp_path / "metrics.csv").write_text("")
    with pytest.raises(RunError, match="a run that was not finished"):
        claim(tmp_path)
    assert claim(tmp_path, overwrite=True) == {Path(below).parts[0]}
    assert (tmp_path / below / "recipe.yaml").is_file()


def test_yesterdays_run_is_the_last_finished_one_before(tmp_path: Path) -> None:
    runs = tmp_path / "daily"
    today = runs / "2026-11-24"
    assert earlier_run(runs, today) is None, "the first day: there is nothing yet"
    for day, result in (("2026-11-20", True), ("2026-11-22", True), ("2026-11-23", False), ("2026-11-25", True)):
        (runs / day).mkdir(parents=True)
        write_whole(runs / day / "recipe.yaml", "dicm: 1\n")
        if result:
            write_result(runs / day, {})
    assert earlier_run(runs, today) == runs / "2026-11-22", "the 23rd has not finished; the 25th comes later"
    assert earlier_run(runs, runs / "2026-11-20") is None
    assert earlier_run(runs / "2026-11-23", today) == runs / "2026-11-23", "named, it need not have finished"
    checkpoint = runs / "2026-11-23/last.ckpt"
    checkpoint.write_bytes(b"weights")
    assert earlier_run(checkpoint, today) == checkpoint


def test_a_run_that_is_not_there(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        write_whole(tmp_path / "runs" / name / "recipe.yaml", "dicm: 1\n")
    with pytest.raises(RunError, match=r"warm_start.run: .*runs/c: there is no such run\n"):
        earlier_run(tmp_path / "runs/c", tmp_path / "today")
    with pytest.raises(RunError, match=r"runs: there is no such run: no recipe.yaml in it\n\n.* It holds runs: a, b\."):
        earlier_run(tmp_path / "runs", tmp_path / "today")
