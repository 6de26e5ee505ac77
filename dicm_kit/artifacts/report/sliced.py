"""The part with slices: new and known ads, rare and frequent ones, short and long histories."""

from collections.abc import Mapping

from dicm_kit.artifacts.difference import Difference
from dicm_kit.artifacts.report import words
from dicm_kit.artifacts.report.charts import legend, span_bar
from dicm_kit.artifacts.report.collect import Facts
from dicm_kit.artifacts.report.markup import Html, tag

_SEEN = {"target_seen": "known", "target_unseen": "new"}
_DECILES = {f"target_decile_{each}": str(each) for each in range(1, 11)}
_HISTORY = {
    "history_0": "none",
    "history_1_3": "1–3",
    "history_4_7": "4–7",
    "history_8_15": "8–15",
    "history_16_31": "16–31",
    "history_32_up": "32 and up",
}


def sliced(facts: Facts) -> Html:
    """Returns the section."""
    scale = _scale(facts)
    groups = [
        ("Ads that training has seen, and new ones", _SEEN, "ad"),
        ("How many clicks the user had before", _HISTORY, "clicks"),
        ("Known ads, from the rarest tenth of training (1) to the most shown (10)", _DECILES, "tenth"),
    ]
    tables = [_table(facts, *group, scale) for group in groups]
    drawn = [each for each in tables if each is not None]
    what = "Pairs in the right order (GAUC), part by part. "
    entries = [("point run", "this model, with its 95 % interval")]
    if facts.against is not None:
        entries.append(("point other", facts.against.name))
    parts = [
        tag("h2", "Where it is good, and where not"),
        tag("p", f"{what}Pictures should help most where ids know little: with new and rare ads."),
    ]
    if not drawn:
        parts.append(tag("p", "No slice has a user with both a click and none.", class_="note warn"))
    else:
        ends = f"{words.number(scale[0], 2)} to {words.number(scale[1], 2)}"
        said = f"Bars go from {ends}" + (", the dashed line is guessing" if scale[0] < 0.5 < scale[1] else "")
        parts += [legend(entries), tag("p", f"{said}. Small: test impressions.", class_="soft small")]
        parts.append(tag("div", tag("div", *drawn[:2], class_="stack"), *drawn[2:], class_="grid two"))
    if facts.against is not None and not any(name.startswith("history_") for name in facts.differences):
        parts.append(
            tag("p", "The two runs cut histories differently: by clicks, they cannot be compared.", class_="note")
        )
    return tag("section", *parts, id="slices")


def _scale(facts: Facts) -> tuple[float, float]:
    """Returns the least and the greatest value to be drawn, in steps of 0.05; wide intervals are cut."""
    values = [0.5]
    for name in (*_SEEN, *_DECILES, *_HISTORY):
        for run in (facts.run, facts.against):
            if run is not None and f"{name}/gauc" in run.test:
                values.append(run.test[f"{name}/gauc"])
    low, high = min(values) - 0.05, max(values) + 0.05
    return max(0.0, int(low * 20) / 20), min(1.0, -int(-high * 20) / 20)


def _table(facts: Facts, title: str, names: Mapping[str, str], first: str, scale: tuple[float, float]) -> Html | None:
    if not any(f"{name}/gauc" in facts.run.test for name in names):
        return None
    rows = [
        _row(facts, name, called, scale) for name, called in names.items() if f"{name}/impressions" in facts.run.test
    ]
    heads = [
        (first, None),
        ("", "bar"),
        ("GAUC", "n"),
        *([("gain", "n")] if facts.against else []),
    ]
    drawn = tag("span", "drawn", class_="unseen")
    head = tag("tr", *(tag("th", each or drawn, scope="col", class_=look) for each, look in heads))
    table = tag("table", tag("caption", title), tag("thead", head), tag("tbody", *rows), class_="slices")
    return tag("div", table, class_="card")


def _row(facts: Facts, name: str, called: str, scale: tuple[float, float]) -> Html:
    run, other, metric = facts.run, facts.against, f"{name}/gauc"
    value, interval = run.test.get(metric), run.interval(metric)
    found = facts.differences.get(metric)
    theirs = other.test.get(metric) if other is not None and found is not None else None
    bar = span_bar(value, interval, scale, "run", theirs)
    cells = [
        tag("th", called, tag("span", words.count(run.test[f"{name}/impressions"]), class_="iv"), scope="row"),
        tag("td", bar, class_="bar"),
        tag("td", words.number(value, 3), tag("span", words.between(interval, 2), class_="unseen"), class_="n"),
    ]
    if other is not None:
        cells.append(_gain(found))
    return tag("tr", *cells)


def _gain(found: Difference | None) -> Html:
    if found is None:
        return tag("td", "–", class_="n")
    sure = found.interval is not None and not found.interval[0] <= 0 <= found.interval[1]
    look = ("better" if found.value > 0 else "worse") if sure else "soft"
    return tag("td", tag("span", words.signed(found.value, 3), class_=look), class_="n")
