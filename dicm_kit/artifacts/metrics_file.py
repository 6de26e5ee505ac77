"""metrics.csv in the run folder: one line per logged step, kept when a training is resumed."""

import csv
import os
from argparse import Namespace
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only
from torch import Tensor

METRICS_FILE = "metrics.csv"


class MetricsFile(Logger):
    """Writes metrics.csv anew, or goes on with the one that is there.

    Lightning's own CSV logger deletes the file of the run that is resumed. Here lines of steps that are run again are
    replaced, all earlier ones stay.
    """

    def __init__(self, path: Path, flush_every: int = 100):
        """Takes the file, and how many lines may wait in memory."""
        super().__init__()
        self.path, self.flush_every = path, flush_every
        self._waiting: list[dict[str, Any]] = []
        self._columns: list[str] | None = None  # None: the file was not looked at yet

    @property
    def name(self) -> str:
        """The run folder's name."""
        return self.path.parent.name

    @property
    def version(self) -> str:
        """Empty: a run folder holds one run."""
        return ""

    @property
    def save_dir(self) -> str:
        """The run folder."""
        return str(self.path.parent)

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Does nothing: recipe.yaml says it all."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Keeps a line."""
        assert step is not None, "Lightning says the step"
        self._waiting.append({"step": step, **{name: _plain(value) for name, value in metrics.items()}})
        if len(self._waiting) >= self.flush_every:
            self.save()

    @rank_zero_only
    def save(self) -> None:
        """Writes the lines that wait."""
        if not self._waiting:
            return
        if self._columns is None:
            self._columns = []
            self._rewrite(before=self._waiting[0]["step"])
        new = {name for line in self._waiting for name in line} - set(self._columns)
        if new:
            self._columns = ["epoch", "step", *sorted({*self._columns, *new} - {"epoch", "step"})]
            self._rewrite()
        size = self.path.stat().st_size
        try:
            with self.path.open("a", newline="") as file:
                csv.DictWriter(file, self._columns).writerows(self._waiting)
        except OSError:  # a full disk: no half line in the middle of what comes later
            os.truncate(self.path, size)
            raise
        self._waiting = []

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Writes the lines that wait; Lightning calls it at the end, and after an error too."""
        self.save()

    def _rewrite(self, before: int | None = None) -> None:
        """Writes the file anew: with today's columns, and without lines from step `before` on."""
        lines = []
        if self.path.is_file():
            # A machine that went down leaves a last line that was cut.
            reader = csv.DictReader(
                line for line in self.path.read_text().splitlines(keepends=True) if line[-1] == "\n"
            )
            lines = [line for line in reader if before is None or int(line["step"]) < before]
            if before is not None:
                self._columns = list(reader.fieldnames or [])
        assert self._columns is not None, "save() comes first"
        aside = self.path.with_name(f".{self.path.name}.tmp")
        with aside.open("w", newline="") as file:
            writer = csv.DictWriter(file, self._columns)
            writer.writeheader()
            writer.writerows(lines)
        aside.replace(self.path)


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, Tensor) else value
