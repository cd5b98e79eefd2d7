"""The Triton kernel for the product of many tokens that ends in a gate.

A program makes one tile of the result: it reads tiles of its inputs by tensor descriptors, which
fill what lies outside with zeros and leave it out when they store, multiplies them on tensor cores
with fp32 sums, and finishes the sums while they are still in registers: nothing is rounded, written
or read between a product and what follows it. Programs that run together share tiles: the grid goes
down GROUP rows of tiles before it goes on to the next column.

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
def _place(M, N, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, GROUP: tl.constexpr):
    """The first row and column of this program's tile of a result (M, N)."""
    pid = tl.program_id(0)
    rows, columns = tl.cdiv(M, BLOCK_M), tl.cdiv(N, BLOCK_N)
    first = pid // (GROUP * columns) * GROUP
    inside = pid % (GROUP * columns)
    height = tl.minimum(rows - first, GROUP)
    return (first + inside % height) * BLOCK_M, inside // height * BLOCK_N


@triton.jit
def gated_product(
    x, w, out, M, F, K, ACT: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
):
    """`act(x g') * (x u')` (M, F) for x (M, K) and w (2, F, K), which is g and u.

    A tile of g stands above the one of u, so that both are one product twice as wide."""
    m, n = _place(M, F, BLOCK_M, BLOCK_N, GROUP)
    both = tl.zeros((BLOCK_M, 2 * BLOCK_N), tl.float32)
    for k in range(0, K, BLOCK_K):
        tiles = w.load([0, n, k]).reshape(2 * BLOCK_N, BLOCK_K)
        both = tl.dot(x.load([m, k]), tiles.T, both)
    gate, up = tl.split(both.reshape(BLOCK_M, 2, BLOCK_N).permute(0, 2, 1))
    out.store([m, n], (_activated(gate, ACT) * up).to(out.dtype))
# fmt: on
