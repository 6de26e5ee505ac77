"""The first part: how much better than another run, with its interval, in words that need no other page."""

from collections.abc import Sequence
from dataclasses import dataclass

from dicm_kit.artifacts.difference import Difference
from dicm_kit.artifacts.report import words
from dicm_kit.artifacts.report.charts import span_bar
from dicm_kit.artifacts.report.collect import Facts, RunFacts
from dicm_kit.artifacts.report.markup import Html, tag
from dicm_kit.training.bootstrap import Interval

_METRICS = {
    "gauc": ("GAUC", "pairs in the right order within a user, mean over users by impressions", 1),
    "auc": ("AUC", "pairs in the right order, whoever saw them", 1),
    "log_loss": ("log loss", "how surprised the model is by what happened; less is better", -1),
    "calibration": ("calibration", "predicted clicks / clicks; 1 is right", 0),
}
"""Metric -> its name, what it is, and which way is better; 0: neither."""


@dataclass(frozen=True)
class _Headline:
    """The metric that the first number is of: GAUC, or AUC where no user has both labels."""

    metric: str
    pair: str

    @classmethod
    def of(cls, run: RunFacts) -> "_Headline | None":
        if run.test["gauc"] == run.test["gauc"]:
            return cls("gauc", "a clicked and an unclicked ad shown to the same user")
        if run.test["auc"] == run.test["auc"]:
            return cls("auc", "a clicked and an unclicked ad")
        return None


def gain(facts: Facts) -> Html:
    """Returns the section."""
    headline = _Headline.of(facts.run)
    if headline is None:
        said = tag(
            "p", "The test split has no click, or nothing but clicks: no order can be measured.", class_="note warn"
        )
        return tag("section", said, _table(facts), id="gain", class_="first")
    found = facts.differences.get(headline.metric)
    if facts.against is None or found is None:
        parts = _alone(facts, headline)
    else:
        parts = _compared(facts.run, facts.against, headline, found)
    return tag("section", tag("div", *parts, class_="hero"), _table(facts), id="gain", class_="first")


def _compared(run: RunFacts, other: RunFacts, headline: _Headline, found: Difference) -> list[Html]:
    digits = words.pairs_digits(found.value)
    look = _look(found.value, found.interval)
    size = tag("p", words.signed(100 * found.value, digits) or "±0", class_=f"figure {look}".strip())
    unit = tag("p", f"of every 100 pairs in the right order, against {other.name}", class_="figure-unit")
    lead = (
        f"Of 100 pairs of {headline.pair}, this model puts {words.of_pairs(found.run, digits)} in the right order; "
        f"{other.name} {words.of_pairs(found.against, digits)}. Guessing gets 50."
    )
    left = tag("div", size, unit, tag("p", lead, class_="lead"), _certainty(found, digits))
    rows = [
        ("this model", run.name, found.run, run.interval(headline.metric), "run"),
        (other.name, "what it is compared with", found.against, other.interval(headline.metric), "other"),
        *_oracle(run, headline),
    ]
    return [left, _scale(rows, digits)]


def _certainty(found: Difference, digits: int) -> Html:
    if found.interval is None:
        return tag("p", "Too few users were tested to say how far chance could move this.", class_="soft")
    low, high = found.interval
    ends = f"{words.signed(100 * low, digits) or '0'} and {words.signed(100 * high, digits) or '0'}"
    if low > 0 or high < 0:
        verdict = "So it is more than luck in who was tested."
    else:
        verdict = "Zero is inside: it could be luck in who was tested."
    said = f"With other users of the same kind, 95 times in 100 it would lie between {ends}. {verdict}"
    return tag("p", said, tag("span", " Another training, with another seed, is not in that.", class_="soft"))


def _alone(facts: Facts, headline: _Headline) -> list[Html]:
    run, metric = facts.run, headline.metric
    share, interval = run.test[metric], run.interval(metric)
    lead = f"Of 100 pairs of {headline.pair}, this model puts {words.of_pairs(share, 1)} in the right order. "
    parts = [
        tag("p", words.of_pairs(share, 1), class_="figure"),
        tag("p", "of every 100 pairs in the right order", class_="figure-unit"),
        tag("p", f"{lead}Guessing gets 50.", class_="lead"),
    ]
    if interval is not None:
        ends = f"{words.of_pairs(interval[0], 1)} and {words.of_pairs(interval[1], 1)}"
        parts.append(tag("p", f"With other users of the same kind, 95 times in 100 it would lie between {ends}."))
    else:
        parts.append(tag("p", "Too few users were tested to say how far chance could move this.", class_="soft"))
    command = tag("span", f"dicm report {run.folder} --against OTHER_RUN", class_="mono")
    parts.append(
        tag("p", "What is that worth? Only a comparison says: ", command, " puts the gain over another run here.",
            class_="note")
    )  # fmt: skip
    rows = [("this model", run.name, share, interval, "run"), *_oracle(run, headline)]
    return [tag("div", *parts), _scale(rows, 1)]


