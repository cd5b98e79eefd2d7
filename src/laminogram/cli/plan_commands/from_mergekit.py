"""`laminogram plan from-mergekit`: a mergekit passthrough file as a plan."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(name="from-mergekit", short_help="Read a mergekit passthrough file as a plan.")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option(
    "--layers", type=click.IntRange(min=1), metavar="T", help="Check it against T layers."
)
def command(file: Path, layers: int | None) -> None:
    """Print the plan of FILE, a mergekit configuration with merge_method passthrough.

    Refused, with the reason, where it is no order of one model's layers: other merge methods,
    several models, scaled tensors.
    """
    from laminogram.plans import mergekit

    click.echo(str(mergekit.read(file, layers)))
