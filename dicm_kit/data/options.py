"""How a dataset folder is made: the recipe's keys, their help and their limits."""

from dataclasses import dataclass, field
from typing import Literal

from dicm_kit.errors import FieldError


@dataclass
class GroupOptions:
    """Which impressions of a user share one history."""

    by: Literal["event", "session", "day"] = "event"
    """`event`: those of the same second. `session`: those without a long pause between. `day`: those of a UTC day."""
    session_minutes: int = 30
    """Longest pause inside a session."""


@dataclass
class HistoryOptions:
    """What a group knows of its user: the items clicked before the group's first impression, newest first."""

    max_length: int = 32
    """Most clicks that are kept."""
    max_age_days: float | None = None
    """Oldest clicks that are kept, in days before the group; null for all."""


@dataclass
class SplitOptions:
    """Which impressions are for training, validation and test."""

    by: Literal["time", "column"] = "time"
    """`time`: the last whole UTC days. `column`: what the source's column `split` says: train, val or test."""
    test: int = 1
    """Days at the end of the log for the test split; 0 for no such split, also with `by: column`."""
    validation: int = 1
    """Days before them for the validation split; 0 for no such split, also with `by: column`."""


@dataclass
class PrepareOptions:
    """How the dataset folder is made of the source's log."""

    group: GroupOptions = field(default_factory=GroupOptions)
    """Which impressions share one history."""
    history: HistoryOptions = field(default_factory=HistoryOptions)
    """What a history holds."""
    split: SplitOptions = field(default_factory=SplitOptions)
    """Which impressions are for training, validation and test."""
    lanes: int = 16
    """Files that each split's samples are spread over: at least as many as ranks; a divisor of the batch size."""
    partitions: int = 16
    """Slices of the picture keys: at least as many as ranks."""
    min_count: int = 1
    """Values that training has less often than this become unknown."""
    seed: int = 0
    """Deals sample groups to lanes."""


def check_options(options: PrepareOptions) -> None:
    """Raises FieldError for options that cannot be."""
    least = {
        "lanes": (options.lanes, 1),
        "partitions": (options.partitions, 1),
        "min_count": (options.min_count, 1),
        "history.max_length": (options.history.max_length, 1),
        "group.session_minutes": (options.group.session_minutes, 1),
        "split.test": (options.split.test, 0),
        "split.validation": (options.split.validation, 0),
    }
    for name, (value, lowest) in least.items():
        if value < lowest:
            raise FieldError(name, f"is {value}, and must be at least {lowest}")
    if options.lanes > 256:
        raise FieldError("lanes", f"is {options.lanes}, and may be 256 at most: each is an open file")
    if options.history.max_age_days is not None and not options.history.max_age_days > 0:
        raise FieldError("history.max_age_days", f"is {options.history.max_age_days}, and must be above 0, or null")
