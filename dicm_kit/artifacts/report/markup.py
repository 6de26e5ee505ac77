"""HTML from plain values: whatever is not already `Html` is escaped, so that ids of strangers stay text."""

from html import escape

_EMPTY = {"img", "meta", "link", "br", "line", "rect", "circle", "path", "polyline"}


class Html(str):
    """Text that is HTML already."""

    __slots__ = ()


def tag(name: str, /, *parts: "Html | str | int | None", **attributes: "str | int | float | None") -> Html:
    """Returns an element; parts that are not `Html` are escaped, None is left out.

    Attributes: `_` stands for `-`, and one at the end is dropped (`class_`); None is left out.
    """
    said = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_plain(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _EMPTY:
        assert not parts, f"{name} holds nothing"
        return Html(f"<{name}{said}/>")
    return Html(f"<{name}{said}>{joined(*parts)}</{name}>")


def joined(*parts: "Html | str | int | None") -> Html:
    """Returns the parts one after the other, those that are not `Html` escaped."""
    return Html("".join(part if isinstance(part, Html) else escape(str(part)) for part in parts if part is not None))


def _plain(value: "str | int | float") -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".") if isinstance(value, float) else str(value)
