"""How numbers and tokens stand on a page, as viewer/format.js writes those that change there."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence

_BLANKS = re.compile(r"^ +| +$")
_UNSEEN = re.compile(r"[\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")
_CONTROL = {code: 0x2400 + code for code in range(0x20)} | {9: "⇥", 10: "↵"}
_LOW = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


def number(value: float | None, digits: int = 4) -> str:
    """Return a number in so many digits, "n/a" for none; a minus is a minus, not a hyphen."""
    if value is None or math.isnan(value):
        return "n/a"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    size = abs(value)
    if size and (size >= 1e6 or size < 1e-4):
        mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
        mantissa = mantissa.rstrip("0").rstrip(".") if "." in mantissa else mantissa
        text = f"{mantissa}e{int(exponent)}"
    elif size >= 10**digits:
        text = f"{value:,.0f}"
    else:
        text = f"{float(f'{value:.{digits}g}'):.12g}"
    return text.replace("-", "−")


def signed(value: float | None, digits: int = 4) -> str:
    """Return the number with its sign."""
    text = number(value, digits)
    return f"+{text}" if value is not None and value > 0 else text


def count(value: int) -> str:
    """Return a whole number, its thousands apart by thin spaces."""
    return f"{value:,}".replace(",", "\u2009")


def short(value: float) -> str:
    """Return a count in three digits: 12.3 M."""
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{float(f'{value / size:.3g}'):#.3g} {unit}".replace(". ", " ")
    return f"{value:g}"


def memory(size: int) -> str:
    """Return bytes in three digits: 47.1 MiB."""
    for power, unit in ((40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")):
        if size >= 2**power:
            return f"{float(f'{size / 2**power:.3g}'):g} {unit}"
    return f"{size} B"


def token_text(text: str) -> str:
    """Return a token as one visible piece: control characters get a sign of their own."""
    return _UNSEEN.sub("·", text.translate(_CONTROL))


def quoted(text: str) -> str:
    """Return a token's text in quotes, its control characters visible."""
    return f"“{token_text(text)}”"


def cell_text(text: str) -> str:
    """Return a token where room is short: a blank at either end becomes a dot that can be seen."""
    return _BLANKS.sub(lambda blanks: "·" * len(blanks[0]), token_text(text)) or "∅"


def token_names(tokens: Sequence[str]) -> list[str]:
    """Return short names of tokens; one that occurs more than once carries its position."""
    times = Counter(tokens)
    return [
        cell_text(text) + (str(i).translate(_LOW) if times[text] > 1 else "")
        for i, text in enumerate(tokens)
    ]
