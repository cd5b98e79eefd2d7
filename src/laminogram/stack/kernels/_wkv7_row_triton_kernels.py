"""The Triton kernels of RWKV-7's time mixing for one token of one row, two in all.

`time_mix7_in` goes from the residual to the three products and to sums that make up the first
factors of the four low-rank products; `time_mix7_head` makes everything between those and the
output projection: second factors, removal key, state, group norm, bonus and gate. A head is shared
by several programs, each with some of its values (rows of the state do not depend on each other);
what belongs to keys each of them makes anew, and the last one done normalises the head's answer.

Axes: C channels, R rank, H heads, D head size. Import needs Triton.
"""

# Triton kernels take tensors of pointers and blocks, for which Python has no types to write.
# mypy: disallow_untyped_defs=False, disallow_incomplete_defs=False
from __future__ import annotations

import triton
import triton.language as tl

from ._row_triton_kernels import _mixed, _moments, _normed, _tile, _wait


# fmt: off
@triton.jit
def _first_factor(
    block, x, gain, shift, last, w1, a1, v1, g1, mw, ma, mv, mg, sums, RW, RA, RV, RG,
    eps, ew, ea, ev,
    K: tl.constexpr, WIDE: tl.constexpr, COLUMNS: tl.constexpr, BLOCK_R: tl.constexpr,
    PARTS: tl.constexpr, PDL: tl.constexpr,
):
    """A block of columns of one of the four first factors, over one part of the inputs."""
    part = block % PARTS
    block = block // PARTS
    w, R, mix, first, base = w1, RW, mw, block * 0, block * 0
    if block >= ev:
        w, R, mix, first, base = g1, RG, mg, ev, RW + RA + RV
    elif block >= ea:
        w, R, mix, first, base = v1, RV, mv, ea, RW + RA
    elif block >= ew:
        w, R, mix, first, base = a1, RA, ma, ew, RW
    c = (block - first) * COLUMNS + tl.arange(0, COLUMNS)
    k = part * BLOCK_R + tl.arange(0, BLOCK_R)
    inside = k < K
    tile = tl.load(w + k[:, None] * R + c[None, :], mask=inside[:, None] & (c < R)[None, :],
                   other=0.0)
    _wait(PDL)
    mean, scale = _moments(x, eps, K, WIDE, 2)
    h = _normed(x, k, inside, mean, scale, gain, shift, 0.0, 2)
    before = tl.load(last + k, mask=inside, other=0.0).to(tl.float32)
    y = tl.sum(tile.to(tl.float32) * _mixed(h, before, mix, k, inside, 2)[:, None], axis=0)
    tl.store(sums + part * (RW + RA + RV + RG) + base + c, y, mask=c < R)


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
    out, sums, RW, RA, RV, RG, eps,
    K: tl.constexpr, WIDE: tl.constexpr, COLUMNS: tl.constexpr, BLOCK_R: tl.constexpr,
    PARTS: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PDL: tl.constexpr,
):
    """r, k, v into `out` (3, K); first factors of w, a, v, g by parts of the inputs into `sums`.

    sums (PARTS, RW + RA + RV + RG) is to be added up; RV is 0 where there is none.
    """
    pid = tl.program_id(0)
    ew = tl.cdiv(RW, COLUMNS)
    ea = ew + tl.cdiv(RA, COLUMNS)
    ev = ea + tl.cdiv(RV, COLUMNS)
    low = (ev + tl.cdiv(RG, COLUMNS)) * PARTS
    if pid < low:
        _first_factor(pid, x, gain, shift, last, w1, a1, v1, g1, mw, ma, mv, mg, sums,
                      RW, RA, RV, RG, eps, ew, ea, ev, K, WIDE, COLUMNS, BLOCK_R, PARTS, PDL)
    else:
        _row_block(pid - low, x, gain, shift, last, fresh, wr, wk, wv, mr, mk, mv, out, eps,
                   K, WIDE, BLOCK_N, BLOCK_K, PDL)


@triton.jit
def _factor(w2, c, inside, R: tl.constexpr, C: tl.constexpr, RANKS: tl.constexpr):
    """Columns `c` of a second factor (R, C), all of its rows."""
    j = tl.arange(0, RANKS)
    return tl.load(w2 + j[:, None] * C + c[None, :], mask=(j < R)[:, None] & inside[None, :],
                   other=0.0)


@triton.jit
def _hidden(sums, begin, R: tl.constexpr, TOTAL: tl.constexpr, RANKS: tl.constexpr,
            PARTS: tl.constexpr, KIND: tl.constexpr):
    """A first factor (R,) from its parts, activated: 1 tanh, 2 sigmoid."""
    j = tl.arange(0, RANKS)
    part = tl.arange(0, PARTS)
    at = sums + part[:, None] * TOTAL + begin + j[None, :]
    y = tl.sum(tl.load(at, mask=(j < R)[None, :] & (part < PARTS)[:, None], other=0.0), axis=0)
    if KIND == 1:
        y = 2.0 * tl.sigmoid(2.0 * y) - 1.0
    elif KIND == 2:
        y = tl.sigmoid(y)
    return y


@triton.jit
def _times(h, tile):
    """`h (R,) @ tile (R, N)`."""
    return tl.sum(tile.to(tl.float32) * h[:, None], axis=0)


