"""`laminogram next`: the likeliest next tokens, and the loss of each token of a text."""

from __future__ import annotations

from typing import Any

import click

from laminogram.cli.pictures import picture_options, show_picture

EXAMPLES = """\b
Examples:
  laminogram next tiny-llama --prompt "The river ran" --open
  laminogram next MODEL --top 40 --temperature 0.7
  laminogram next MODEL --text-file page.txt --text-only
"""


@click.command(name="next", short_help="The next token, and the text by loss.", epilog=EXAMPLES)
@picture_options
@click.option(
    "--top", type=click.IntRange(min=1), default=20, show_default=True, help="How many next tokens."
)
@click.option(
    "--temperature",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    show_default=True,
    help="Of the next-token bars; losses are always at 1.",
)
def command(top: int, temperature: float, **common: Any) -> None:
    """Draw what MODEL expects after a text, and how badly it expected each of its tokens.

    DIR receives index.html (one file, works offline), manifest.json, and the numbers.
    """
    show_picture("next", top=top, temperature=temperature, **common)
