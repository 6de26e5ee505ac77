"""metrics.csv: a line per step, new columns as they come, and a resume that keeps the lines before it."""

import csv
import errno
from pathlib import Path

import pytest
import torch

from dicm_kit.artifacts.metrics_file import MetricsFile


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return [{name: value for name, value in row.items() if value} for row in csv.DictReader(file)]


def log(path: Path, *lines: tuple[int, dict[str, float]], flush_every: int = 100) -> None:
    logger = MetricsFile(path, flush_every)
    for step, metrics in lines:
        logger.log_metrics(metrics, step)
    logger.finalize("success")


def test_columns_come_as_they_are_logged(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    for flush_every in (1, 2, 100):
        path.unlink(missing_ok=True)
        first, second = (0, {"epoch": 0, "train/loss": 0.5}), (1, {"epoch": 0, "train/loss": torch.tensor(0.25)})
        log(path, first, second, (1, {"epoch": 0, "val/gauc": 0.75}), flush_every=flush_every)
        assert rows(path) == [
            {"epoch": "0", "step": "0", "train/loss": "0.5"},
            {"epoch": "0", "step": "1", "train/loss": "0.25"},
            {"epoch": "0", "step": "1", "val/gauc": "0.75"},
        ]
        assert path.read_text().startswith("epoch,step,train/loss,val/gauc\n")


def test_what_was_logged_is_on_disk_when_enough_lines_wait(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    logger = MetricsFile(path, flush_every=2)
    logger.log_metrics({"train/loss": 1.0}, 0)
    assert not path.exists()
    logger.log_metrics({"train/loss": 1.0}, 1)
    assert [row["step"] for row in rows(path)] == ["0", "1"]


def test_a_resume_replaces_the_steps_that_are_run_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    log(path, *((step, {"train/loss": 1.0}) for step in range(5)), (4, {"val/gauc": 0.5}))
    log(path, *((step, {"train/loss": 2.0, "train/new": 3.0}) for step in range(3, 6)))
    assert [(row["step"], row["train/loss"]) for row in rows(path)] == [
        ("0", "1.0"), ("1", "1.0"), ("2", "1.0"), ("3", "2.0"), ("4", "2.0"), ("5", "2.0")
    ]  # fmt: skip
    assert [row.get("train/new") for row in rows(path)] == [None, None, None, "3.0", "3.0", "3.0"]


def test_nothing_logged_leaves_the_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    log(path)
    assert not path.exists()
    log(path, (0, {"train/loss": 1.0}))
    before = path.read_bytes()
    log(path)
    assert path.read_bytes() == before


def test_a_file_that_was_cut_in_a_line_goes_on(tmp_path: Path) -> None:
    """The machine went down while a line was written."""
    path = tmp_path / "metrics.csv"
    log(path, *((step, {"train/loss": 1.0}) for step in range(3)))
    for cut in range(1, 8):
        log(path, *((step, {"train/loss": 1.0}) for step in range(13)))
        path.write_bytes(path.read_bytes()[:-cut])
        log(path, (12, {"train/loss": 2.0}))
        assert [int(row["step"]) for row in rows(path)] == list(range(13)), cut


def test_a_full_disk_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metrics.csv"
    file = MetricsFile(path)
    file.log_metrics({"loss": 1.0, "epoch": 0}, step=1)
    file.save()
    before = path.read_text()
    file.log_metrics({"loss": 0.5, "epoch": 0}, step=2)

    class Full(csv.DictWriter):
        def writerows(self, rows: object) -> None:
            super().writerows([{"epoch": 0, "step": 2}])
            raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(csv, "DictWriter", Full)
        with pytest.raises(OSError, match="No space"):
            file.save()
    assert path.read_text() == before
    file.save()
    assert path.read_text() == before + "0,2,0.5\n"
