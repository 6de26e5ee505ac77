"""How a dataset folder is made: the recipe's keys, their help and their limits."""

from dataclasses import dataclass, field
from typing import Literal

from dicm_kit.errors import FieldError


@dataclass
class GroupOptions:
    """Which impressions of a user share one history."""

    by: Literal["event", "session", "day"] = "event"
    """`event`: those of the same time and, where the source has one, order. `session`: those without a long pause
    between; a session ends at midnight UTC. `day`: those of a UTC day."""
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

    by: Literal["time", "user_order", "column"] = "time"
    """`time`: the last whole UTC days. `user_order`: each user's last groups, for logs without a common clock.
    `column`: what the source's column `split` says: train, val or test."""
    test: int | float = 1
    """`time`: days at the end of the log. `user_order`: groups at each user's end, or below 1 that share of the user's
    groups; a user with no more groups than that has none. 0 for no such split, also with `by: column`."""
    validation: int | float = 1
    """The same, before those of the test split."""


@dataclass
class NegativeOptions:
    """Impressions that nobody clicked, drawn for a log that holds positives only.

    Each comes with the user, the time and the context of its positive; it is never an item that the user clicked on
    that day. Where too few other items are alive, fewer are drawn.
    """

    per_positive: int = 4
    """Drawn for each positive, all different."""
    by: Literal["popularity", "uniform"] = "popularity"
    """`popularity`: by the positives that an item has (that day, or in the whole log), to the power of `power`.
    `uniform`: all alike."""
    power: float = 0.75
    """Exponent of popularity: 1 draws items as often as they are clicked, 0 all alike."""
    alive: Literal["same_day", "always"] = "same_day"
    """`same_day`: among the items that somebody clicked on that UTC day. `always`: among those of the whole log, for
    logs without a clock; no day can be added to such a dataset."""
    seed: int = 0
    """Draws others for the training split. Those of validation and test are always the same."""


@dataclass
class PrepareOptions:
    """How the dataset folder is made of the source's log."""

    group: GroupOptions = field(default_factory=GroupOptions)
    """Which impressions share one history."""
    history: HistoryOptions = field(default_factory=HistoryOptions)
    """What a history holds."""
    split: SplitOptions = field(default_factory=SplitOptions)
    """Which impressions are for training, validation and test."""
    negatives: NegativeOptions | None = None
    """What is drawn for a log of positives only; null: the log has negatives of its own."""
    drop_repeats: bool = False
    """Keep one impression of each user, item and UTC day: the first positive, else the first."""
    unlisted: Literal["error", "drop"] = "error"
    """Impressions whose item is not in the items table, or whose user is not in the users table: an error, or
    left out and counted."""
    lanes: int = 16
    """Files that each split's samples are spread over: at least as many as ranks; a divisor of the batch size."""
    partitions: int = 16
    """Slices of the picture keys: at least as many as ranks."""
    min_count: int = 1
    """Values that training has less often than this become unknown."""
    forget_after_days: int | None = None
    """Values that training does not have in its last so many UTC days become unknown, until they come back; null: none
    is forgotten. Needs `split.by: time`."""
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
    if options.negatives is not None:
        least |= {
            "negatives.per_positive": (options.negatives.per_positive, 1),
            "negatives.power": (options.negatives.power, 0),
            "negatives.seed": (options.negatives.seed, 0),
        }
    if options.forget_after_days is not None:
        least["forget_after_days"] = (options.forget_after_days, 1)
    for name, (value, lowest) in least.items():
        if not value >= lowest:
            raise FieldError(name, f"is {value}, and must be at least {lowest}")
    if options.lanes > 256:
        raise FieldError("lanes", f"is {options.lanes}, and may be 256 at most: each is an open file")
    if options.forget_after_days is not None and options.split.by != "time":
        raise FieldError(
            "forget_after_days",
            f"needs `split.by: time`: with `{options.split.by}` training has no last day that all users share",
        )
    if options.history.max_age_days is not None and not options.history.max_age_days > 0:
        raise FieldError("history.max_age_days", f"is {options.history.max_age_days}, and must be above 0, or null")
    for name in ("test", "validation"):
        value = getattr(options.split, name)
        whole = float(value).is_integer()
        if not whole and options.split.by == "time":
            raise FieldError(f"split.{name}", f"is {value}, and must be a whole number of days")
        if not whole and value > 1:
            raise FieldError(f"split.{name}", f"is {value}, and must be a whole number of groups, or a share below 1")
