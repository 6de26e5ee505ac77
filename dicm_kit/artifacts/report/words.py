"""Numbers as a stranger reads them: of 100 pairs, so many; in percent; an interval in words."""

from collections.abc import Sequence

MINUS = "−"
_NARROW = "\u202f"  # a narrow space that no line ends at


def pairs_digits(*differences: float | None) -> int:
    """Returns with how many digits to say "of 100 pairs so many", so that a difference shows: 1, 2 or 3."""
    least = min((abs(each) for each in differences if each is not None and each == each), default=1.0)
    return 1 if least >= 0.005 else 2 if least >= 0.0005 else 3


def of_pairs(share: float, digits: int) -> str:
    """Returns a share of 100 pairs."""
    return number(100 * share, digits)


def signed(value: float, digits: int = 4) -> str:
    """Returns a number with its sign, a real minus."""
    text = f"{abs(value):.{digits}f}"
    sign = "" if float(text) == 0 else "+" if value > 0 else MINUS
    return sign + text


def number(value: float | None, digits: int = 4) -> str:
    """Returns a number, a dash where there is none."""
    if value is None or value != value:
        return "–"
    return f"{value:.{digits}f}".replace("-", MINUS)


def percent(share: float) -> str:
    """Returns a share in percent, with a digit more where it is small."""
    if share != share:
        return "–"
    if 0.9995 <= share < 1:
        return f"over 99.9{_NARROW}%"
    digits = 1 if 0.98 <= share < 1 else 0 if share >= 0.0995 or share == 0 else 1 if share >= 0.00995 else 2
    text = f"{100 * share:.{digits}f}"
    return f"{text}{_NARROW}%" if float(text) or not share else f"under 0.01{_NARROW}%"


def between(interval: Sequence[float] | None, digits: int = 4, plus: bool = False) -> str:
    """Returns an interval: "0.7553 to 0.7661"; the empty text where there is none."""
    if interval is None:
        return ""
    low, high = (signed(each, digits) if plus else number(each, digits) for each in interval)
    return f"{low} to {high}"


def count(value: float) -> str:
    """Returns a count with commas; a mean count with a digit where it is small."""
    return f"{value:,.1f}" if value < 100 and value != int(value) else f"{value:,.0f}"


def size(num_bytes: float | None) -> str:
    """Returns a number of bytes in the unit that fits."""
    if num_bytes is None:
        return "not known"
    for unit, one in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if num_bytes >= one:
            return f"{num_bytes / one:,.1f}{_NARROW}{unit}"
    return f"{num_bytes:,.0f}{_NARROW}B"
