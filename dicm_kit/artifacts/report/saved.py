"""The part with the paper's Table 2 for this run: what computing and sending each picture once has saved."""

from collections.abc import Mapping
from typing import Any

from dicm_kit.artifacts.picture_costs import WAYS
from dicm_kit.artifacts.report import words
from dicm_kit.artifacts.report.collect import LEGS, RunFacts
from dicm_kit.artifacts.report.markup import Html, tag

_LEGS = {
    "keys": "keys, to the owner",
    "vectors": "picture vectors, back",
    "gradients": "their gradients, to the owner",
    "sizes": "sizes of these",
}


def saved(run: RunFacts) -> Html:
    """Returns the section."""
    costs = run.result.get("pictures")
    head = tag("h2", "What one copy of each picture saves")
    if costs is None:
        why = "looks at no pictures" if not run.recipe.get("images") else "has no counts of its training’s pictures"
        return tag(
            "section", head, tag("p", f"This run {why}, so there is nothing to save.", class_="note"), id="pictures"
        )
    parts = [head, *_words(costs), _funnel(costs)]
    if "ways" in costs:
        parts.append(_ways(costs))
        legs = {leg: run.bytes_per_leg[leg] for leg in LEGS if run.bytes_per_leg.get(leg)}
        if legs:
            parts.append(_legs(legs))
    else:
        alone = (
            "One rank trained this model, so no picture was sent anywhere. On several ranks, this part says what was "
            "sent, and what the paper’s other ways would have sent."
        )
        parts.append(tag("p", alone, class_="note"))
    return tag("section", *parts, id="pictures")


def _words(costs: Mapping[str, Any]) -> list[Html]:
    computed, references = _computed(costs), costs["references"]
    if not computed:
        return [tag("p", "No impression of the training had a picture.")]
    often = references / computed
    said = (
        f"The impressions of one training step refer to {words.count(references)} pictures, ads and clicks before. "
        f"Only {words.count(computed)} of them are different, and only those went through the picture net: each was "
        f"computed once and used {often:,.1f} times."
    )
    return [tag("p", said)]


def _computed(costs: Mapping[str, Any]) -> float:
    return costs["distinct_on_ranks"] if costs["distinct"] is None else costs["distinct"]


def _funnel(costs: Mapping[str, Any]) -> Html:
    ranks = costs["ranks"]
    rows = [("pictures that impressions refer to", costs["references"]),
            ("after impressions of one user share their history", costs["grouped"])]  # fmt: skip
    if ranks > 1:
        rows.append((f"different ones on each of {ranks} ranks, added up", costs["distinct_on_ranks"]))
    if costs["distinct"] is not None:
        rows.append(("different ones in the whole batch: computed", costs["distinct"]))
    elif ranks == 1:
        rows.append(("different ones: computed", costs["distinct_on_ranks"]))
    most = max(costs["references"], 1e-9)
    drawn = [
        tag(
            "div",
            tag("span", name),
            tag("b", words.count(value)),
            tag("span", class_="amount", style=f"width:{100 * min(1.0, value / most):.1f}%", aria_hidden="true"),
            class_="row",
        )
        for name, value in rows
    ]
    of = f"Per training step, mean of {costs['steps']:,} steps"
    return tag("div", tag("h3", of), tag("div", *drawn, class_="funnel"), class_="card")


def _ways(costs: Mapping[str, Any]) -> Html:
    heads = (("way", None), ("sent to other ranks", "n"), ("stored on all ranks", "n"))
    head = tag("tr", *(tag("th", each, scope="col", class_=look) for each, look in heads))
    rows = []
    for way, name in WAYS.items():
        of_way = costs["ways"][way]
        rows.append(
            tag(
                "tr",
                tag("th", name, tag("span", of_way["how"], class_="iv"), scope="row"),
                tag("td", words.size(of_way["bytes_sent"]), class_="n"),
                tag("td", words.size(of_way["stored"]), class_="n"),
            )
        )
    caption = tag("caption", f"The paper’s Table 2, for this run: {costs['ranks']} ranks, per step")
    table = tag("table", caption, tag("thead", head), tag("tbody", *rows))
    said = (
        "AMS sends small picture vectors, store-in-server wide ones of the backbone, store-in-worker nothing: every "
        "rank has all of them. The averaging of gradients is the same in all three and left out."
    )
    return tag("div", table, tag("p", said, class_="soft small"), class_="card")


def _legs(legs: Mapping[str, float]) -> Html:
    head = tag("tr", tag("th", "leg", scope="col"), tag("th", "per step", scope="col", class_="n"))
    rows = [
        tag("tr", tag("th", _LEGS[leg], scope="row"), tag("td", words.size(value), class_="n"))
        for leg, value in legs.items()
    ]
    table = tag("table", tag("caption", "What was sent, leg by leg"), tag("thead", head), tag("tbody", *rows))
    return tag("div", table, class_="card")
