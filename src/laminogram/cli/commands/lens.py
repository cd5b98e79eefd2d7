"""`laminogram lens`: what a model would say if it stopped at each layer."""

from __future__ import annotations

from typing import Any

import click

from laminogram.cli.pictures import picture_options, show_picture

EXAMPLES = """\b
Examples:
  laminogram lens tiny-rwkv4 --open
  laminogram lens MODEL --prompt "The capital of France is" --follow " Paris"
  laminogram lens MODEL --text-only
  laminogram lens MODEL --with attention --with map
"""


@click.command(name="lens", short_help="What the model would say at each layer.", epilog=EXAMPLES)
@picture_options
@click.option(
    "--top", type=click.IntRange(min=1), default=10, show_default=True, help="Tokens of each cell."
)
@click.option(
    "--follow",
    multiple=True,
    metavar="TOKEN",
    help="A token, as text or as id:NUMBER, whose rank and probability are followed.",
)
def command(top: int, follow: tuple[str, ...], **common: Any) -> None:
    """Draw what MODEL would say next after every layer and every token, and how its answer forms.

    DIR receives index.html (one file, works offline), manifest.json, and the numbers.
    """
    tokens = [_token(one) for one in follow]
    show_picture("lens", top=top, follow=tokens, **common)


def _token(text: str) -> int | str:
    number = text.removeprefix("id:")
    return int(number) if number != text and number.isdecimal() else text
