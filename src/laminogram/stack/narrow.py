"""The last step of a run for some columns alone: of the others only keys and values are made.

Nothing reads what a last layer gives for a column that nobody asked for. What a question of eighty
tokens and an answer of one leaves of that layer is two of its seven products.

Axes: B rows, T columns, W asked columns of a row, S key columns.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import Tensor

from laminogram.plans import Item, Step
from laminogram.stack.cache import AttentionSlot, StepSlot
from laminogram.stack.context import Context, MaskKey
from laminogram.stack.devices import on
from laminogram.stack.forward import Flow
from laminogram.stack.mixers.attention import Attention
from laminogram.stack.taps import NO_TAPS

if TYPE_CHECKING:
    from laminogram.stack.stack import Stack


class _Given(AttentionSlot):
    """Keys and values that are complete already."""

    def extend(self, k: Tensor, v: Tensor, start: int | None, positions: Tensor) -> None:
        """The asked columns' own are among them."""


def pick(x: Tensor, columns: Tensor) -> Tensor:
    """`x (B, T, ...)` at `columns` (B, W): (B, W, ...)."""
    columns = columns.to(x.device)
    return x[torch.arange(len(columns), device=x.device)[:, None], columns]


def picked(flow: Flow, columns: Tensor) -> Flow:
    """A flow of some columns (B, W)."""
    return replace(flow, x=pick(flow.x, columns), ctx=narrowed(flow.ctx, columns))


def can_narrow(item: Item | None, stack: Stack) -> TypeGuard[Step]:
    """Whether an item can be run for some columns: one whole layer with attention that reads the
    stream through a norm."""
    if not isinstance(item, Step) or item.part != "both":
        return False
    layer = stack.layer(item.layer)
    return type(layer.attn) is Attention and layer.config.block != "post"


def step(stack: Stack, item: Step, flow: Flow, columns: Tensor) -> Flow:
    """One layer, which `can_narrow`, for `columns` (B, W) of a flow alone."""
    layer = stack.layer(item.layer)
    x, ctx = flow.x.to(layer.device), flow.ctx.to(layer.device)
    attn = layer.attn
    assert isinstance(attn, Attention)
    with on(layer.device):
        k, v = attn.keys_and_values(layer.attn_norm(x), ctx)
        slot = StepSlot(_Given(k.transpose(1, 2), v.transpose(1, 2)))
        asked = picked(Flow(x, ctx, flow.step), columns)
        x = stack.run_layer(layer, asked.x, asked.ctx, slot, NO_TAPS, item.part)
    return replace(asked, x=x, step=flow.step + 1)


def narrowed(ctx: Context, columns: Tensor) -> Context:
    """What a layer needs to know of some columns (B, W) that look at all S."""
    rows = len(columns)

    def some(x: Tensor) -> Tensor:
        return pick(x.expand(rows, *x.shape[1:]), columns)

    def mask(key: MaskKey) -> Tensor:
        found, _ = ctx.masks[key]
        whole = ctx.allowed(key) if found is None else found
        return some(whole.transpose(1, 2).expand(rows, columns_in, -1, -1)).transpose(1, 2)

    columns_in = ctx.positions.shape[1]
    return replace(
        ctx,
        positions=some(ctx.positions),
        lengths=None,
        start=None,
        masks={key: (mask(key), False) for key in ctx.masks},
        rope=[(some(cos), some(sin)) for cos, sin in ctx.rope],
        streams=dict(ctx.streams),
    )
