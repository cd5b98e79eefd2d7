"""Tables for the terminal: drawn by rich where a person reads, plain aligned text elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> None:
    """Print `rows` under `columns`; output that is no terminal is never wrapped or coloured.

    Plain output has one line a row and at least two spaces between columns, so that grep and awk
    work on it.
    """
    if sys.stdout.isatty():
        _print_rich(columns, rows, title)
    else:
        click.echo(format_plain(columns, rows))


def format_plain(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return the table as aligned text, its header first, without trailing blanks."""
    lines = [list(columns), *(list(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    padded = (
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        for line in lines
    )
    return "\n".join(line.rstrip() for line in padded)


def _print_rich(columns: Sequence[str], rows: Sequence[Sequence[str]], title: str) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    frame = 3 * len(columns) + 1  # a blank on both sides of every column, and between them
    widths = fitted([columns, *rows], console.width - frame)
    table = Table(title=title or None, box=box.SIMPLE_HEAD, title_justify="left")
    for number, (column, width) in enumerate(zip(columns, widths, strict=True)):
        table.add_column(column, width=width, style="" if number else "bold")
    for row in rows:
        # Text, not str: square brackets in a cell are no markup.
        table.add_row(*(Text(cell) for cell in row))
    # Where even single words do not fit, the terminal breaks the lines: rich would cut the cells.
    console.width = max(console.width, sum(widths) + frame)
    console.print(table)


def fitted(lines: Sequence[Sequence[str]], room: int) -> list[int]:
    """Widths of columns that fit into `room` where they can: the widest ones break their lines
    first, between words, and no word is ever cut."""
    columns = list(zip(*lines, strict=True))
    widths = [max(map(len, column)) for column in columns]
    least = [
        max(len(word) for cell in column for word in cell.split() or [""]) for column in columns
    ]
    while sum(widths) > room and widths != least:
        widest = max(
            (i for i in range(len(widths)) if widths[i] > least[i]), key=widths.__getitem__
        )
        widths[widest] -= 1
    return widths
