"""Triton kernels for one token of several rows: what stands between the products of a decode step.

The products themselves are the library's. A program takes one row. Where weights are fp16, what
enters the product that writes to the residual is brought to a largest entry near 2^-6 by a power of
two, kept in `scales`, and multiplied by it again when it is added (`linear_wide` does the same).

Axes: B rows, C channels, A width of RWKV-4's time mixing, F channels of the channel mixer. Import
needs Triton.
"""

# Triton kernels take tensors of pointers and blocks, for which Python has no types to write.
# mypy: disallow_untyped_defs=False, disallow_incomplete_defs=False
from __future__ import annotations

import triton
import triton.language as tl

from ._row_triton_kernels import _activated, _shared, _wait, _wkv4_step


# fmt: off
@triton.jit
def norm_rows(
    x, gain, shift, last, m0, m1, m2, o0, o1, o2, eps, offset,
    C: tl.constexpr, WIDE: tl.constexpr, NORM: tl.constexpr, SHIFT: tl.constexpr,
    COUNT: tl.constexpr, PDL: tl.constexpr,
):
    """The normalised rows (B, C), shifted COUNT ways; `last` (B, C) moves on."""
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
    r, key, value, decay, bonus, state, z, scales,
    A: tl.constexpr, WIDE: tl.constexpr, SCALED: tl.constexpr, PDL: tl.constexpr,
):
    """RWKV-4's `sigmoid(r) * wkv`: z (B, A); state (B, 3, A) moves on."""
    row = tl.program_id(0).to(tl.int64)
    n = tl.arange(0, WIDE)
    here = n < A
    w = -tl.exp(tl.load(decay + n, mask=here, other=0.0).to(tl.float32))
    u = tl.load(bonus + n, mask=here, other=0.0).to(tl.float32)
    _wait(PDL)
    r = tl.sigmoid(tl.load(r + row * A + n, mask=here, other=0.0).to(tl.float32))
    k = tl.load(key + row * A + n, mask=here, other=0.0).to(tl.float32)
    v = tl.load(value + row * A + n, mask=here, other=0.0).to(tl.float32)
    wkv = _wkv4_step(k, v, w, u, state + row * 3 * A, n, here, A)
    _narrow(tl.where(here, r * wkv, 0.0), z, scales, row, n, here, A, SCALED)


@triton.jit
def add_rows(
    y, scales, gate, x, out, added,
    C: tl.constexpr, WIDE: tl.constexpr, SCALED: tl.constexpr, PDL: tl.constexpr,
):
    """`x + sigmoid(gate) * y * scale`, and what was added where it is wanted."""
    row = tl.program_id(0).to(tl.int64)
    k = tl.arange(0, WIDE)
    inside = k < C
    at = row * C + k
    _wait(PDL)
    h = tl.load(y + at, mask=inside, other=0.0).to(tl.float32)
    if SCALED:
        h *= tl.load(scales + row)
    if gate is not None:
        h *= tl.sigmoid(tl.load(gate + at, mask=inside, other=0.0).to(tl.float32))
    if added is not None:
        tl.store(added + at, h.to(added.dtype.element_ty), mask=inside)
    h += tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + at, h.to(out.dtype.element_ty), mask=inside)
# fmt: on
