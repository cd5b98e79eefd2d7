"""Triton kernels for products of few rows: a weight of 16 bits is read once, for all rows.

A program takes a block of a weight's outputs and a share of its inputs. With PDL it asks for its
part of the weight, which nobody writes, while the kernel before still works, so that memory is busy
between two products; only then it waits for the rows. Where an output's inputs are shared by
several programs, the sums are added up in their order, so the same rows give the same bits: by the
last of them to end (a counter says which it is, and is left at zero), or, of a product that writes
to the residual, by whoever reads that next.

Axes: B rows (padded to ROWS), N outputs, K inputs. Import needs Triton.
"""

# Triton kernels take tensors of pointers and blocks, for which Python has no types to write.
# mypy: disallow_untyped_defs=False, disallow_incomplete_defs=False
from __future__ import annotations

import triton
import triton.language as tl

from ._row_triton_kernels import _activated, _wait


# fmt: off
@triton.jit
def _ask_for(w, n, N, begin, K: tl.constexpr, LINES: tl.constexpr):
    """Bring LINES lines of 64 inputs of a weight's outputs `n` into the second-level cache."""
    k = tl.minimum(begin + tl.arange(0, LINES) * 64, K - 1)
    at = w + tl.minimum(n, N - 1).to(tl.int64)[:, None] * K + k[None, :]
    tl.inline_asm_elementwise(
        "prefetch.global.L2 [$1]; mov.b32 $0, 0;", "=r,l", [at], dtype=tl.int32, is_pure=False,
        pack=1,
    )


@triton.jit
def _sums(
    x, w, n, N, B, begin,
    K: tl.constexpr, SHARE: tl.constexpr, ROWS: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):
    """Sums (BLOCK_N, ROWS) over SHARE inputs from `begin` on."""
    b, k = tl.arange(0, ROWS), tl.arange(0, BLOCK_K)
    acc = tl.zeros((BLOCK_N, ROWS), tl.float32)
    w += n.to(tl.int64)[:, None] * K + begin + k[None, :]
    x += b[None, :] * K + begin + k[:, None]
    outputs, rows = (n < N)[:, None], (b < B)[None, :]
    for start in range(0, SHARE, BLOCK_K):
        here = outputs
        there = rows
        if K % SHARE != 0:
            here = here & (begin + start + k < K)[None, :]
            there = there & (begin + start + k < K)[:, None]
        tile = tl.load(w, mask=here, other=0.0, eviction_policy="evict_first")
        entering = tl.load(x, mask=there, other=0.0, eviction_policy="evict_last")
        acc = tl.dot(tile, entering, acc)
        w += BLOCK_K
        x += BLOCK_K
    return acc


@triton.jit
def _is_last(counter, SPLITS: tl.constexpr):
    """Whether every other program of this block has left its sums; the counter begins anew."""
    tl.debug_barrier()
    last = tl.atomic_add(counter, 1, sem="acq_rel") == SPLITS - 1
    if last:
        tl.store(counter, 0)
    return last


@triton.jit
def _joined(parts, SPLITS: tl.constexpr, BLOCK_N: tl.constexpr, ROWS: tl.constexpr):
    """The sums of all programs of a block, in order."""
    at = tl.arange(0, BLOCK_N)[:, None] * ROWS + tl.arange(0, ROWS)[None, :]
    acc = tl.zeros((BLOCK_N, ROWS), tl.float32)
    for _ in tl.static_range(SPLITS):  # all are asked for at once
        # Past the first-level cache, which does not see what other programs wrote.
        acc += tl.load(parts + at, cache_modifier=".cg")
        parts += BLOCK_N * ROWS
    return acc


@triton.jit
def _leave(acc, parts, part, BLOCK_N: tl.constexpr, ROWS: tl.constexpr):
    at = tl.arange(0, BLOCK_N)[:, None] * ROWS + tl.arange(0, ROWS)[None, :]
    tl.store(parts + part * BLOCK_N * ROWS + at, acc)


