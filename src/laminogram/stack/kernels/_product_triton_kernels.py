"""Triton kernels for products of many tokens that end in more than a sum.

A program makes one tile of the result: it reads tiles of its inputs by tensor descriptors, which
fill what lies outside with zeros and leave it out when they store, multiplies them on tensor cores
with fp32 sums, and finishes the sums while they are still in registers: nothing is rounded, written
or read between a product and what follows it. Programs that run together share tiles: the grid goes
down GROUP rows of tiles before it goes on to the next column.

Axes: M tokens, K inputs, N outputs, F channels of a gated MLP. Import needs Triton.
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
    """`act(x g') * (x u')` (M, F) for x (M, K) and w (2 F, K): the rows of g, then those of u."""
    m, n = _place(M, F, BLOCK_M, BLOCK_N, GROUP)
    gate = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    up = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for k in range(0, K, BLOCK_K):
        h = x.load([m, k])
        gate = tl.dot(h, w.load([n, k]).T, gate)
        up = tl.dot(h, w.load([F + n, k]).T, up)
    out.store([m, n], (_activated(gate, ACT) * up).to(out.dtype))


@triton.jit
def added_product(
    z, w, x, out, M, N, K,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
):
    """`x + z w'` (M, N) for z (M, K) and w (N, K)."""
    m, n = _place(M, N, BLOCK_M, BLOCK_N, GROUP)
    y = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for k in range(0, K, BLOCK_K):
        y = tl.dot(z.load([m, k]), w.load([n, k]).T, y)
    out.store([m, n], (x.load([m, n]).to(tl.float32) + y).to(out.dtype))
# fmt: on
