"""Charts as inline SVG, drawn for a phone's width and readable wider; colours come from the style sheet by class."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dicm_kit.artifacts.report.markup import Html, joined, tag

WIDTH, HEIGHT = 360, 210
_LEFT, _RIGHT, _TOP, _BOTTOM = 44, 10, 16, 34
_MOST_POINTS = 160


@dataclass(frozen=True)
class Line:
    """One line of a chart; `look` is its class in the style sheet."""

    name: str
    look: str
    x: NDArray[np.float64]
    y: NDArray[np.float64]
    dots: bool = False


@dataclass(frozen=True)
class _Frame:
    """From values to places."""

    low_x: float
    high_x: float
    low_y: float
    high_y: float

    def x(self, value: float) -> float:
        return _LEFT + (WIDTH - _LEFT - _RIGHT) * (value - self.low_x) / ((self.high_x - self.low_x) or 1.0)

    def y(self, value: float) -> float:
        share = (value - self.low_y) / ((self.high_y - self.low_y) or 1.0)
        return HEIGHT - _BOTTOM - (HEIGHT - _TOP - _BOTTOM) * share


def line_chart(lines: Sequence[Line], said: str, mark: float | None = None, mark_name: str = "") -> Html:
    """Returns lines over training steps, `said` for those who do not see them; `mark`: a step that is marked."""
    drawn = [_thinned(line) for line in lines]
    x, y = (np.concatenate([getattr(line, name) for line in drawn]) for name in ("x", "y"))
    ticks = nice_ticks(float(y.min()), float(y.max()))
    high_x = max(float(x.max()), mark or 0)
    frame = _Frame(0.0, high_x, min(ticks[0], float(y.min())), max(ticks[-1], float(y.max())))
    parts = [*_axis_y(frame, ticks), *_axis_x(frame, [each for each in nice_ticks(0, high_x, 4) if each <= high_x])]
    if mark is not None:
        parts += _mark(frame, mark, mark_name)
    for line in drawn:
        places = [(frame.x(step), frame.y(value)) for step, value in zip(line.x, line.y, strict=True)]
        if len(places) > 1:
            points = " ".join(f"{across:.1f},{down:.1f}" for across, down in places)
            parts.append(tag("polyline", class_=f"line {line.look}", points=points))
        if line.dots or len(places) == 1:
            parts += [tag("circle", class_=f"dot {line.look}", cx=a, cy=b, r=3) for a, b in places]
    return _svg(parts, said)


def calibration_chart(
    predicted: Sequence[float], observed: Sequence[float], intervals: Sequence[tuple[float, float] | None], said: str
) -> Html:
    """Returns a column for what was observed in each part, with its interval, and a dot for what was predicted."""
    tops = [each[1] for each in intervals if each is not None]
    ticks = nice_ticks(0.0, max(*predicted, *observed, *tops, 0.001))
    frame = _Frame(0.0, float(len(predicted)), 0.0, ticks[-1])
    parts = list(_axis_y(frame, ticks, share=True))
    width = frame.x(0.7) - frame.x(0.0)
    for place, (said_rate, rate, interval) in enumerate(zip(predicted, observed, intervals, strict=True)):
        middle = frame.x(place + 0.5)
        top = frame.y(rate)
        parts.append(
            tag("rect", class_="column", x=middle - width / 2, y=top, width=width, height=frame.y(0) - top, rx=2)
        )
        if interval is not None:
            low, high = (frame.y(each) for each in interval)
            parts.append(tag("line", class_="whisker", x1=middle, x2=middle, y1=low, y2=high))
        parts.append(tag("circle", class_="dot said", cx=middle, cy=frame.y(said_rate), r=4))
        parts.append(_text(middle, HEIGHT - _BOTTOM + 14, str(place + 1), "middle"))
    parts.append(_text(_LEFT, HEIGHT - 5, "lowest predictions", "start"))
    parts.append(_text(WIDTH - _RIGHT, HEIGHT - 5, "highest", "end"))
    return _svg(parts, said)


def legend(entries: Sequence[tuple[str, str]]) -> Html:
    """Returns (look, name) pairs as a legend."""
    keys = [tag("span", tag("i", class_=f"key {look}", aria_hidden="true"), name) for look, name in entries]
    return tag("p", *keys, class_="legend")


def span_bar(
    value: float | None,
    interval: Sequence[float] | None,
    scale: tuple[float, float],
    look: str = "run",
    other: float | None = None,
    other_interval: Sequence[float] | None = None,
) -> Html:
    """Returns a dot with its interval on a scale, as wide as there is room; a hollow dot for the other run."""
    low, high = scale

    def at(number: float) -> float:
        return 100 * min(1.0, max(0.0, (number - low) / ((high - low) or 1.0)))

    def one(number: float | None, ends: Sequence[float] | None, kind: str) -> list[Html]:
        if number is None or number != number:
            return []
        parts = []
        if ends is not None:
            left, right = at(ends[0]), at(ends[1])
            parts.append(tag("i", class_=f"range {kind}", style=f"left:{left:.1f}%;width:{right - left:.1f}%"))
        return [*parts, tag("i", class_=f"point {kind}", style=f"left:{at(number):.1f}%")]

    coin = [tag("i", class_="coin", style=f"left:{at(0.5):.1f}%")] if low < 0.5 < high else []
    return tag(
        "span",
        *coin,
        *one(other, other_interval, "other"),
        *one(value, interval, look),
        class_="span",
        aria_hidden="true",
    )


def nice_ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Returns round numbers from at most `low` to at least `high`."""
    if not high > low:
        low, high = low - (abs(low) * 0.1 or 0.1), high + (abs(high) * 0.1 or 0.1)
    rough = (high - low) / about
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(each * power for each in (1, 2, 2.5, 5, 10) if each * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(each * step, 12) for each in range(first, last + 1)]


