"""`laminogram plan show`: a plan as a picture, as text, and its cost."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from laminogram.cli.plan_commands._stack import read_stack, stack_options

if TYPE_CHECKING:
    from laminogram.plans import Plan


@click.command(name="show", short_help="Draw a plan and say what it costs.")
@click.argument("plan")
@stack_options
@click.option(
    "--html",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Also write the picture as a page; FILE must not exist.",
)
def command(
    plan: str, layers: int | None, model: str | None, context: int | None, html: Path | None
) -> None:
    """Draw PLAN, print its canonical text and what it costs; - reads it from stdin.

    With a stack (--layers or --model) the plan is checked against it, and layers that do not run
    are named; with a model FLOPs and memory are counted too.
    """
    from laminogram.plans import Plan
    from laminogram.plans.diagram import text

    if html is not None and html.exists():
        raise click.UsageError(f"{html} exists already; name another file.")
    parsed = Plan.parse(sys.stdin.read().strip() if plan == "-" else plan)
    count, figures = read_stack(layers, model, context)
    said = [str(parsed), *str(parsed.cost(figures)).splitlines()]
    if count is not None:
        said += _beside_full(parsed.check(count), count)
    click.echo(text(parsed, shutil.get_terminal_size().columns - 1))
    click.echo("\n" + "\n".join(said))
    if html is not None:
        _write(html, parsed, said, model)


def _beside_full(plan: Plan, count: int) -> list[str]:
    from laminogram.plans import Plan

    missing = Plan(layer for layer in range(count) if layer not in set(plan.layers))
    calls = f"{plan.cost().layer_calls / count:.0%} of the {count} layer calls of the full stack"
    return [calls, *([f"not run: {missing}"] if missing.items else [])]


def _write(path: Path, plan: Plan, said: list[str], model: str | None) -> None:
    from laminogram.plans.diagram import page

    # The first two lines, text and calls, stand under the picture already.
    try:
        path.write_text(page(plan, model or "", said[2:]), encoding="utf-8")
    except OSError as error:
        raise click.ClickException(f"cannot write {path}: {error.strerror}") from error
    click.echo(f"\n{path.resolve()}")