@triton.jit
def _finish(acc, n, N, B, bias, out, KIND: tl.constexpr, ROWS: tl.constexpr):
    b = tl.arange(0, ROWS)
    if bias is not None:
        acc += tl.load(bias + n, mask=n < N, other=0.0).to(tl.float32)[:, None]
    y = _activated(acc, KIND).to(out.dtype.element_ty)
    tl.store(out + b[None, :] * N + n[:, None], y, mask=(n < N)[:, None] & (b < B)[None, :])


@triton.jit
def product_rows(
    x0, x1, x2, w0, w1, w2, b0, b1, b2, o0, o1, o2, N0, N1, N2, B, parts, counter,
    K: tl.constexpr, SHARE: tl.constexpr, SPLITS: tl.constexpr, ROWS: tl.constexpr,
    A0: tl.constexpr, A1: tl.constexpr, A2: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, LINES: tl.constexpr, PDL: tl.constexpr,
):
    """Up to three products, each of rows of its own (B, K), one after the other in the grid."""
    pid, part = tl.program_id(0), tl.program_id(1)
    e0 = tl.cdiv(N0, BLOCK_N)
    e1 = e0 + tl.cdiv(N1, BLOCK_N)
    x, w, N, first = x0, w0, N0, pid * 0
    if pid >= e1:
        x, w, N, first = x2, w2, N2, e1
    elif pid >= e0:
        x, w, N, first = x1, w1, N1, e0
    n = (pid - first) * BLOCK_N + tl.arange(0, BLOCK_N)
    if PDL and LINES > 0:
        _ask_for(w, n, N, part * SHARE, K, LINES)
    _wait(PDL)
    acc = _sums(x, w, n, N, B, part * SHARE, K, SHARE, ROWS, BLOCK_N, BLOCK_K)
    last = part == 0
    if SPLITS > 1:
        parts += pid * SPLITS * BLOCK_N * ROWS
        _leave(acc, parts, part, BLOCK_N, ROWS)
        last = _is_last(counter + pid, SPLITS)
    if last:
        if SPLITS > 1:
            acc = _joined(parts, SPLITS, BLOCK_N, ROWS)
        if pid >= e1:
            _finish(acc, n, N, B, b2, o2, A2, ROWS)
        elif pid >= e0:
            _finish(acc, n, N, B, b1, o1, A1, ROWS)
        else:
            _finish(acc, n, N, B, b0, o0, A0, ROWS)


@triton.jit
def gated_rows(
    x, w_gate, w_up, b_gate, b_up, out, N, B,
    K: tl.constexpr, SHARE: tl.constexpr, ROWS: tl.constexpr, ACT: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, LINES: tl.constexpr, PDL: tl.constexpr,
):
    """`act(gate x) * (up x)` of rows (B, K): out (B, N)."""
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    b, k = tl.arange(0, ROWS), tl.arange(0, BLOCK_K)
    if PDL and LINES > 0:
        _ask_for(w_gate, n, N, 0, K, LINES)
        _ask_for(w_up, n, N, 0, K, LINES)
    _wait(PDL)
    gate = tl.zeros((BLOCK_N, ROWS), tl.float32)
    up = tl.zeros((BLOCK_N, ROWS), tl.float32)
    at = n.to(tl.int64)[:, None] * K + k[None, :]
    x += b[None, :] * K + k[:, None]
    for start in range(0, SHARE, BLOCK_K):
        here, there = (n < N)[:, None], (b < B)[None, :]
        if K % SHARE != 0:
            here = here & (start + k < K)[None, :]
            there = there & (start + k < K)[:, None]
        entering = tl.load(x + start, mask=there, other=0.0, eviction_policy="evict_last")
        tile = tl.load(w_gate + at + start, mask=here, other=0.0, eviction_policy="evict_first")
        gate = tl.dot(tile, entering, gate)
        tile = tl.load(w_up + at + start, mask=here, other=0.0, eviction_policy="evict_first")
        up = tl.dot(tile, entering, up)
    if b_gate is not None:
        gate += tl.load(b_gate + n, mask=n < N, other=0.0).to(tl.float32)[:, None]
    if b_up is not None:
        up += tl.load(b_up + n, mask=n < N, other=0.0).to(tl.float32)[:, None]
    y = (_activated(gate, ACT) * up).to(out.dtype.element_ty)
    tl.store(out + b[None, :] * N + n[:, None], y, mask=(n < N)[:, None] & (b < B)[None, :])


