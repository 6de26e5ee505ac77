"""What a dataset folder remembers of its log, in `state/`, so that days are added without reading the earlier ones.

```
state/log.json                  the pieces that were read, the snapshot of items, users and pictures, the source's code
state/items.parquet             the items as they came, with their row numbers
state/pictures.parquet          picture name -> key, or why not
state/parts/<part>/users.parquet, items.parquet, context-<column>.parquet    how often the part's log has each value,
                                and its last day, where some are forgotten
state/parts/<part>/clicks.parquet     its positives, for the histories of later days
state/parts/<part>/targets.parquet    impressions of each item
```
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dicm_kit.data.dataset import Split
from dicm_kit.data.options import PrepareOptions
from dicm_kit.errors import DataError, some
from dicm_kit.interfaces import DataSource
from dicm_kit.whole_file import write_whole

STATE = "state"
_FILE = "log.json"


@dataclass(frozen=True)
class State:
    """What was read of the log."""

    pieces: dict[str, str]
    """Name -> fingerprint; those whose files are gone included."""
    snapshot: str
    rows: int
    """Rows of all pieces."""
    last_day: int | None
    """The last UTC day that has samples, as a number since 1970; None where the split is not by time."""
    code: str | None = None
    """A hash of the code that its first days were read with; None for a source that comes from no plugin."""

    @classmethod
    def read(cls, folder: Path) -> "State | None":
        """Returns the state in `folder`, None when there is none: another tool wrote the dataset."""
        try:
            return cls(**json.loads((folder / _FILE).read_text()))
        except FileNotFoundError:
            return None

    def save(self, folder: Path) -> None:
        """Writes it, whole or not at all."""
        write_whole(folder / _FILE, json.dumps(self.__dict__, indent=1).encode())

    def added(self, source: DataSource, options: PrepareOptions, out: Path) -> list[str]:
        """Returns the pieces that are new.

        Raises:
            DataError: a piece changed since it was read, or there are new ones for a dataset that cannot grow.
        """
        changed = [name for name, was in self.pieces.items() if source.pieces.get(name, was) != was]
        if changed:
            raise DataError(
                f"the log changed since it was prepared: {some(changed)} {_have(changed)} another content now",
                where=str(out),
                todo="Pieces that were read must stay as they are; new ones may come. If the change is right, choose "
                "another folder for `data.out`, or delete this one, and prepare anew.",
            )
        new = [name for name in source.pieces if name not in self.pieces]
        fixed = None
        if options.split.by != "time":
            fixed = f"`split.by: {options.split.by}`"
        elif options.negatives is not None and options.negatives.alive == "always":
            fixed = "`negatives.alive: always`"
        if new and fixed:
            raise DataError(
                f"the log has grown since it was prepared, by {some(new)}, and with {fixed} nothing can be added",
                where=str(out),
                todo="Choose another folder for `data.out`, or delete this one, and prepare anew.",
            )
        return new


def _have(names: list[str]) -> str:
    return "has" if len(names) == 1 else "have"


@dataclass(frozen=True)
class Part:
    """A part of the samples: in which split it is now, and whether it is new."""

    name: str
    split: Split
    days: tuple[int, int] | None
    """First and last UTC day since 1970; None where the split is not by time."""
    new: bool


def parts_by_time(old: list[tuple[str, tuple[int, int]]], days: list[int], options: PrepareOptions) -> list[Part]:
    """Returns the parts of a log, in order: those that are there, and new ones for `days` (ascending, all later).

    The days of validation and test, now, are parts of their own, so that they can change their split one by one; those
    before them that are new are one part.
    """
    test, validation = int(options.split.test), int(options.split.validation)
    last = days[-1] if days else old[-1][1][1]

    def split_of(day: int) -> Split:
        return "test" if day > last - test else "val" if day > last - test - validation else "train"

    early = [day for day in days if split_of(day) == "train"]
    runs = [(early[0], early[-1])] if early else []
    runs += [(day, day) for day in days if split_of(day) != "train"]
    parts = [Part(name, split_of(span[1]), span, new=False) for name, span in old]
    return parts + [Part(_name(span), split_of(span[1]), span, new=True) for span in runs]


def known_since(parts: Sequence[Part], forget_after_days: int) -> int:
    """Returns the first of the last days of training, as many as are asked for: values seen earlier are forgotten."""
    return max(part.days[1] for part in parts if part.days and part.split == "train") - forget_after_days + 1


def day_text(day: int) -> str:
    """Returns a UTC day, counted from 1970, as 2024-01-31."""
    from datetime import date, timedelta

    return (date(1970, 1, 1) + timedelta(days=day)).isoformat()


def day_number(text: str) -> int:
    """Returns a UTC day like 2024-01-31 as a number counted from 1970."""
    from datetime import date

    return (date.fromisoformat(text) - date(1970, 1, 1)).days


def _name(span: tuple[int, int]) -> str:
    first, last = (day_text(day) for day in span)
    return first if first == last else f"{first}_{last}"
