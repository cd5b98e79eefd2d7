"""For which stack a plan is meant: so many layers, or those of a model."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from laminogram.cli.options import load_view

if TYPE_CHECKING:
    from laminogram.plans.cost import Figures

Function = TypeVar("Function", bound=Callable[..., Any])


def stack_options(function: Function) -> Function:
    """Add `--layers`, `--model` and `--context` to a command."""
    layers = click.option(
        "--layers", type=click.IntRange(min=1), metavar="T", help="The stack has T layers."
    )
    model = click.option("--model", metavar="MODEL", help="The stack is that of a model.")
    context = click.option(
        "--context",
        type=click.IntRange(min=0),
        metavar="TOKENS",
        help="With a model: how many tokens attention has in view when FLOPs are counted; "
        "default 1024.",
    )
    return layers(model(context(function)))


def read_stack(
    layers: int | None, model: str | None, context: int | None
) -> tuple[int | None, Figures | None]:
    """The number of layers and what each costs, as far as the options tell."""
    if layers is not None and model is not None:
        raise click.UsageError("--layers and --model exclude each other: give one of them.")
    if model is None:
        if context is not None:
            raise click.UsageError("--context needs --model: FLOPs are those of a model.")
        return layers, None
    from laminogram.stack.flops import DEFAULT_CONTEXT, figures

    stack = load_view(model).stack
    return len(stack.layers), figures(stack, DEFAULT_CONTEXT if context is None else context)


def need_layers(layers: int | None) -> int:
    """The number of layers; a wrong use of the command line where it is not known."""
    if layers is None:
        raise click.UsageError("Say for which stack: --layers T or --model MODEL.")
    return layers
