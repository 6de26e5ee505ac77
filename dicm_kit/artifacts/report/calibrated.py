"""The part on calibration: whether a predicted rate is the rate that is then seen."""

from dicm_kit.artifacts.report import words
from dicm_kit.artifacts.report.charts import calibration_chart, legend
from dicm_kit.artifacts.report.collect import Decile, Facts
from dicm_kit.artifacts.report.markup import Html, tag


def calibrated(facts: Facts) -> Html:
    """Returns the section."""
    deciles = [each for each in facts.deciles if each.predicted == each.predicted]
    parts = [tag("h2", "Can its percentages be believed?"), tag("p", _in_all(facts))]
    if deciles:
        outside = sum(each.interval is not None and not _inside(each) for each in deciles)
        parts.append(tag("p", _by_tenth(deciles, outside)))
        said = "; ".join(_in_words(number, each) for number, each in enumerate(deciles, 1))
        chart = calibration_chart(
            [each.predicted for each in deciles],
            [each.observed for each in deciles],
            [each.interval for each in deciles],
            f"Click rates by tenth of the predictions. {said}.",
        )
        key = legend([("column", "clicked, with its interval"), ("said", "predicted")])
        chart = tag("figure", tag("h3", "Click rate, predicted and seen"), chart, key, class_="card")
        parts.append(tag("div", chart, _table(deciles), class_="grid two"))
    if (facts.run.recipe.get("data") or {}).get("negatives"):
        drawn = (
            "The log holds clicks only; what was not clicked was drawn (data.negatives). The rates are those of the "
            "drawn data, not of the shop."
        )
        parts.append(tag("p", drawn, class_="note"))
    return tag("section", *parts, id="calibration")


def _in_words(number: int, decile: Decile) -> str:
    return f"part {number}: predicted {words.percent(decile.predicted)}, seen {words.percent(decile.observed)}"


def _in_all(facts: Facts) -> str:
    ratio, interval = facts.run.test["calibration"], facts.run.interval("calibration")
    if ratio != ratio:
        return "The test split has no click, so there is no rate to compare with."
    ends = f" (95 % interval of the ratio: {words.between(interval, 3)})" if interval else ""
    off = abs(ratio - 1)
    if off < 0.005:
        return f"In all, it predicts as many clicks as there were, to {words.percent(max(off, 0.001))}{ends}."
    return f"In all, it predicts {words.percent(off)} {'more' if ratio > 1 else 'fewer'} clicks than there were{ends}."


def _by_tenth(deciles: list[Decile], outside: int) -> str:
    parts = "tenth" if len(deciles) == 10 else "part"
    said = (
        f"Test impressions in {len(deciles)} equal parts, by what it predicted. Where dot and column meet, a “5 %” of "
        "this model is a 5 %, and can be used to bid. "
    )
    if not outside:
        return said + f"In every {parts} the prediction lies within what chance allows."
    return said + f"In {outside} of {len(deciles)} it lies outside of what chance allows."


def _inside(decile: Decile) -> bool:
    assert decile.interval is not None, "asked before"
    low, high = decile.interval
    return low <= decile.predicted <= high


def _table(deciles: list[Decile]) -> Html:
    heads = ("part", "predicted", "clicked", "impressions")
    head = tag("tr", *(tag("th", each, scope="col", class_="n" if place else None) for place, each in enumerate(heads)))
    rows = [
        tag(
            "tr",
            tag("th", number, scope="row"),
            tag("td", words.percent(each.predicted), class_="n"),
            tag("td", words.percent(each.observed), class_="n"),
            tag("td", f"{each.impressions:,}", class_="n"),
        )
        for number, each in enumerate(deciles, 1)
    ]
    table = tag(
        "table", tag("caption", "The same in numbers"), tag("thead", head), tag("tbody", *rows), class_="compact"
    )
    return tag("div", table, class_="card")
