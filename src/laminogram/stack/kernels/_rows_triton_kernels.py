"""Triton kernels for one token of several rows: what stands between the products of a decode step.

A program takes one row, or a part of it. What a product adds to the residual comes as sums over
shares of its inputs, which whoever reads the residual next adds up in their order: a kernel less,
and no product waits for the last of its programs. Where weights are fp16, what enters that product
is brought to a largest entry near 2^-6 by a power of two, kept in `scales`, and multiplied by it
again when it is added (`linear_wide` does the same).

Axes: B rows, C channels, A width of RWKV-4's time mixing, F channels of the channel mixer, S shares
of a product's inputs. Import needs Triton.
"""

# Triton kernels take tensors of pointers and blocks, for which Python has no types to write.
# mypy: disallow_untyped_defs=False, disallow_incomplete_defs=False
from __future__ import annotations

import triton
import triton.language as tl

from ._row_triton_kernels import _activated, _shared, _wait, _wkv4_moved, _wkv4_state


# fmt: off
@triton.jit
def _sum(parts, at, apart, inside, SPLITS: tl.constexpr):
    """The sum of SPLITS shares, which lie `apart` entries from each other."""
    total = tl.load(parts + at, mask=inside, other=0.0).to(tl.float32)
    for part in tl.static_range(1, SPLITS):  # all are asked for at once
        total += tl.load(parts + part * apart + at, mask=inside, other=0.0).to(tl.float32)
    return total


@triton.jit
def _update(
    parts, scales, bias, gate, row, at, k, apart, inside, SPLITS: tl.constexpr,
    GATES: tl.constexpr,
):
    """What is added to a row of the residual: the sum of SPLITS shares (S, B, C), scaled, biased
    and gated by that of GATES others where that is wanted."""
    total = _sum(parts, at, apart, inside, SPLITS)
    if scales is not None:
        total *= tl.load(scales + row)
    if bias is not None:
        total += tl.load(bias + k, mask=inside, other=0.0).to(tl.float32)
    if gate is not None:
        total *= tl.sigmoid(_sum(gate, at, apart, inside, GATES))
    return total


@triton.jit
def norm_rows(
    x, parts, scales, bias, gate, out, gain, shift, last, m0, m1, m2, o0, o1, o2, apart, eps,
    offset,
    C: tl.constexpr, WIDE: tl.constexpr, SPLITS: tl.constexpr, GATES: tl.constexpr,
    NORM: tl.constexpr, SHIFT: tl.constexpr, COUNT: tl.constexpr, PDL: tl.constexpr,
):
    """The residual `out` (B, C) after an update of `x` where there is one (SPLITS), and its
    normalised rows, shifted COUNT ways; `last` (B, C) moves on."""
    row = tl.program_id(0).to(tl.int64)
    k = tl.arange(0, WIDE)
    inside = k < C
    at = row * C + k
    # What the kernel before does not write: parameters, and the token before, which is a step old.
    weight = tl.load(gain + k, mask=inside, other=0.0).to(tl.float32) + offset
    base, before = tl.zeros_like(weight), tl.zeros_like(weight)
    if shift is not None:
        base = tl.load(shift + k, mask=inside, other=0.0).to(tl.float32)
    s0, s1, s2 = base, base, base
    if SHIFT != 0:
        before = tl.load(last + at, mask=inside, other=0.0).to(tl.float32)
        s0 = tl.load(m0 + k, mask=inside, other=0.0).to(tl.float32)
        if COUNT > 1:
            s1 = tl.load(m1 + k, mask=inside, other=0.0).to(tl.float32)
        if COUNT > 2:
            s2 = tl.load(m2 + k, mask=inside, other=0.0).to(tl.float32)
    _wait(PDL)
    h = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    if SPLITS > 0:
        h += _update(parts, scales, bias, gate, row, at, k, apart, inside, SPLITS, GATES)
        rounded = h.to(out.dtype.element_ty)
        tl.store(out + at, rounded, mask=inside)
        h = rounded.to(tl.float32)
    mean = 0.0
    if NORM == 2:
        mean = tl.sum(h) / C
    centred = tl.where(inside, h - mean, 0.0)
    scale = tl.rsqrt(tl.sum(centred * centred) / C + eps)
    h = centred * scale * weight + base
    if SHIFT != 0:
        tl.store(last + at, h.to(last.dtype.element_ty), mask=inside)
    tl.store(o0 + at, _shared(h, before, s0, SHIFT).to(o0.dtype.element_ty), mask=inside)
    if COUNT > 1:
        tl.store(o1 + at, _shared(h, before, s1, SHIFT).to(o1.dtype.element_ty), mask=inside)
    if COUNT > 2:
        tl.store(o2 + at, _shared(h, before, s2, SHIFT).to(o2.dtype.element_ty), mask=inside)