_Row = tuple[str, str, float, Interval | None, str]


def _oracle(run: RunFacts, headline: _Headline) -> list[_Row]:
    best = run.result.get("oracle", {}).get(headline.metric)
    return [] if best is None else [("the best there is", "made-up data: the truth is known", best, None, "best")]


def _scale(rows: Sequence[_Row], digits: int) -> Html:
    values = [each for _, _, value, interval, _ in rows for each in (value, *(interval or ()))]
    low = 0.5 if min(values) >= 0.5 else max(0.0, min(values) - 0.02)
    high = min(1.0, max(values) + 0.02)
    lines = []
    for name, called, value, interval, look in rows:
        said = tag("b", words.of_pairs(value, digits))
        bar = span_bar(value, interval, (low, high), look)
        lines.append(
            tag("div", tag("span", name, " ", tag("span", called, class_="soft small")), said, bar, class_="row")
        )
    ends = tag(
        "div",
        tag("span", "50 (guessing)" if low == 0.5 else f"{100 * low:.0f}"),
        tag("span", f"{100 * high:.0f} of 100 pairs"),
        class_="ends",
        aria_hidden="true",
    )
    return tag("div", *lines, ends, class_="scale card")


def _table(facts: Facts) -> Html:
    run, other = facts.run, facts.against
    heads = ["this model", *([other.name, "difference"] if other else [])]
    named = [] if other else [tag("th", tag("span", "metric", class_="unseen"), scope="col")]
    head = tag("tr", *named, *(tag("th", each, scope="col", class_="n") for each in heads))
    bodies = [_metric_rows(facts, metric, len(heads)) for metric in _METRICS]
    users = facts.run.test["gauc_left_out"]
    said = f"{run.test['impressions']:,.0f} test impressions. Small: 95 % intervals over users."
    left_out = f" GAUC leaves out {words.percent(users)} of them, of users who clicked all or nothing."
    table = tag("table", tag("caption", "All in all"), tag("thead", head), *bodies, class_="metrics")
    return tag("div", table, tag("p", said, left_out if users > 0 else None, class_="soft small"), class_="card")


def _metric_rows(facts: Facts, metric: str, columns: int) -> Html:
    name, meaning, better = _METRICS[metric]
    cells = [_cell(facts.run.test[metric], facts.run.interval(metric))]
    if facts.against is not None:
        cells.append(_cell(facts.against.test[metric], facts.against.interval(metric)))
        found = facts.differences.get(metric)
        if found is None:
            cells.append(tag("td", "–", class_="n"))
        else:
            sure = _look(better * found.value, _times(better, found.interval))
            look = {"good": "better", "bad": "worse"}.get(sure)
            ends = tag("span", words.between(found.interval, plus=True), class_="iv")
            cells.append(tag("td", tag("span", words.signed(found.value), class_=look), ends, class_="n"))
    if columns == 1:
        meant = tag("span", meaning, class_="iv")
        return tag("tbody", tag("tr", tag("th", name, meant, scope="row"), *cells))
    named = tag("th", name, " ", tag("span", meaning, class_="soft small"), scope="rowgroup", colspan=columns)
    return tag("tbody", tag("tr", named), tag("tr", *cells))


def _cell(value: float, interval: Interval | None) -> Html:
    return tag("td", words.number(value), tag("span", words.between(interval), class_="iv"), class_="n")


def _look(value: float, interval: Interval | None) -> str:
    """Returns "good" or "bad" where the interval has zero outside of it."""
    if interval is None or interval[0] <= 0 <= interval[1]:
        return ""
    return "good" if value > 0 else "bad"


def _times(factor: int, interval: Interval | None) -> Interval | None:
    if interval is None:
        return None
    low, high = sorted((factor * interval[0], factor * interval[1]))
    return low, high
