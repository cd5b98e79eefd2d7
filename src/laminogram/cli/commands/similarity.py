"""`laminogram similarity`: how alike the states of the layers are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from laminogram.cli.pictures import picture_options, show_picture

EXAMPLES = """\b
Examples:
  laminogram similarity tiny-llama --open
  laminogram similarity MODEL --text-file one.txt --also two.txt --also three.txt
  laminogram similarity MODEL --plan "0-3, 7-4, 8-11"
"""


@click.command(name="similarity", short_help="How alike the layers’ states are.", epilog=EXAMPLES)
@picture_options
@click.option(
    "--also",
    "more",
    multiple=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Another UTF-8 file; similarities are means over all texts and their tokens. Repeatable.",
)
def command(more: tuple[Path, ...], **common: Any) -> None:
    """Draw the similarity of MODEL's states, layer by layer, and the groups they fall into.

    DIR receives index.html (one file, works offline), manifest.json, and the numbers.
    """
    show_picture("similarity", more_files=more, **common)
