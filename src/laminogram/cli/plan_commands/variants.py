"""`laminogram plan variants`: every variant of the paper for a stack, with its cost."""

from __future__ import annotations

import click

from laminogram.cli.plan_commands._stack import need_layers, read_stack, stack_options
from laminogram.cli.tables import print_table


@click.command(name="variants", short_help="List every variant of the painters paper.")
@stack_options
@click.option("--start", type=int, metavar="N", help="Only middles that begin after layer N.")
@click.option("--affected", type=int, metavar="M", help="Only middles of M layers.")
def command(
    layers: int | None,
    model: str | None,
    context: int | None,
    start: int | None,
    affected: int | None,
) -> None:
    """List every variant of "Transformer Layers as Painters" for a stack: its plan and its cost.

    All start layers, seeds 0 to 9 for the random order; one layer skipped and two swapped, at every
    place. With --start or --affected: the variants with that middle, beside the full stack.
    """
    from laminogram.plans.builders import variants
    from laminogram.plans.cost import scaled

    if start is not None and affected is not None:
        raise click.UsageError("--start and --affected exclude each other: give one of them.")
    count, figures = read_stack(layers, model, context)
    columns = ["variant", "calls", "depth", *(["FLOPs a token"] if figures else []), "plan"]
    rows = []
    for variant in variants(need_layers(count), start, affected):
        cost = variant.plan.cost(figures)
        row = [str(variant), f"{cost.layer_calls:g}", f"{cost.depth:g}"]
        row += [scaled(cost.flops, "")] if cost.flops is not None else []
        rows.append([*row, str(variant.plan)])
    print_table(columns, rows, title=f"variants of {model or f'{count} layers'}")
