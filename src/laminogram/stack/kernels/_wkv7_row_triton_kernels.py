"""The Triton kernels of RWKV-7's time mixing for one token of one row, two in all.

`time_mix7_in` goes from the residual to the three products and the first factors of the four
low-rank products; `time_mix7_head` makes, one program a head, everything between those and the
output projection: second factors, removal key, state, group norm, bonus and gate.

Axes: C channels, R rank, H heads, D head size. Import needs Triton.
"""

# Triton kernels take tensors of pointers and blocks, for which Python has no types to write.
# mypy: disallow_untyped_defs=False, disallow_incomplete_defs=False
from __future__ import annotations

import triton
import triton.language as tl

from ._row_triton_kernels import _mixed, _moments, _normed, _tile, _wait

COLUMNS = 16  # of a first factor that one program makes: 32 bytes, the least that memory gives


# fmt: off
@triton.jit
def _column_tile(w, k, c, R, K: tl.constexpr):
    """Rows `k` and columns `c` of a first factor (K, R)."""
    return tl.load(w + k[:, None] * R + c[None, :], mask=(k < K)[:, None] & (c < R)[None, :],
                   other=0.0)


@triton.jit
def _first_factor(
    block, x, gain, shift, last, w1, a1, v1, g1, mw, ma, mv, mg, hidden, RW, RA, RV, RG,
    eps, ew, ea, ev,
    K: tl.constexpr, WIDE: tl.constexpr, COLUMNS: tl.constexpr, BLOCK_R: tl.constexpr,
    PDL: tl.constexpr,
):
    """One block of columns of one of the four first factors."""
    w, R, mix, first, base = w1, RW, mw, block * 0, block * 0
    if block >= ev:
        w, R, mix, first, base = g1, RG, mg, ev, RW + RA + RV
    elif block >= ea:
        w, R, mix, first, base = v1, RV, mv, ea, RW + RA
    elif block >= ew:
        w, R, mix, first, base = a1, RA, ma, ew, RW
    c = (block - first) * COLUMNS + tl.arange(0, COLUMNS)
    k = tl.arange(0, BLOCK_R)
    tile = _column_tile(w, k, c, R, K)
    _wait(PDL)
    mean, scale = _moments(x, eps, K, WIDE, 2)
    acc = tl.zeros((BLOCK_R, COLUMNS), tl.float32)
    for start in range(0, K, BLOCK_R):
        at = start + k
        inside = at < K
        h = _normed(x, at, inside, mean, scale, gain, shift, 0.0, 2)
        before = tl.load(last + at, mask=inside, other=0.0).to(tl.float32)
        acc += tile.to(tl.float32) * _mixed(h, before, mix, at, inside, 2)[:, None]
        if start + BLOCK_R < K:
            tile = _column_tile(w, at + BLOCK_R, c, R, K)
    y = tl.sum(acc, axis=0)
    if block < ew:
        y = 2.0 * tl.sigmoid(2.0 * y) - 1.0
    elif block >= ev:
        y = tl.sigmoid(y)
    tl.store(hidden + base + c, y, mask=c < R)


