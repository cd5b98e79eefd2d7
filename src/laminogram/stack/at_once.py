"""Layers that a decoded token passes without stopping between them, where nothing there is seen or
changed: on a CPU one call for all, on a GPU sums that the next layer finishes."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from laminogram.stack.cache import StepSlot
from laminogram.stack.context import Context
from laminogram.stack.layer import Layer
from laminogram.stack.mixers import fused, row_decode, rows_decode


class Way(NamedTuple):
    """Which layers take part, and what runs several of them."""

    takes: Callable[[Layer, Tensor, Context, StepSlot], bool]
    run: Callable[[list[tuple[Layer, StepSlot]], Tensor, Context], Tensor]


def way(x: Tensor, ctx: Context) -> Way | None:
    """How `x (B, T, C)` may pass several layers; None but for one token a row."""
    if fused.is_one_row(x, ctx):
        return Way(Layer.takes_row, fused.several_layers)
    if x.shape[0] > 1 and row_decode.is_one_token(x, ctx):
        return Way(Layer.takes_rows, rows_decode.several_layers)
    return None