def _thinned(line: Line) -> Line:
    """Returns the line with at most 160 points, each the mean of a run of steps."""
    if len(line.x) <= _MOST_POINTS:
        return line
    parts = np.array_split(np.arange(len(line.x)), _MOST_POINTS)
    x, y = (np.array([float(values[part].mean()) for part in parts]) for values in (line.x, line.y))
    return Line(line.name, line.look, x, y, line.dots)


def _axis_y(frame: _Frame, ticks: Sequence[float], share: bool = False) -> list[Html]:
    parts = []
    for each in ticks:
        down = frame.y(each)
        parts.append(tag("line", class_="grid", x1=_LEFT, x2=WIDTH - _RIGHT, y1=down, y2=down))
        parts.append(_text(_LEFT - 6, down + 3.5, f"{100 * each:g} %" if share else f"{each:g}", "end"))
    return parts


def _axis_x(frame: _Frame, ticks: Sequence[float]) -> list[Html]:
    parts = [_text(frame.x(each), HEIGHT - _BOTTOM + 14, f"{each:,g}" if each < 1e6 else f"{each:g}", "middle")
             for each in ticks if each == int(each)]  # fmt: skip
    return [*parts, _text(WIDTH - _RIGHT, HEIGHT - 5, "training steps", "end")]


def _mark(frame: _Frame, step: float, name: str) -> list[Html]:
    across = frame.x(step)
    anchor = "end" if across > WIDTH / 2 else "start"
    return [
        tag("line", class_="mark", x1=across, x2=across, y1=_TOP, y2=HEIGHT - _BOTTOM),
        _text(across + (-4 if anchor == "end" else 4), _TOP - 5, name, anchor, "marked"),
    ]


def _text(x: float, y: float, text: str, anchor: str, look: str = "") -> Html:
    return tag("text", text, x=float(x), y=float(y), text_anchor=anchor, class_=look or None)


def _svg(parts: Sequence[Html], said: str) -> Html:
    return tag("svg", joined(*parts), viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=said, class_="chart")
