"""The part with pictures: an impression per card, the clicks before it with the attention that each one got."""

from collections.abc import Sequence

from dicm_kit.artifacts.report import words
from dicm_kit.artifacts.report.charts import legend
from dicm_kit.artifacts.report.choose import Chosen
from dicm_kit.artifacts.report.gallery import Gallery, Shown, Slot
from dicm_kit.artifacts.report.markup import Html, tag

_LOOKS = 4
_WRONG = ("missed", "false_alarm")


def cards(gallery: Gallery | str, click_rate: float) -> Html:
    """Returns the section; of a text instead of a gallery, why there is none. `click_rate`: of the test split."""
    head = tag("h2", "What it sees")
    if isinstance(gallery, str):
        return tag(
            "section", head, tag("p", f"No impressions can be shown: {gallery}", class_="note warn"), id="gallery"
        )
    wrong = [each for each in gallery.shown if each.chosen.kind in _WRONG]
    right = [each for each in gallery.shown if each.chosen.kind not in _WRONG]
    said = "Single test impressions: the ad on top, below it what this user had clicked before, newest first."
    parts = [head, tag("p", said)]
    parts += [tag("p", each, class_="note") for each in gallery.notes]
    if gallery.channels:
        parts.append(_key(gallery.channels))
    for title, shown in (("The hardest mistakes", wrong), ("And some that are right", right)):
        if shown:
            drawn = [_card(each, gallery.channels, click_rate) for each in shown]
            parts += [tag("h3", title, style="margin-top:22px"), tag("div", *drawn, class_="grid two cards")]
    return tag("section", *parts, id="gallery")


def _key(channels: Sequence[str]) -> Html:
    said = (
        "Below each click, a bar for the weight that it gets, with a colour for each channel of the model. The longest "
    )
    more = "bar of a colour on a card is the largest weight there; hatched bars are weights below zero."
    key = legend([(f"c{place % _LOOKS}", name) for place, name in enumerate(channels)])
    return tag("div", tag("p", said, more), key)


def _card(shown: Shown, channels: Sequence[str], click_rate: float) -> Html:
    chosen = shown.chosen
    wrong = chosen.kind in _WRONG
    predicted = words.percent(chosen.probability)
    mark = tag("span", "wrong" if wrong else "right", class_=f"tag {'wrong' if wrong else 'right'}")
    usual = f"left:{100 * click_rate:.1f}%"
    meter = tag("div", tag("i", style=f"width:{100 * chosen.probability:.1f}%"), tag("em", style=usual),
                class_="meter", aria_hidden="true")  # fmt: skip
    text = tag(
        "div",
        tag("p", _verdict(chosen, predicted), class_="verdict"),
        mark,
        meter,
        tag("p", f"Predicted {predicted}; the mark is the mean, {words.percent(click_rate)}.", class_="soft small"),
        tag("p", "user ", tag("span", shown.user, class_="mono"), " · ad ", tag("span", shown.item, class_="mono"),
            class_="soft small"),
    )  # fmt: skip
    ad = tag("div", _picture(shown.picture, f"The ad: item {shown.item}"), text, class_="ad")
    return tag("article", ad, *_history(shown, channels), class_="card impression")


def _verdict(chosen: Chosen, predicted: str) -> str:
    if chosen.label:
        return f"Clicked, {'though' if chosen.kind == 'missed' else 'and'} the model gave it {predicted}"
    return f"Not clicked, {'though' if chosen.kind == 'false_alarm' else 'and'} the model gave it {predicted}"


def _history(shown: Shown, channels: Sequence[str]) -> list[Html]:
    if not shown.slots:
        return [tag("p", "This user had clicked nothing before.", class_="soft small")]
    most = [
        max((abs(slot.weights[place]) for slot in shown.slots), default=0.0) or 1.0 for place in range(len(channels))
    ]
    parts = [tag("ol", *(_slot(slot, channels, most) for slot in shown.slots), class_="clicks")]
    if shown.older:
        parts.append(tag("p", f"and {shown.older:,} older ones", class_="soft small"))
    return parts


def _slot(slot: Slot, channels: Sequence[str], most: Sequence[float]) -> Html:
    said = f"clicked {_ago(slot.age)}: item {slot.item}"
    weights = "; ".join(
        f"{name}: {words.number(weight, 3)}" for name, weight in zip(channels, slot.weights, strict=False)
    )
    title = f"{said}. Weight by {weights}" if weights else said
    bars = [
        tag("span", tag("i", class_=f"c{place % _LOOKS}{' minus' if weight < 0 else ''}",
                        style=f"width:{100 * abs(weight) / largest:.0f}%"), class_="w", aria_hidden="true")
        for place, (weight, largest) in enumerate(zip(slot.weights, most, strict=False))
    ]  # fmt: skip
    return tag(
        "li", _picture(slot.picture, title, title), *bars, tag("span", _ago(slot.age, short=True), aria_hidden="true")
    )


def _picture(uri: str | None, alt: str, title: str | None = None) -> Html:
    if uri is None:
        return tag(
            "span", "no picture", class_="picture none", role="img", aria_label=f"{alt} (no picture)", title=title
        )
    return tag("img", src=uri, alt=alt, title=title, class_="picture", loading="lazy", decoding="async")


def _ago(days: float, short: bool = False) -> str:
    if days <= 0:  # a log of days has no minutes
        return "0 d" if short else "just before"
    if days < 1 / 24:
        number, one = max(1, round(days * 24 * 60)), "min"
    elif days < 1:
        number, one = round(days * 24), "h"
    else:
        number, one = round(days), "d"
    if short:
        return f"{number} {one}"
    unit = {"min": "minute", "h": "hour", "d": "day"}[one]
    return f"{number:,} {unit}{'' if number == 1 else 's'} before"
