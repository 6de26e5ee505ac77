"""The paper's Table 2 for a run: what the three ways to share pictures out cost, measured or computed."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from dicm_kit.artifacts.results import plain_table

WAYS = {"ams": "AMS", "store_in_server": "store-in-server", "store_in_worker": "store-in-worker"}


def picture_costs(
    *,
    ran: str,
    ranks: int,
    steps: int,
    references: int,
    grouped: int,
    asked: int,
    served: int,
    elsewhere: int | None,
    bytes_sent: int,
    wide: int,
    wide_gradient: int,
    narrow: int,
    stored: int | None,
) -> dict[str, Any]:
    """Returns what test.json holds under `pictures`: means per step over all ranks, and for several ranks `ways`.

    `embedded` is no mean: how many pictures the whole training embedded, one counted each time it was.

    `ran`: the way the run used. `elsewhere`: how many of the `asked` had another rank as owner; None: not known, since
    nothing was asked of other ranks; then (1 - 1/R) of them, as if owners were even. `wide`, `narrow`: bytes of a
    backbone vector, of a picture vector; `wide_gradient`: of a backbone vector's gradient, 0 for a frozen one.
    `stored`: bytes of one copy of all pictures; None: not known.
    """
    result: dict[str, Any] = {
        "steps": steps,
        "ranks": ranks,
        "references": references / steps,
        "grouped": grouped / steps,
        "distinct_on_ranks": asked / steps,
        "distinct": served / steps if ran != "store_in_worker" or ranks == 1 else None,
        "embedded": served,
    }
    if ranks == 1:
        return result
    owned_by_others = asked * (1 - 1 / ranks) if elsewhere is None else elsewhere
    sizes = 8 * ranks * (ranks - 1) * steps
    computed = {
        "ams": sizes + owned_by_others * (8 + 2 * narrow),
        "store_in_server": sizes + owned_by_others * (8 + wide + wide_gradient),
        "store_in_worker": 0,
    }
    copies = {"ams": 1, "store_in_server": 1, "store_in_worker": ranks}
    result["ways"] = {
        way: {
            "how": "measured" if way == ran else "computed",
            "bytes_sent": (bytes_sent if way == ran else computed[way]) / steps,
            "stored": None if stored is None else stored * copies[way],
        }
        for way in WAYS
    }
    return result


def print_picture_costs(costs: Mapping[str, Any], console: Console | None = None) -> None:
    """Prints the table of a run on several ranks; nothing for a run on one."""
    if "ways" not in costs:
        return
    console = console or Console()
    table = plain_table(f"\npictures of {costs['ranks']} ranks, per step", "way")
    for title in ("", "sent to other ranks", "stored on all ranks"):
        table.add_column(title, justify="right", no_wrap=True)
    for way, title in WAYS.items():
        row = costs["ways"][way]
        table.add_row(title, row["how"], _bytes(row["bytes_sent"]), _bytes(row["stored"]))
    console.print(table)
    distinct = "" if costs["distinct"] is None else f", {costs['distinct']:,.0f} distinct of all"
    console.print(
        f"{costs['references']:,.0f} references, {costs['grouped']:,.0f} after grouping, "
        f"{costs['distinct_on_ranks']:,.0f} distinct on each rank, added up{distinct}. "
        "The averaging of gradients by DDP is not in it: it is the same in all three.",
        markup=False,
    )


def _bytes(count: float | None) -> str:
    if count is None:
        return "-"
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count:,.0f} B"
