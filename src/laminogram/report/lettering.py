"""Letters and numbers on a still: Pillow's own font, and what it cannot write."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from PIL import ImageFont


@cache
def font(size: int) -> Any:
    """Return Pillow's own font; it needs no file of the system."""
    return ImageFont.load_default(size)


@cache
def drawable(text: str) -> str:
    """Return `text` with every character that Pillow's font lacks written as its code."""
    # Pillow brings one font, of Latin letters; a font of the system would make a picture depend on
    # where it was drawn. So other scripts stand as their codes.
    missing = bytes(font(20).getmask("\uffff"))
    plain = text.translate({0x2212: "-", 0x2192: "->", 10: "\\n", 9: "\\t", 13: "\\r"})
    return "".join(
        one
        if one == " " or (one.isprintable() and bytes(font(20).getmask(one)) != missing)
        else one.encode("unicode_escape", "surrogatepass").decode("ascii")
        for one in plain
    )


def number(value: float, digits: int = 3) -> str:
    """Return a number as a picture names it, with its sign where it is positive."""
    if not np.isfinite(value):
        return "n/a" if np.isnan(value) else "inf" if value > 0 else "-inf"
    return "0" if value == 0 else f"{value:+.{digits}g}".replace("e+0", "e").replace("e-0", "e-")


def fitted(text: str, size: int, room: float) -> str:
    """Return as much of `text` as fits into `room` pixels, with dots where some is left out."""
    text = drawable(text)
    if font(size).getlength(text) <= room:
        return text
    while text and font(size).getlength(text + "...") > room:
        text = text[:-1]
    return text + "..." if text else ""
