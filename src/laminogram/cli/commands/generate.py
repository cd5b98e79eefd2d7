"""`laminogram generate`: continue a prompt, streaming the text to the terminal."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import click

from laminogram.cli.options import load_view, placement, planning


@click.command(name="generate", short_help="Continue a prompt, streaming to the terminal.")
@click.argument("model")
@click.option("--prompt", required=True, help="The text to continue; - reads it from stdin.")
@click.option(
    "--chat",
    is_flag=True,
    help="Give the prompt as a user's message, in the model's own chat format.",
)
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=200, show_default=True)
@click.option(
    "--temperature",
    type=click.FloatRange(min=0),
    default=0.8,
    show_default=True,
    help="0 takes the likeliest token every time.",
)
@click.option("--top-k", type=click.IntRange(min=1), help="Draw from the K likeliest tokens.")
@click.option(
    "--top-p",
    type=click.FloatRange(0, 1, min_open=True),
    help="Draw from the likeliest tokens that together have this probability.",
)
@click.option(
    "--repetition-penalty",
    type=click.FloatRange(min=0, min_open=True),
    default=1.0,
    show_default=True,
    help="Above 1 makes tokens less likely that have occurred.",
)
@click.option(
    "--seed",
    type=int,
    default=0,
    show_default=True,
    help="The same seed gives the same text.",
)
@click.option("--stop", multiple=True, metavar="STR", help="Stop before this text; repeatable.")
@planning
@placement
def command(
    model: str,
    prompt: str,
    chat: bool,
    plan: str | None,
    kv: str | None,
    dtype: str | None,
    device: str | None,
    **sampling: Any,
) -> None:
    """Continue a prompt with MODEL and stream the text to the terminal.

    Only the new text goes to stdout; on a terminal the prompt is shown before it.
    """
    if prompt == "-":
        prompt = sys.stdin.read()
    view = load_view(model, dtype, device)
    conditions: dict[str, Any] = {"plan": plan, "kv": kv}
    conditions = {name: value for name, value in conditions.items() if value is not None}
    if conditions:
        view = view.using(**conditions)
    if sys.stdout.isatty():
        click.secho(prompt, nl=False, dim=True)
    given = {name: value for name, value in sampling.items() if value is not None}
    # click.echo writes and flushes, so that a token shows when it is drawn.
    text: Any = prompt
    if chat:
        text = view.chat([{"role": "user", "content": prompt}])
        given["stop"] = (*given["stop"], *view.needed_tokenizer().turn_ends)
    with warnings.catch_warnings(record=True) as notes:
        view.generate(text, **given, stream=lambda text: click.echo(text, nl=False))
    click.echo()
    for note in notes:
        click.echo(str(note.message), err=True)
