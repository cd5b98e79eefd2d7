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

    table = Table(title=title or None, box=box.SIMPLE_HEAD, title_justify="left")
    for number, column in enumerate(columns):
        # The first column is the name to copy: it keeps its line, the others may wrap.
        table.add_column(column, no_wrap=number == 0, style="bold" if number == 0 else "")
    for row in rows:
        # Text, not str: square brackets in a cell are no markup.
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)
