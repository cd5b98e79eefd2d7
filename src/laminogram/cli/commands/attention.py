"""`laminogram attention`: which tokens each head reads."""

from __future__ import annotations

from typing import Any

import click

from laminogram.cli.pictures import parse_layers, picture_options, show_picture

EXAMPLES = """\b
Examples:
  laminogram attention tiny-llama --open
  laminogram attention MODEL --layers 0-3,7 --prompt "When Mary and John went to the store"
  laminogram attention tiny-rwkv4 --text-only    effective attention of a recurrence
"""


@click.command(
    name="attention", short_help="Which tokens each head of each layer reads.", epilog=EXAMPLES
)
@picture_options
@click.option("--layers", metavar="LAYERS", help="Which layers, such as 0-3,7; default: all.")
def command(layers: str | None, **common: Any) -> None:
    """Draw the attention of MODEL head by head; for RWKV, its effective attention.

    DIR receives index.html (one file, works offline), manifest.json, and the numbers.
    """
    show_picture("attention", layers=parse_layers(layers), **common)
