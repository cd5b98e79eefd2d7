"""`laminogram massive`: the few values that tower above all others."""

from __future__ import annotations

from typing import Any

import click

from laminogram.cli.pictures import picture_options, show_picture

EXAMPLES = """\b
Examples:
  laminogram massive tiny-llama --open
  laminogram massive MODEL --site ffn_out
  laminogram massive MODEL --text-only
"""


@click.command(name="massive", short_help="Massive activations, by layer.", epilog=EXAMPLES)
@picture_options
@click.option(
    "--site", default="resid_post", show_default=True, help="Where to look; see ls sites MODEL."
)
def command(site: str, **common: Any) -> None:
    """Draw the magnitudes of MODEL over tokens and channels, and its largest values by layer.

    DIR receives index.html (one file, works offline), manifest.json, and the numbers.
    """
    show_picture("massive", site=site, **common)
