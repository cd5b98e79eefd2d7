"""A page of text: tables and sparklines, drawn by rich.

In a terminal there is colour, and tables choose what fits its width; nothing is ever cut.
Where the output cannot write block letters, everything is ASCII.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

BLOCKS, ASCII_BLOCKS = "▁▂▃▄▅▆▇█", ".:-=+*#@"
UNKNOWN = "?"
"""In a sparkline: a value that is not a number."""
PLAIN_WIDTH = 10_000


def terminal() -> Console:
    """A console on stdout: coloured and as wide as the terminal, or plain and never cut."""
    if sys.stdout.isatty():
        return Console()
    return Console(width=PLAIN_WIDTH, color_system=None, force_terminal=False)


def sparkline(
    values: Iterable[float],
    low: float | None = None,
    high: float | None = None,
    blocks: str = BLOCKS,
) -> str:
    """Values as one letter each, from `low` to `high` (default: their own range)."""
    found = np.asarray(list(values), dtype=np.float64)
    finite = found[np.isfinite(found)]
    if not finite.size:
        return UNKNOWN * len(found)
    least = float(finite.min()) if low is None else low
    span = (float(finite.max()) if high is None else high) - least
    known = np.isfinite(found)
    share = np.where(known, found, least) - least
    share = share / span if span > 0 else np.zeros_like(share)
    letters = np.clip(share * len(blocks), 0, len(blocks) - 1).astype(int)
    return "".join(blocks[i] if ok else UNKNOWN for i, ok in zip(letters, known, strict=True))


class Page:
    """Where a result is printed: a console, and sparklines in letters that it can write."""

    def __init__(self, console: Console | None) -> None:
        self.console = terminal() if console is None else console
        plain = not (self.console.encoding or "").lower().startswith("utf")
        self.plain = plain
        self.blocks = ASCII_BLOCKS if plain else BLOCKS
        self.box = box.ASCII2 if plain else box.SIMPLE_HEAD

    def spark(self, values: Any, low: float | None = None, high: float | None = None) -> str:
        """A sparkline."""
        return sparkline(values, low, high, self.blocks)

    def bar(self, share: float, width: int = 20) -> str:
        """A bar of up to `width` letters."""
        return self.blocks[-1] * max(0, min(width, round(share * width)))

    def shown(self, token: str) -> str:
        """A token in quotes, its blanks visible."""
        return ascii(token) if self.plain else repr(token)

    def title(self, text: str) -> None:
        """A line in bold."""
        self.say(Text(text, style="bold"))

    def say(self, text: str | Text) -> None:
        """A line; brackets in it are no markup."""
        self.console.print(Text(text) if isinstance(text, str) else text, soft_wrap=True)

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[str | Text]]) -> None:
        """A table; its first column and those whose name ends in ":" are words, the others
        numbers."""
        table = Table(box=self.box, pad_edge=False)
        for place, column in enumerate(columns):
            word = not place or column.endswith(":")
            name = column.removesuffix(":")
            table.add_column(
                Text(name),
                justify="left" if word else "right",
                no_wrap=True,
                style="" if place else "bold",
            )
        for row in rows:
            table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
        # rich ends lines with blanks; a captured line is easier to compare without. A table that is
        # wider than the terminal is broken by it, line by line: rich would cut the numbers.
        width, wide = self.console.width, self.console.options.update(max_width=PLAIN_WIDTH)
        self.console.width = max(width, Measurement.get(self.console, wide, table).maximum)
        with self.console.capture() as drawn:
            self.console.print(table)
        self.console.width = width
        for line in drawn.get().splitlines():
            self.console.out(line.rstrip(), highlight=False)

    def courses(self, title: str, values: Mapping[str, Any]) -> None:
        """How each of some numbers runs over the rows of a table: sparkline, least, most."""
        rows = []
        for name, found in values.items():
            known = np.asarray(found)[np.isfinite(found)]
            ends = (known.min(), known.max()) if known.size else (math.nan, math.nan)
            rows.append([name, self.spark(found), *(number(float(end)) for end in ends)])
        self.table(["", f"{title}:", "least", "most"], rows)


def number(value: float) -> str:
    """A number in four digits, thousands apart; "-" for none."""
    if math.isnan(value):
        return "-"
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"