@triton.jit
def _of(which, one, two, three):
    """The value of the first, second or third product."""
    return tl.where(which == 0, one, tl.where(which == 1, two, three))


@triton.jit
def _between(one, other):
    """Entries from one tensor to another, which both begin at a multiple of 16 bytes."""
    apart = other.to(tl.int64, bitcast=True) - one.to(tl.int64, bitcast=True)
    return apart // 16 * (128 // one.dtype.element_ty.primitive_bitwidth)


@triton.jit
def share_rows(
    x0, x1, x2, w0, w1, w2, parts, N, B,
    K0: tl.constexpr, K1: tl.constexpr, K2: tl.constexpr, SHARE: tl.constexpr,
    ROWS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, LINES: tl.constexpr,
    PDL: tl.constexpr,
):
    """Sums of up to three products of N outputs each, of rows of their own. Their inputs, tile
    after tile and product after product, are shared equally among the programs of a block: a
    program's sums of product i are left at parts[program + i] of parts (S, B, N)."""
    pid, part = tl.program_id(0), tl.program_id(1)
    n, b, k = pid * BLOCK_N + tl.arange(0, BLOCK_N), tl.arange(0, ROWS), tl.arange(0, BLOCK_K)
    # The tiles at which the second and third product begin, and all end.
    E0: tl.constexpr = (K0 + BLOCK_K - 1) // BLOCK_K
    E1: tl.constexpr = E0 + (K1 + BLOCK_K - 1) // BLOCK_K
    E2: tl.constexpr = E1 + (K2 + BLOCK_K - 1) // BLOCK_K
    x1, x2, w1, w2 = _between(x0, x1), _between(x0, x2), _between(w0, w1), _between(w0, w2)
    begin = part * SHARE
    end = tl.minimum(begin + SHARE, E2)
    outputs, rows = (n < N)[:, None], (b < B)[None, :]
    if PDL and LINES > 0:
        which = tl.where(begin >= E0, 1, 0) + tl.where(begin >= E1, 1, 0)
        inputs = _of(which, K0 // 8, K1 // 8, K2 // 8) * 8
        start = (begin - _of(which, 0, E0, E1)) * BLOCK_K
        _ask_for(w0 + _of(which, 0, w1, w2), n, N, start, inputs, LINES)
    _wait(PDL)
    acc = tl.zeros((BLOCK_N, ROWS), tl.float32)
    for tile in range(begin, end):
        which = tl.where(tile >= E0, 1, 0) + tl.where(tile >= E1, 1, 0)
        inputs = _of(which, K0 // 8, K1 // 8, K2 // 8) * 8
        column = (tile - _of(which, 0, E0, E1)) * BLOCK_K + k
        here, there = outputs, rows
        if K0 % BLOCK_K + K1 % BLOCK_K + K2 % BLOCK_K != 0:
            here = here & (column < inputs)[None, :]
            there = there & (column < inputs)[:, None]
        w = w0 + _of(which, 0, w1, w2) + (n[:, None] * inputs + column[None, :])
        x = x0 + _of(which, 0, x1, x2) + (b[None, :] * inputs + column[:, None])
        weights = tl.load(w, mask=here, other=0.0, eviction_policy="evict_first")
        entering = tl.load(x, mask=there, other=0.0, eviction_policy="evict_last")
        acc = tl.dot(weights, entering, acc)
        if (tile == E0 - 1) | (tile == E1 - 1) | (tile == end - 1):
            at = ((part + which) * B + b[None, :]) * N + n[:, None]
            tl.store(parts + at, acc, mask=outputs & rows)
            acc = tl.zeros((BLOCK_N, ROWS), tl.float32)
# fmt: on
