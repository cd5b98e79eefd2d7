"""`laminogram map`: the stack with its parts, their sizes and any statistic as colour."""

from __future__ import annotations

from typing import Any

import click

from laminogram.cli.pictures import picture_options, show_picture

EXAMPLES = """\b
Examples:
  laminogram map tiny-rwkv4 --open
  laminogram map MODEL --with all        every picture on one page, with one selection
  laminogram map MODEL --text-only
"""


@click.command(name="map", short_help="The stack, its parts and their sizes.", epilog=EXAMPLES)
@picture_options
def command(**common: Any) -> None:
    """Draw MODEL as its layers and parts with parameters, memory and statistics on a text.

    DIR receives index.html (one file, works offline), manifest.json, and the numbers.
    """
    show_picture("map", **common)
