"""The Triton kernel for the product of many tokens that ends in a gate.

A program makes tiles of the result: it reads tiles of its inputs by tensor descriptors, which fill
what lies outside with zeros and leave it out when they store, multiplies them on tensor cores with
fp32 sums, and finishes the sums while they are still in registers: nothing is rounded, written or
read between a product and what follows it. There are as many programs as processors, and each goes
on to its next tile as one loop: the inputs of that are on their way while the last one is finished.
Programs that run together share tiles: they go down GROUP rows of tiles before they go on to the
next column.

Axes: M tokens, K inputs, F channels of a gated MLP. Import needs Triton.
"""

# Triton kernels take tensors of pointers and blocks, for which Python has no types to write.
# mypy: disallow_untyped_defs=False, disallow_incomplete_defs=False
from __future__ import annotations

import triton
import triton.language as tl

from ._row_triton_kernels import _activated


# fmt: off
@triton.jit
def _place(tile, M, N, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, GROUP: tl.constexpr):
    """The first row and column of a tile of a result (M, N)."""
    rows, columns = tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N)
    first = tile // (GROUP * columns) * GROUP
    inside = tile % (GROUP * columns)
    height = tl.minimum(rows - first, GROUP)
    return (first + inside % height) * BLOCK_M, inside // height * BLOCK_N


@triton.jit
def gated_product(
    x, w, out, M, F, K, ACT: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
    PROGRAMS: tl.constexpr,
):
    """`act(x g') * (x u')` (M, F) for x (M, K) and w (2, F, K), which is g and u.

    A tile of g stands above the one of u, so that both are one product twice as wide."""
    tiles = tl.cdiv(M, BLOCK_M) * tl.cdiv(F, BLOCK_N)
    for tile in tl.range(tl.program_id(0), tiles, PROGRAMS, flatten=True):
        m, n = _place(tile, M, F, BLOCK_M, BLOCK_N, GROUP)
        both = tl.zeros((BLOCK_M, 2 * BLOCK_N), tl.float32)
        for k in range(0, K, BLOCK_K):
            halves = w.load([0, n, k]).reshape(2 * BLOCK_N, BLOCK_K)
            both = tl.dot(x.load([m, k]), halves.T, both)
        gate, up = tl.split(both.reshape(BLOCK_M, 2, BLOCK_N).permute(0, 2, 1))
        out.store([m, n], (_activated(gate, ACT) * up).to(out.dtype))
# fmt: on
