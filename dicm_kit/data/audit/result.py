"""What an audit finds, as plain data: reports and the terminal make text of it."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from dicm_kit.data.dataset import Split
from dicm_kit.data.pictures import NOT_YIELDED

Outcome = Literal["ok", "fail", "look", "unknown"]
"""`look`: something a person should judge; `unknown`: it cannot be checked."""


Clock = Literal["seconds", "days", "none"]
"""What times say: seconds since 1970, only the day (all are at midnight UTC), or no more than what came first."""


@dataclass(frozen=True)
class Problem:
    """Something that must be mended."""

    where: str
    """A file of the folder, or what was checked."""
    what: str
    todo: str


@dataclass(frozen=True)
class Warned:
    """Something that a person should know before training."""

    what: str
    todo: str


@dataclass(frozen=True)
class Check:
    """A question about leakage, and its answer."""

    name: str
    outcome: Outcome
    said: str
    """What was found."""
    count: int = 0
    """Rows, history entries or values that are wrong."""
    examples: tuple[str, ...] = ()
    todo: str = ""


@dataclass(frozen=True)
class SplitCounts:
    """What the samples of a split hold, counted in them."""

    parts: int
    impressions: int
    groups: int
    positives: int
    users: int
    """Among the users that were looked at: see `Audit.one_user_in`."""
    with_picture: int
    with_history: int
    """Impressions, as `with_picture`, `unknown_user` and `unseen_items`."""
    history_entries: int
    """In all groups."""
    unknown_user: int
    unseen_items: int
    first_day: int | None
    """UTC days since 1970; None for an empty split, and where times are no clock."""
    last_day: int | None
    looked_at: int
    """Impressions of the users that were looked at, of which the following are counted."""
    repeated: int
    """Impressions whose user, item and UTC day came before; of positives only, where negatives are drawn."""
    both_labels: int
    """Impressions of users that have positives and negatives in this split: those that GAUC counts."""
    users_with_both: int


@dataclass(frozen=True)
class Refused:
    """Pictures that count as missing for one reason."""

    count: int
    names: tuple[str, ...]
    """Of the first few."""


@dataclass(frozen=True)
class PictureCounts:
    """Items and their pictures."""

    items: int
    with_picture: int
    distinct: int
    """Different pictures that items have."""
    stored: int
    """Pictures in the shards."""
    refused: dict[str, Refused]
    """Pictures that count as missing, by reason; the most frequent first."""
    shared_by: int
    """Items that have the most common picture."""
    shared_key: int
    shared_examples: tuple[str, ...]
    """Some of these items."""

    @property
    def absent(self) -> int:
        """Names that items give, of pictures that there are not."""
        return self.refused[NOT_YIELDED].count if NOT_YIELDED in self.refused else 0

    @property
    def rejected(self) -> int:
        """Pictures that there are, and that cannot be used."""
        return sum(each.count for each in self.refused.values()) - self.absent


@dataclass(frozen=True)
class Forgotten:
    """Ids that have no vector because training has not had them for too long."""

    days: int
    """The last days of training, of which one must have them."""
    of_vocab: dict[str, tuple[int, int]]
    """Vocabulary -> values that are forgotten, and all that training has often enough."""


@dataclass(frozen=True)
class Example:
    """An impression, in raw values."""

    split: Split
    time: int
    user: str
    item: str
    values: dict[str, str]
    """Columns of the item, the context and the user."""
    has_picture: bool
    clicked: bool
    history: tuple[tuple[str, float], ...]
    """(item, days before), newest first."""


@dataclass(frozen=True)
class Audit:
    """What a dataset folder holds, and what is wrong with it."""

    folder: Path
    fingerprint: str
    made: dict[str, Any]
    """How it was made, as dataset.yaml says: free in form."""
    pieces: tuple[str, ...]
    """Of the log, as the folder's state names them; none where another tool wrote the folder."""
    made_up: bool
    """The samples hold click probabilities: data that was made up."""
    clock: Clock
    one_user_in: int
    """1: all users were looked at for everything; 20: one in twenty for what needs whole users."""
    splits: dict[Split, SplitCounts]
    pictures: PictureCounts | None
    """None where items or shards are broken."""
    forgotten: Forgotten | None
    """None where dataset.yaml does not say that ids are forgotten."""
    checks: list[Check]
    examples: list[Example]
    problems: list[Problem]
    """Errors of format, and checks that failed."""
    warnings: list[Warned]


@dataclass
class Findings:
    """Gathers errors of format: the same one in many files is one problem."""

    _files: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    _counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    _examples: dict[tuple[str, str], str] = field(default_factory=dict)

    def add(self, where: str, what: str, todo: str, *, count: int | None = None, example: str = "") -> None:
        """Adds one, unless `count` is 0. `what` stands after a count: "labels that are neither 0 nor 1"."""
        if count == 0:
            return
        key = (what, todo)
        files = self._files.setdefault(key, [])
        if where not in files:
            files.append(where)
        self._counts[key] += count or 0
        self._examples.setdefault(key, example)

    def __bool__(self) -> bool:
        return bool(self._files)

    def problems(self) -> list[Problem]:
        """Returns all, in the order they were found."""
        found = []
        for key, files in self._files.items():
            what, todo = key
            more = f" and {len(files) - 1} more files" if len(files) > 1 else ""
            number = f"{self._counts[key]:,} " if self._counts[key] else ""
            example = f" ({self._examples[key]})" if self._examples[key] else ""
            found.append(Problem(f"{files[0]}{more}", f"{number}{what}{example}", todo))
        return found
