"""`row_triton.add_back` where most inputs are zero: only the rows of the others are read.

The arithmetic is that of `row_naive.add_back_naive`, but that zero times a weight is zero, also for
one that is not finite. The module imports without Triton.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .row_naive import RowProduct, RowShift
from .row_triton import _kernels, power_of_two, started


class SkipTiles(NamedTuple):
    """How the product is cut: outputs and inputs of a tile, inputs of a program, and its warps."""

    outputs: int
    inputs: int
    share: int
    warps: int


TILES = SkipTiles(128, 32, 128, 2)
Counter = Callable[[int, torch.device], Tensor]
"""From a size and a device to int32 zeros that the kernel leaves as zeros: `StepSlot.counter`."""


def add_back_skipping(
    z: Tensor,
    product: RowProduct,
    x: Tensor,
    counter: Counter,
    gate: Tensor | None = None,
    shift: RowShift | None = None,
    *,
    keep: bool = False,
    tiles: SkipTiles | None = None,
) -> tuple[Tensor, Tensor | None]:
    """`x + gate * (weight z + bias)`, shaped as x, and with `keep` what was added.

    The weight (N, K) lies in memory as (K, N) (`matvec.lies_by_inputs`). The token shift that
    `project` began moves on.
    """
    tiles = tiles or TILES
    outputs, inputs = product.weight.shape
    blocks, parts = -(-outputs // tiles.outputs), -(-inputs // tiles.share)
    out = torch.empty_like(x)
    added = torch.empty_like(x) if keep else None
    shares = torch.empty(parts, outputs, device=x.device, dtype=torch.float32)
    _kernels("skip").add_back[(blocks, parts)](
        z,
        product.weight.t(),
        product.bias,
        gate,
        x,
        out,
        added,
        None if shift is None else shift.fresh,
        None if shift is None else shift.last,
        shares,
        counter(blocks, x.device),
        outputs,
        K=inputs,
        BLOCK_N=tiles.outputs,
        BLOCK_K=tiles.inputs,
        SHARE=tiles.share,
        PARTS=parts,
        WIDE=power_of_two(parts),
        **started(tiles.warps),
    )
    return out, added
