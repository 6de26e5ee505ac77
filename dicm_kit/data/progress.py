"""What a person sees while a dataset is prepared."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress

    from dicm_kit.data.grouping import LogRun


class Shown:
    """The step that is being done, and how many rows or pictures it has behind it."""

    def __init__(self, progress: "Progress"):
        self._progress, self.step = progress, "the folder"
        self._task = progress.add_task("", total=None)

    def begin(self, step: str) -> None:
        """A step begins."""
        self.step = step
        self._progress.reset(self._task, description=step, total=None)

    def advance(self, count: int) -> None:
        """So many more rows or pictures."""
        self._progress.advance(self._task, count)

    def counted(self, runs: "Iterable[LogRun]") -> "Iterator[LogRun]":
        """Yields the runs of the log, and shows how many impressions they hold."""
        for run in runs:
            yield run
            self.advance(len(run))

    def waiting(self, folder: Path) -> None:
        """Another process has the lock."""
        self.begin(f"waiting for another process that prepares {folder}")


@contextmanager
def shown(progress: bool) -> Iterator[Shown]:
    """Shows a line on the terminal's error stream, if `progress`, that is gone afterwards."""
    from rich.console import Console
    from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    with Progress(
        SpinnerColumn(),
        TextColumn("prepare: {task.description}"),
        TextColumn("{task.completed:,.0f}"),
        TimeElapsedColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not progress,
    ) as line:
        yield Shown(line)
