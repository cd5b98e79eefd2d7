"""`laminogram plan build`: the plan of a named builder; its options are the builders' settings."""

from __future__ import annotations

from typing import Any

import click

from laminogram.cli.options import load_view
from laminogram.plans import builders


def _listing() -> str:
    lines = (f"  {name:<14} {builders.get(name).summary}" for name in builders.names())
    return "\b\nBuilders:\n" + "\n".join(lines)


def _settings() -> dict[str, tuple[str, list[str]]]:
    """Every setting: what it means, and the builders that have it."""
    found: dict[str, tuple[str, list[str]]] = {}
    for name in builders.names():
        for setting, meaning in builders.get(name).settings.items():
            found.setdefault(setting, (meaning, []))[1].append(name)
    return found


def _options() -> list[click.Parameter]:
    return [
        click.Option(
            [f"--{setting.replace('_', '-')}", setting],
            type=str if builders.takes_text(setting) else int,
            metavar="LIST" if builders.takes_text(setting) else "N",
            help=f"{meaning[0].upper()}{meaning[1:]} ({', '.join(users)}).",
        )
        for setting, (meaning, users) in _settings().items()
    ]


@click.command(
    name="build",
    short_help="Print the plan of a builder: skip, reverse, looped, upscale, ...",
    params=_options(),
    epilog=_listing(),
)
@click.argument("name")
@click.option("--layers", type=click.IntRange(min=1), metavar="T", help="The stack has T layers.")
@click.option("--model", metavar="MODEL", help="The stack is that of a model.")
def command(name: str, layers: int | None, model: str | None, **settings: Any) -> None:
    """Print the plan that the builder NAME makes for a stack, ready to be piped on.

    The middle of a stack is told by its start layer or by the number of affected layers.
    """
    if (layers is None) == (model is None):
        raise click.UsageError("Say for which stack: --layers T or --model MODEL.")
    if model is not None:
        layers = len(load_view(model).stack.layers)
    given = {key: value for key, value in settings.items() if value is not None}
    assert layers is not None
    click.echo(str(builders.build(name, layers, **given)))
