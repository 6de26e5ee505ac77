"""How users lie in the splits, and which impressions come more than once a day."""

from dataclasses import dataclass, field

from dicm_kit.data.audit.joins import Joins
from dicm_kit.data.audit.result import Clock
from dicm_kit.data.dataset import SPLITS
from dicm_kit.data.grouping import DAY

_USERS, _ROWS = 3_000_000, 1_500_000  # impressions whose users are grouped at once
_EXAMPLES = 3


@dataclass
class Users:
    """How users lie in the splits. Lists have one entry per split."""

    of_part: dict[str, int] = field(default_factory=dict)
    """Users of each part."""
    users: list[int] = field(default_factory=lambda: [0, 0, 0])
    impressions: list[int] = field(default_factory=lambda: [0, 0, 0])
    users_with_both: list[int] = field(default_factory=lambda: [0, 0, 0])
    both_labels: list[int] = field(default_factory=lambda: [0, 0, 0])
    """Impressions of users with both labels in that split."""
    out_of_order: int = 0
    """Users with an impression in an earlier split that is after one in a later split."""
    ties: int = 0
    """Users whose last time in an earlier split is the first in a later one."""
    examples: list[str] = field(default_factory=list)


@dataclass
class Repeats:
    """Impressions of the same user, item and UTC day."""

    repeated: list[int] = field(default_factory=lambda: [0, 0, 0])
    """Per split: without the first of each."""
    across: int = 0
    """Test impressions whose user, item and day training has."""
    examples: list[str] = field(default_factory=list)


def look_at_users(joins: Joins) -> Users:
    """Returns how users lie in the splits."""
    found = Users(of_part=dict.fromkeys(joins.parts, 0))
    for where in joins.sliced(joins.impressions, _USERS):
        joins.run(
            f"""CREATE OR REPLACE TABLE by_part AS SELECT "user", part, rank, count(*) AS n,
            count(*) FILTER (label = 1) AS p, min("time") AS first, max("time") AS last
            FROM flat {where} GROUP BY ALL"""
        )
        for part, users in joins.rows("SELECT part, count(*) FROM by_part GROUP BY part"):
            found.of_part[joins.parts[part]] += users
        joins.run(
            """CREATE OR REPLACE TABLE by_split AS SELECT "user", rank, sum(n)::BIGINT AS n, sum(p)::BIGINT AS p,
            min(first) AS first, max(last) AS last FROM by_part GROUP BY ALL"""
        )
        query = """SELECT rank, count(*), sum(n)::BIGINT, count(*) FILTER (0 < p AND p < n),
            coalesce(sum(n) FILTER (0 < p AND p < n), 0)::BIGINT FROM by_split GROUP BY rank"""
        for rank, users, impressions, with_both, both in joins.rows(query):
            found.users[rank] += users
            found.impressions[rank] += impressions
            found.users_with_both[rank] += with_both
            found.both_labels[rank] += both
        _look_at_order(joins, found)
    return found


def _look_at_order(joins: Joins, found: Users) -> None:
    # NULL where a user has none: no comparison with it is true
    joins.run(
        """CREATE OR REPLACE TABLE orders AS SELECT "user",
        max(last) FILTER (rank = 0) AS train, max(last) FILTER (rank < 2) AS before_test,
        min(first) FILTER (rank > 0) AS held_back, min(first) FILTER (rank = 2) AS test
        FROM by_split GROUP BY 1"""
    )
    wrong = "coalesce(train > held_back, false) OR coalesce(before_test > test, false)"
    tie = "coalesce(train = held_back, false) OR coalesce(before_test = test, false)"
    ((out_of_order, ties),) = joins.rows(
        f"SELECT count(*) FILTER ({wrong}), count(*) FILTER (NOT ({wrong}) AND ({tie})) FROM orders"
    )
    found.out_of_order += out_of_order
    found.ties += ties
    if out_of_order and len(found.examples) < _EXAMPLES:
        query = f'SELECT "user" FROM orders WHERE {wrong} ORDER BY "user" LIMIT {_EXAMPLES - len(found.examples)}'
        found.examples += [f"user {user}" for (user,) in joins.rows(query)]


def earlier_split_after(joins: Joins, rank: int, time: int) -> tuple[int, list[str]]:
    """Returns how many impressions of splits before `rank` are at `time` or later, and some."""
    where = f'WHERE rank < {rank} AND "time" >= {time}'
    ((count,),) = joins.rows(f"SELECT count(*) FROM flat {where}")
    query = f'SELECT "user", "time" FROM flat {where} ORDER BY "time" DESC, "user" LIMIT {_EXAMPLES}'
    return count, [f"user {user} at {at}" for user, at in joins.rows(query)]


def look_for_repeats(joins: Joins, positives_only: bool, clock: Clock) -> Repeats:
    """Returns which impressions come more than once a day; at one time, where times are no clock."""
    day = '"time"' if clock == "none" else f'floor("time" / {DAY}.0)::BIGINT'
    found = Repeats()
    only = "AND label = 1" if positives_only else ""
    for where in joins.sliced(joins.impressions, _ROWS):
        joins.run(
            f"""CREATE OR REPLACE TABLE repeats AS SELECT "user", item, {day} AS day,
            count(*) FILTER (rank = 0) AS train, count(*) FILTER (rank = 1) AS val,
            count(*) FILTER (rank = 2) AS test FROM flat {where} {only} GROUP BY ALL HAVING count(*) > 1"""
        )
        sums = ", ".join(f"coalesce(sum(greatest({split} - 1, 0)), 0)::BIGINT" for split in SPLITS)
        across = "train > 0 AND test > 0"
        query = f"SELECT {sums}, coalesce(sum(test) FILTER ({across}), 0)::BIGINT FROM repeats"
        (*repeated, both) = joins.rows(query)[0]
        found.repeated = [one + more for one, more in zip(found.repeated, repeated, strict=True)]
        found.across += both
        if both and len(found.examples) < _EXAMPLES:
            query = f'SELECT "user", item FROM repeats WHERE {across} ORDER BY ALL LIMIT {_EXAMPLES}'
            rows = joins.rows(query)[: _EXAMPLES - len(found.examples)]
            found.examples += [f"user {user} and item {joins.item(item)}" for user, item in rows]
    return found
