"""Where history entries come from: earlier positives of their user, later ones, their own group's, or elsewhere."""

from dataclasses import dataclass, field

from dicm_kit.data.audit.joins import Joins
from dicm_kit.data.grouping import DAY

_POSITIVES = 1_000_000  # positives whose users are looked at at once
_ODD = 1_000_000  # history entries that are looked at one by one
_EXAMPLES = 3


@dataclass
class Origins:
    """Where history entries come from, of those that happened since the samples begin."""

    entries: int = 0
    elsewhere: int = 0
    """Those that are at no time a positive of their user in the samples."""
    own: int = 0
    """Those that are positives of their own group, and no earlier one."""
    later: int = 0
    """Those that are positives of later groups of the same split, and no earlier one."""
    across: int = 0
    """Those that are positives of later splits only, which had not happened."""
    across_by_then: int = 0
    """Those of training that are positives of validation or test only, whenever."""
    capped: bool = False
    """There are more; only so many were looked at."""
    positive_groups: int = 0
    """Groups that have a positive."""
    examples: list[str] = field(default_factory=list)


def look_at_histories(joins: Joins, begin: int, in_order: bool) -> Origins:
    """Returns where history entries come from that happened at `begin` or later.

    `in_order`: what is in a later split happened later, also where its time is the same.
    """
    found = Origins()
    for where in joins.sliced(joins.positives, _POSITIVES):
        _find_positives(joins, where)
        _find_origins(joins, found, begin, in_order, where)
    return found


def _find_positives(joins: Joins, where: str) -> None:
    """Makes the table of pairs of user and item: when the first positive was, in each split or one before it, and
    in which group."""
    columns = ", ".join(
        f'min("time") FILTER (rank <= {rank}) AS first_{rank}, '
        f'arg_min(name, "time") FILTER (rank <= {rank}) AS in_{rank}'
        for rank in range(3)
    )
    joins.run(
        f"""CREATE OR REPLACE TABLE pairs AS SELECT "user", item, {columns} FROM flat {where} AND label = 1
        GROUP BY ALL"""
    )


def _find_origins(joins: Joins, found: Origins, begin: int, in_order: bool, where: str) -> None:
    first, group = ("first_2", "in_2")
    if in_order:
        first, group = (
            f"CASE e.rank WHEN 0 THEN p.{name}_0 WHEN 1 THEN p.{name}_1 ELSE p.{name}_2 END" for name in ("first", "in")
        )
    entries = f"""SELECT * FROM (
        SELECT rank, name, "user", "time"[1] AS time, unnest(history_item) AS item, unnest(history_age) AS age
        FROM sample_groups {where}
        ) WHERE round("time" - age::DOUBLE * {DAY}) >= {begin}"""
    joined = f"""FROM ({entries}) e LEFT JOIN pairs p ON p."user" = e."user" AND p.item = e.item"""
    odd = f"""(p.item IS NOT NULL AND ({first} IS NULL OR {first} > e.time
        OR ({first} = e.time AND {group} = e.name)))"""
    ((count, elsewhere, strange, by_then),) = joins.rows(
        f"""SELECT count(*), count(*) FILTER (p.item IS NULL), count(*) FILTER ({odd}),
        count(*) FILTER (p.item IS NOT NULL AND e.rank = 0 AND p.first_0 IS NULL) {joined}"""
    )
    ((groups,),) = joins.rows(f"SELECT count(DISTINCT name) FROM flat {where} AND label = 1")
    found.entries += count
    found.elsewhere += elsewhere
    found.across_by_then += by_then
    found.positive_groups += groups
    if not strange:
        return
    found.capped |= strange > _ODD
    joins.run(
        f"""CREATE OR REPLACE TABLE odd AS SELECT row_number() OVER () AS number, e.* {joined} WHERE {odd}
        LIMIT {_ODD}"""
    )
    _look_closely(joins, found, in_order)


def _look_closely(joins: Joins, found: Origins, in_order: bool) -> None:
    """Looks at all positives of the pairs whose first one is not clearly before the entry."""
    before = f"""p.name <> o.name AND p."time" <= o."time" {"AND p.rank <= o.rank" if in_order else ""}"""
    joins.run(
        f"""CREATE OR REPLACE TABLE close AS SELECT o.number, any_value(o.rank) AS rank,
        any_value(o."user") AS "user", any_value(o.item) AS item, any_value(o."time") AS time,
        bool_or({before}) AS happened, bool_or(p.name = o.name) AS own, min(p.rank) AS first_rank
        FROM odd o JOIN (
            SELECT f.* FROM flat f SEMI JOIN odd ON odd."user" = f."user" AND odd.item = f.item WHERE f.label = 1
        ) p ON p."user" = o."user" AND p.item = o.item GROUP BY o.number"""
    )
    across = f"rank < first_rank AND {str(in_order).lower()}"
    ((own, across_count, later),) = joins.rows(
        f"""SELECT count(*) FILTER (own), count(*) FILTER (NOT own AND {across}),
        count(*) FILTER (NOT own AND NOT ({across})) FROM close WHERE NOT happened"""
    )
    found.own += own
    found.across += across_count
    found.later += later
    query = f"""SELECT "user", item, "time", own FROM close WHERE NOT happened
        ORDER BY own, "user", "time", item LIMIT {_EXAMPLES}"""
    for user, item, time, own in joins.rows(query)[: _EXAMPLES - len(found.examples)]:
        what = "which it asks for itself" if own else "clicked only later"
        found.examples.append(f"user {user} at {time}: item {joins.item(item)}, {what}")