@triton.jit
def _answer(wkv, v_bonus, g, norm_w, norm_b, out, c, inside, D: tl.constexpr, eps):
    """Group norm of a head's answer, bonus and gate: what enters the output projection."""
    mean = tl.sum(wkv) / D
    centred = tl.where(inside, wkv - mean, 0.0)
    y = centred * tl.rsqrt(tl.sum(centred * centred) / D + eps)
    y = y * tl.load(norm_w + c, mask=inside, other=0.0).to(tl.float32)
    y += tl.load(norm_b + c, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + c, (y + v_bonus) * g, mask=inside)


@triton.jit
def time_mix7_head(
    rkv, sums, w0, w2, a0, a2, v0, v2, g2, k_k, k_a, r_k, norm_w, norm_b, v_first, state, out,
    work, counter, eps,
    RW: tl.constexpr, RA: tl.constexpr, RV: tl.constexpr, RG: tl.constexpr,
    WIDE_W: tl.constexpr, WIDE_A: tl.constexpr, WIDE_V: tl.constexpr, WIDE_G: tl.constexpr,
    PARTS: tl.constexpr, C: tl.constexpr, D: tl.constexpr, WIDE: tl.constexpr,
    SPLITS: tl.constexpr, PDL: tl.constexpr,
):
    """z (C,) from `time_mix7_in`; state (H, D values, D keys) moves on in place.

    work (3, C) and counter (H,) int32 zeros, left as zeros, serve where a head is shared.
    """
    head = tl.program_id(0)
    d = tl.arange(0, WIDE)
    i = tl.program_id(1) * (WIDE // SPLITS) + tl.arange(0, WIDE // SPLITS)
    keys, values = d < D, i < D
    c, n = head * D + d, head * D + i
    w_tile, a_tile = _factor(w2, c, keys, RW, C, WIDE_W), _factor(a2, c, keys, RA, C, WIDE_A)
    g_tile = _factor(g2, n, values, RG, C, WIDE_G)
    if v2 is not None:
        v_tile = _factor(v2, n, values, RV, C, WIDE_V)
    cells = state + head * D * D + i[:, None] * D + d[None, :]
    both = values[:, None] & keys[None, :]
    held = tl.load(cells, mask=both, other=0.0)
    _wait(PDL)
    TOTAL: tl.constexpr = RW + RA + RV + RG
    r = tl.load(rkv + c, mask=keys, other=0.0)
    key = tl.load(rkv + C + c, mask=keys, other=0.0)
    v = tl.load(rkv + 2 * C + n, mask=values, other=0.0)
    w = tl.load(w0 + c, mask=keys, other=0.0).to(tl.float32)
    w += _times(_hidden(sums, 0, RW, TOTAL, WIDE_W, PARTS, 1), w_tile)
    decay = tl.exp(-0.6065306597126334 * tl.sigmoid(w))
    a = tl.load(a0 + c, mask=keys, other=0.0).to(tl.float32)
    a = tl.sigmoid(a + _times(_hidden(sums, RW, RA, TOTAL, WIDE_A, PARTS, 0), a_tile))
    if v2 is not None:
        share = tl.load(v0 + n, mask=values, other=0.0).to(tl.float32)
        share += _times(_hidden(sums, RW + RA, RV, TOTAL, WIDE_V, PARTS, 0), v_tile)
        first = tl.load(v_first + n, mask=values, other=0.0).to(tl.float32)
        v += (first - v) * tl.sigmoid(share)
    g = _times(_hidden(sums, RW + RA + RV, RG, TOTAL, WIDE_G, PARTS, 2), g_tile)
    removal = key * tl.load(k_k + c, mask=keys, other=0.0).to(tl.float32)
    removal = removal / tl.maximum(tl.sqrt(tl.sum(removal * removal)), 1e-12)
    key *= 1.0 + (a - 1.0) * tl.load(k_a + c, mask=keys, other=0.0).to(tl.float32)

    found = tl.sum(held * -removal[None, :], axis=1)
    held = held * decay[None, :] + found[:, None] * (removal * a)[None, :]
    held += v[:, None] * key[None, :]
    tl.store(cells, held, mask=both)
    wkv = tl.sum(held * r[None, :], axis=1)
    bonus = tl.sum(r * key * tl.load(r_k + c, mask=keys, other=0.0).to(tl.float32))
    if SPLITS == 1:
        _answer(wkv, bonus * v, g, norm_w, norm_b, out, n, values, D, eps)
    else:
        tl.store(work + n, wkv, mask=values)
        tl.store(work + C + n, bonus * v, mask=values)
        tl.store(work + 2 * C + n, g, mask=values)
        tl.debug_barrier()
        if tl.atomic_add(counter + head, 1, sem="acq_rel") == SPLITS - 1:
            # Past the first-level cache, which does not see what other programs wrote.
            wkv_all = tl.load(work + c, mask=keys, other=0.0, cache_modifier=".cg")
            v_bonus = tl.load(work + C + c, mask=keys, other=0.0, cache_modifier=".cg")
            gate = tl.load(work + 2 * C + c, mask=keys, other=0.0, cache_modifier=".cg")
            _answer(wkv_all, v_bonus, gate, norm_w, norm_b, out, c, keys, D, eps)
            tl.store(counter + head, 0)
# fmt: on