@triton.jit
def add_rows(
    x, parts, scales, bias, gate, out, added, apart,
    C: tl.constexpr, WIDE: tl.constexpr, SPLITS: tl.constexpr, GATES: tl.constexpr,
    PDL: tl.constexpr,
):
    """The residual (B, C) after an update of `x`, and what was added where it is wanted."""
    row = tl.program_id(0).to(tl.int64)
    k = tl.arange(0, WIDE)
    inside = k < C
    at = row * C + k
    _wait(PDL)
    h = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    update = _update(parts, scales, bias, gate, row, at, k, apart, inside, SPLITS, GATES)
    if added is not None:
        tl.store(added + at, update.to(added.dtype.element_ty), mask=inside)
    tl.store(out + at, (h + update).to(out.dtype.element_ty), mask=inside)


@triton.jit
def _narrow(y, z, scales, row, k, inside, SIZE: tl.constexpr, SCALED: tl.constexpr):
    """Store a row (SIZE,) as it enters a product, by a power of two where its range is short."""
    if SCALED:
        top = tl.maximum(tl.max(tl.abs(y)), 1e-30)
        scale = tl.exp2(tl.floor(tl.log2(top)) + 7.0)
        tl.store(scales + row, scale)
        y = y / scale
    tl.store(z + row * SIZE + k, y.to(z.dtype.element_ty), mask=inside)


@triton.jit
def act_rows(
    x, gate, z, scales, apart,
    F: tl.constexpr, WIDE: tl.constexpr, ACT: tl.constexpr, SCALED: tl.constexpr,
    PDL: tl.constexpr,
):
    """`act(x)`, times `gate` where there is one: z (B, F)."""
    row = tl.program_id(0).to(tl.int64)
    k = tl.arange(0, WIDE)
    inside = k < F
    _wait(PDL)
    y = _activated(tl.load(x + row * apart + k, mask=inside, other=0.0).to(tl.float32), ACT)
    if gate is not None:
        y *= tl.load(gate + row * apart + k, mask=inside, other=0.0).to(tl.float32)
    _narrow(y, z, scales, row, k, inside, F, SCALED)


@triton.jit
def wkv4_rows(
    r, key, value, decay, bonus, state, z, scales, apart,
    A: tl.constexpr, WIDE: tl.constexpr, R: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
    SCALED: tl.constexpr, PDL: tl.constexpr,
):
    """RWKV-4's `sigmoid(r) * wkv` of r, key and value in R, K and V shares (S, B, A): z (B, A);
    state (B, 3, A) moves on. With SCALED a program takes a whole row."""
    row = tl.program_id(0).to(tl.int64)
    n = tl.program_id(1) * WIDE + tl.arange(0, WIDE)
    here = n < A
    w = -tl.exp(tl.load(decay + n, mask=here, other=0.0).to(tl.float32))
    u = tl.load(bonus + n, mask=here, other=0.0).to(tl.float32)
    state += row * 3 * A
    num, den, top = _wkv4_state(state, n, here, A)  # a step old, as the token shift's
    _wait(PDL)
    r = tl.sigmoid(_sum(r, row * A + n, apart, here, R))
    k = _sum(key, row * A + n, apart, here, K)
    v = _sum(value, row * A + n, apart, here, V)
    wkv = _wkv4_moved(k, v, w, u, num, den, top, state, n, here, A)
    _narrow(tl.where(here, r * wkv, 0.0), z, scales, row, n, here, A, SCALED)
# fmt: on