@triton.jit
def _row_block(
    block, x, gain, shift, last, fresh, wr, wk, wv, mr, mk, mv, out, eps,
    K: tl.constexpr, WIDE: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
    PDL: tl.constexpr,
):
    """One block of rows of r, k or v."""
    each = tl.cdiv(K, BLOCK_N)
    w, mix = wr, mr
    if block >= 2 * each:
        w, mix = wv, mv
    elif block >= each:
        w, mix = wk, mk
    n = (block % each) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    tile = _tile(w, n, k, K, K)
    _wait(PDL)
    mean, scale = _moments(x, eps, K, WIDE, 2)
    acc = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
    for start in range(0, K, BLOCK_K):
        at = start + k
        inside = at < K
        h = _normed(x, at, inside, mean, scale, gain, shift, 0.0, 2)
        if block == 0:
            tl.store(fresh + at, h.to(fresh.dtype.element_ty), mask=inside)
        before = tl.load(last + at, mask=inside, other=0.0).to(tl.float32)
        acc += tile.to(tl.float32) * _mixed(h, before, mix, at, inside, 2)[None, :]
        if start + BLOCK_K < K:
            tile = _tile(w, n, at + BLOCK_K, K, K)
    tl.store(out + (block // each) * K + n, tl.sum(acc, axis=1), mask=n < K)


@triton.jit
def time_mix7_in(
    x, gain, shift, last, fresh, wr, wk, wv, mr, mk, mv, w1, a1, v1, g1, mw, ma, mg,
    out, hidden, RW, RA, RV, RG, eps,
    K: tl.constexpr, WIDE: tl.constexpr, COLUMNS: tl.constexpr, BLOCK_R: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PDL: tl.constexpr,
):
    """r, k, v into `out` (3, K) and tanh(w), a, v, sigmoid(g) into `hidden` (RW + RA + RV + RG).

    The first programs make the low-rank ones, which take longest; RV is 0 where there is none.
    """
    pid = tl.program_id(0)
    ew = tl.cdiv(RW, COLUMNS)
    ea = ew + tl.cdiv(RA, COLUMNS)
    ev = ea + tl.cdiv(RV, COLUMNS)
    eg = ev + tl.cdiv(RG, COLUMNS)
    if pid < eg:
        _first_factor(pid, x, gain, shift, last, w1, a1, v1, g1, mw, ma, mv, mg, hidden,
                      RW, RA, RV, RG, eps, ew, ea, ev, K, WIDE, COLUMNS, BLOCK_R, PDL)
    else:
        _row_block(pid - eg, x, gain, shift, last, fresh, wr, wk, wv, mr, mk, mv, out, eps,
                   K, WIDE, BLOCK_N, BLOCK_K, PDL)


@triton.jit
def _second(hidden, w2, offset, c, inside, R, C: tl.constexpr, BLOCK_R: tl.constexpr,
            WIDE: tl.constexpr):
    """Channels `c` of `offset + hidden @ w2`, w2 (R, C); `offset` may be None."""
    y = tl.zeros((WIDE,), tl.float32)
    if offset is not None:
        y += tl.load(offset + c, mask=inside, other=0.0).to(tl.float32)
    for start in range(0, R, BLOCK_R):
        j = start + tl.arange(0, BLOCK_R)
        h = tl.load(hidden + j, mask=j < R, other=0.0)
        tile = tl.load(w2 + j[:, None] * C + c[None, :], mask=(j < R)[:, None] & inside[None, :],
                       other=0.0)
        y += tl.sum(tile.to(tl.float32) * h[:, None], axis=0)
    return y


@triton.jit
def time_mix7_head(
    rkv, hidden, w0, w2, a0, a2, v0, v2, g2, k_k, k_a, r_k, norm_w, norm_b, v_first, state, out,
    RW, RA, RV, RG, eps,
    C: tl.constexpr, D: tl.constexpr, WIDE: tl.constexpr, BLOCK_R: tl.constexpr,
    PDL: tl.constexpr,
):
    """z (C,) of one head from `time_mix7_in`; state (H, D values, D keys) moves on in place."""
    head = tl.program_id(0)
    d = tl.arange(0, WIDE)
    inside = d < D
    c = head * D + d
    _wait(PDL)
    r = tl.load(rkv + c, mask=inside, other=0.0)
    key = tl.load(rkv + C + c, mask=inside, other=0.0)
    v = tl.load(rkv + 2 * C + c, mask=inside, other=0.0)
    cells = state + head * D * D + d[:, None] * D + d[None, :]
    both = inside[:, None] & inside[None, :]
    held = tl.load(cells, mask=both, other=0.0)
    raw = _second(hidden, w2, w0, c, inside, RW, C, BLOCK_R, WIDE)
    decay = tl.exp(-0.6065306597126334 * tl.sigmoid(raw))
    a = tl.sigmoid(_second(hidden + RW, a2, a0, c, inside, RA, C, BLOCK_R, WIDE))
    if v2 is not None:
        share = tl.sigmoid(_second(hidden + RW + RA, v2, v0, c, inside, RV, C, BLOCK_R, WIDE))
        v += (tl.load(v_first + c, mask=inside, other=0.0).to(tl.float32) - v) * share
    g = _second(hidden + RW + RA + RV, g2, None, c, inside, RG, C, BLOCK_R, WIDE)
    removal = key * tl.load(k_k + c, mask=inside, other=0.0).to(tl.float32)
    removal = removal / tl.maximum(tl.sqrt(tl.sum(removal * removal)), 1e-12)
    key *= 1.0 + (a - 1.0) * tl.load(k_a + c, mask=inside, other=0.0).to(tl.float32)

    found = tl.sum(held * -removal[None, :], axis=1)
    held = held * decay[None, :] + found[:, None] * (removal * a)[None, :]
    held += v[:, None] * key[None, :]
    tl.store(cells, held, mask=both)
    wkv = tl.sum(held * r[None, :], axis=1)
    mean = tl.sum(wkv) / D
    centred = tl.where(inside, wkv - mean, 0.0)
    normed = centred * tl.rsqrt(tl.sum(centred * centred) / D + eps)
    normed = normed * tl.load(norm_w + c, mask=inside, other=0.0).to(tl.float32)
    normed += tl.load(norm_b + c, mask=inside, other=0.0).to(tl.float32)
    bonus = tl.sum(r * key * tl.load(r_k + c, mask=inside, other=0.0).to(tl.float32))
    tl.store(out + c, (normed + bonus * v) * g, mask=inside)
# fmt: on
