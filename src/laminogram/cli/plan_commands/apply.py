"""`laminogram plan apply`: write a plan into a checkpoint of its own."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from laminogram.checkpoint.apply import Prepared


@click.command(name="apply", short_help="Write a plan into a checkpoint that others open.")
@click.argument("model")
@click.argument("plan")
@click.argument("dst", type=click.Path(path_type=Path))
@click.option(
    "--copy",
    is_flag=True,
    help="Write a layer that runs more than once as often as it runs.",
)
def command(model: str, plan: str, dst: Path, copy: bool) -> None:
    """Write MODEL with its layers in the order of PLAN as the new directory DST.

    DST holds the same kind of files as MODEL and is opened by the same programs, which then give
    the logits that MODEL gives here under PLAN. A plan that its format cannot say is refused, and
    nothing is written.
    """
    from laminogram.checkpoint.apply import prepare, refuse_existing, write

    refuse_existing(dst)
    prepared = prepare(model, plan, copy=copy)
    made = prepared.made
    click.echo(
        f"{prepared.name} as {made.plan}: {len(made.plan)} layers, {made.parameters:,} parameters, "
        f"{made.nbytes / 1e6:,.1f} MB"
    )
    for remark in prepared.remarks():
        click.echo(f"- {remark}")
    written = _write(write, prepared, dst)
    click.echo(f"wrote {written}: {', '.join(sorted(file.name for file in written.iterdir()))}")
    click.echo("open it with")
    for line in _openers(prepared, written):
        click.echo(f"  {line}")


def _write(write: Callable[..., Path], prepared: Prepared, dst: Path) -> Path:
    """Write with a bar on stderr where a person watches."""
    if not sys.stderr.isatty():
        return write(prepared, dst)
    with click.progressbar(length=prepared.made.nbytes, label="writing", file=sys.stderr) as bar:
        return write(prepared, dst, progress=lambda done, total: bar.update(done - bar.pos))


def _openers(prepared: Prepared, written: Path) -> list[str]:
    """How programs open the result: this one, and the one that its format is made for."""
    lines = [f"laminogram study {written}"]
    if prepared.weights_file.endswith(".pth"):
        lines.append(f"{written / prepared.weights_file}, wherever a .pth file is asked for")
    elif prepared.architecture:
        lines.append(f'transformers.{prepared.architecture}.from_pretrained("{written}")')
    return lines
