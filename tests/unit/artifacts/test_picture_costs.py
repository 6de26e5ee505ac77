"""The paper's Table 2 of a run, with numbers worked out by hand."""

from io import StringIO

import pytest
from rich.console import Console

from dicm_kit.artifacts.picture_costs import picture_costs, print_picture_costs

# 2 steps on 2 ranks: 10 distinct keys asked for, 4 of them of the other rank, C = 100 in float16, I = 12 in float32
RUN = {
    "ranks": 2,
    "steps": 2,
    "references": 60,
    "grouped": 20,
    "asked": 10,
    "served": 8,
    "elsewhere": 4,
    "wide": 200,
    "wide_gradient": 0,
    "narrow": 48,
    "stored": 5000,
}
SIZES = 2 * 8 * 2  # steps, bytes, one other rank for each of two
AMS, STORE_IN_SERVER = SIZES + 4 * (8 + 48 + 48), SIZES + 4 * (8 + 200)


@pytest.mark.parametrize(("ran", "sent"), [("ams", AMS), ("store_in_server", STORE_IN_SERVER)])
def test_measured_for_what_ran_computed_for_the_others(ran: str, sent: int) -> None:
    costs = picture_costs(ran=ran, bytes_sent=sent, **RUN)
    found = {way: (each["how"], each["bytes_sent"], each["stored"]) for way, each in costs["ways"].items()}
    how = dict.fromkeys(found, "computed") | {ran: "measured"}
    assert found == {
        "ams": (how["ams"], AMS / 2, 5000),
        "store_in_server": (how["store_in_server"], STORE_IN_SERVER / 2, 5000),
        "store_in_worker": ("computed", 0, 10_000),
    }
    assert (costs["references"], costs["grouped"], costs["distinct_on_ranks"], costs["distinct"]) == (30, 10, 5, 4)


def test_store_in_worker_asks_nobody_so_owners_are_taken_as_even() -> None:
    costs = picture_costs(ran="store_in_worker", bytes_sent=0, **(RUN | {"elsewhere": None}))
    assert costs["ways"]["store_in_worker"] == {"how": "measured", "bytes_sent": 0, "stored": 10_000}
    assert costs["ways"]["ams"]["bytes_sent"] == (SIZES + 5 * 104) / 2
    assert costs["distinct"] is None


def test_the_table_says_what_was_measured() -> None:
    console = Console(file=StringIO(), width=100)
    print_picture_costs(picture_costs(ran="ams", bytes_sent=AMS, **(RUN | {"stored": None})), console)
    assert isinstance(console.file, StringIO)
    lines = console.file.getvalue().splitlines()
    assert next(line.split() for line in lines if line.startswith("AMS")) == ["AMS", "measured", "224", "B", "-"]
    assert any(line.startswith("store-in-server  computed") for line in lines)
    assert "30 references, 10 after grouping, 5 distinct on each rank" in console.file.getvalue()


def test_one_rank_sends_nothing_and_has_no_table() -> None:
    costs = picture_costs(ran="store_in_worker", bytes_sent=0, **(RUN | {"ranks": 1}))
    assert "ways" not in costs
    assert costs["distinct"] == 4
    console = Console(file=StringIO())
    print_picture_costs(costs, console)
    assert isinstance(console.file, StringIO)
    assert console.file.getvalue() == ""
