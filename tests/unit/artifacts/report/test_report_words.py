"""Elements and numbers in words: what is escaped, rounded and signed, and how."""

import math

import pytest

from dicm_kit.artifacts.report import words
from dicm_kit.artifacts.report.markup import Html, joined, tag


def test_text_and_attributes_are_escaped_and_html_is_not() -> None:
    made = tag("p", "a < b & c", tag("b", "<i>"), None, 3, class_="x\"'", data_id="<y>")
    assert made == '<p class="x&quot;&#x27;" data-id="&lt;y&gt;">a &lt; b &amp; c<b>&lt;i&gt;</b>3</p>'
    assert joined(Html("<hr>"), "<hr>") == "<hr>&lt;hr&gt;"
    assert tag("img", src="data:,", alt="", title=None, width=1.50) == '<img src="data:," alt="" width="1.5"/>'


@pytest.mark.parametrize(
    ("share", "said"),
    [(0.5, "50"), (0.0123, "1.2"), (0.00123, "0.12"), (0.0000123, "under 0.01"), (0, "0"), (1, "100"),
     (0.9999, "over 99.9"), (0.991, "99.1"), (0.0999, "10")],
)  # fmt: skip
def test_percent(share: float, said: str) -> None:
    assert words.percent(share) == f"{said}\u202f%"


def test_what_is_not_defined_is_a_dash() -> None:
    assert words.percent(math.nan) == words.number(math.nan) == words.number(None) == "–"


def test_signs_and_sizes() -> None:
    assert [words.signed(each, 2) for each in (0.126, -0.126, 0.001)] == ["+0.13", "−0.13", "0.00"]
    assert words.between((-0.01, 0.02), 2, plus=True) == "−0.01 to +0.02"
    assert [words.size(each) for each in (None, 12, 1_500, 2_000_000, 3.2e9)] == [
        "not known", "12\u202fB", "1.5\u202fkB", "2.0\u202fMB", "3.2\u202fGB"
    ]  # fmt: skip


def test_as_many_digits_as_a_difference_needs() -> None:
    assert [words.pairs_digits(each) for each in (0.07, 0.002, 0.0001, math.nan)] == [1, 2, 3, 1]
    assert words.of_pairs(0.76543, 2) == "76.54"
