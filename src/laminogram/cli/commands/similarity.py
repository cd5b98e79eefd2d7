"""`laminogram similarity`: how alike the states of the layers are."""

from __future__ import annotations

from typing import Any

import click

from laminogram.cli.pictures import picture_options, show_picture

EXAMPLES = """\b
Examples:
  laminogram similarity tiny-llama --open
  laminogram similarity MODEL --text-file book.txt
  laminogram similarity MODEL --plan "0-3, 7-4, 8-11"
"""


@click.command(name="similarity", short_help="How alike the layers’ states are.", epilog=EXAMPLES)
@picture_options
def command(**common: Any) -> None:
    """Draw the similarity of MODEL's states, layer by layer, and the groups they fall into.

    DIR receives index.html (one file, works offline), manifest.json, and the numbers.
    """
    show_picture("similarity", **common)
