"""A Triton kernel for one product of one token whose inputs are mostly zero.

The weight lies input by input (K, N), and only rows whose input is not zero are loaded: a masked
lane asks memory for nothing, and a row is masked as a whole. No program knows before the kernel
before it has ended which rows those are, so nothing is asked for ahead; many small programs are in
flight instead. Each sums a share of the inputs for a block of outputs; the last of a block adds
the shares in their order, so that a sum is the same every time.

Import needs Triton.
"""

# Triton kernels take tensors of pointers and blocks, for which Python has no types to write.
# mypy: disallow_untyped_defs=False, disallow_incomplete_defs=False
from __future__ import annotations

import triton
import triton.language as tl

from ._row_triton_kernels import _give_back, _wait


# fmt: off
@triton.jit
def add_back(
    z, w, bias, gate, x, out, added, fresh, last, shares, counter, N,
    K: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, SHARE: tl.constexpr,
    PARTS: tl.constexpr, WIDE: tl.constexpr, PDL: tl.constexpr,
):
    """`x + gate * (z w)` of a weight (K, N); `shares` (PARTS, N) is working memory."""
    block, part = tl.program_id(0), tl.program_id(1)
    n = block * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    here = n < N
    _wait(PDL)
    acc = tl.zeros((BLOCK_K, BLOCK_N), tl.float32)
    for step in tl.static_range(0, SHARE, BLOCK_K):
        at = part * SHARE + step + k
        h = tl.load(z + at, mask=at < K, other=0.0).to(tl.float32)
        rows = w + at.to(tl.int64)[:, None] * N + n[None, :]
        tile = tl.load(rows, mask=(h != 0.0)[:, None] & here[None, :], other=0.0)
        acc += tile.to(tl.float32) * h[:, None]
    y = tl.sum(acc, axis=0)
    tl.store(shares + part * N + n, y, mask=here)
    tl.debug_barrier()
    if tl.atomic_add(counter + block, 1, sem="acq_rel") == PARTS - 1:
        p = tl.arange(0, WIDE)
        every = shares + p[:, None] * N + n[None, :]
        some = tl.load(every, mask=(p < PARTS)[:, None] & here[None, :], other=0.0)
        _give_back(tl.sum(some, axis=0), n, N, bias, gate, x, out, added, fresh, last)
        tl.store(counter + block, 0)
# fmt: on
