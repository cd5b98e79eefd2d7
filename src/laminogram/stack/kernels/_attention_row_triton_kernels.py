"""The Triton kernel of attention for one new token a row over a cache of fixed size.

A program takes one row, one key head with all the query heads that share it, and one part of the
row's past. It turns the new queries and key by their rotary angles, writes key and value to the
cache where its part holds their place, and folds its part into a running softmax. The last program
of a head joins the parts (a counter says which it is, and is left at zero). How long a row is comes
from its position on the device, so one captured step serves every length.

Axes: B rows, H heads, K key heads, G = H / K, D head size, S columns. Import needs Triton.
"""

# Triton kernels take tensors of pointers and blocks, for which Python has no types to write.
# mypy: disallow_untyped_defs=False, disallow_incomplete_defs=False
from __future__ import annotations

import triton
import triton.language as tl

from ._row_triton_kernels import _wait


# fmt: off
@triton.jit
def _turned(x, cos, sin, d, HALF: tl.constexpr, mask):
    """Entries `d` of a head in fp32, the first 2 * HALF of them turned."""
    y = tl.load(x + d, mask=mask, other=0.0).to(tl.float32)
    if HALF > 0:
        turns = mask & (d < 2 * HALF)
        partner = tl.where(d < HALF, d + HALF, d - HALF)
        other = tl.load(x + partner, mask=turns, other=0.0).to(tl.float32)
        c = tl.load(cos + d, mask=turns, other=1.0).to(tl.float32)
        s = tl.load(sin + d, mask=turns, other=0.0).to(tl.float32)
        y = y * c + other * s
    return y


@triton.jit
def _join(top, mass, acc, parts, SPLITS: tl.constexpr, GROUP: tl.constexpr, WIDE: tl.constexpr):
    """The softmax over all parts from the parts' maxima, sums and unscaled answers."""
    g, d = tl.arange(0, GROUP), tl.arange(0, WIDE)
    high = tl.full((GROUP,), float("-inf"), tl.float32)
    total = tl.zeros((GROUP,), tl.float32)
    out = tl.zeros((GROUP, WIDE), tl.float32)
    for part in range(SPLITS):
        at = (parts + part) * GROUP + g
        # Past the first-level cache, which does not see what other programs wrote.
        here = tl.load(top + at, cache_modifier=".cg")
        weight = tl.load(mass + at, cache_modifier=".cg")
        rows = tl.load(acc + at[:, None] * WIDE + d[None, :], cache_modifier=".cg")
        new = tl.maximum(high, here)
        keep, join = tl.exp(high - new), tl.exp(here - new)
        total = total * keep + weight * join
        out = out * keep[:, None] + rows * join[:, None]
        high = new
    return out / total[:, None]


@triton.jit
def _ask_for_past(keys, values, begin, end, column, AHEAD: tl.constexpr):
    """Bring the first AHEAD columns of a part of the cache into the second-level cache."""
    s = tl.minimum(begin + tl.arange(0, AHEAD), tl.maximum(end - 1, 0)) * column
    for past in tl.static_range(2):
        tl.inline_asm_elementwise(
            "prefetch.global.L2 [$1]; mov.b32 $0, 0;", "=r,l",
            [(keys if past == 0 else values) + s], dtype=tl.int32, is_pure=False, pack=1,
        )


@triton.jit
def attention_row(
    q, k, v, cos, sin, positions, keys, values, out, tops, masses, acc, counter,
    position_row, q_row, kv_row, turn_row, key_batch, key_head, key_column, scale, window,
    K: tl.constexpr, G: tl.constexpr, D: tl.constexpr, HALF: tl.constexpr,
    GROUP: tl.constexpr, WIDE: tl.constexpr, BLOCK_S: tl.constexpr, SPLITS: tl.constexpr,
    AHEAD: tl.constexpr, PDL: tl.constexpr,
):
    """One new token a row; q (B, H * D), k and v (B, K * D) are not turned yet."""
    row, head, part = tl.program_id(0) // K, tl.program_id(0) % K, tl.program_id(1)
    g, d, s = tl.arange(0, GROUP), tl.arange(0, WIDE), tl.arange(0, BLOCK_S)
    # Positions and the past were written a step ago: nothing to wait for.
    place = tl.load(positions + row * position_row).to(tl.int32)
    begin = tl.maximum(place + 1 - window, 0)
    share = tl.cdiv(tl.cdiv(place + 1 - begin, SPLITS), BLOCK_S) * BLOCK_S
    begin = begin + part * share
    end = tl.minimum(begin + share, place + 1)
    keys += row.to(tl.int64) * key_batch + head.to(tl.int64) * key_head
    values += row.to(tl.int64) * key_batch + head.to(tl.int64) * key_head
    if PDL and AHEAD > 0:
        _ask_for_past(keys, values, begin, end, key_column, AHEAD)
    _wait(PDL)
    cos, sin = cos + row * turn_row, sin + row * turn_row
    queries = (g < G)[:, None] & (d < D)[None, :]
    which = tl.minimum(g, G - 1)[:, None] * D + tl.zeros_like(d)[None, :]
    at = q + row * q_row + head * G * D
    turned = _turned(at + which, cos, sin, d[None, :] + tl.zeros_like(g)[:, None], HALF, queries)
    turned = turned.to(keys.dtype.element_ty)
    new_k = _turned(k + row * kv_row + head * D, cos, sin, d, HALF, d < D)
    new_k = new_k.to(keys.dtype.element_ty)
    new_v = tl.load(v + row * kv_row + head * D + d, mask=d < D, other=0.0)
    new_v = new_v.to(values.dtype.element_ty)
    if (place >= begin) & (place < end):
        tl.store(keys + place * key_column + d, new_k, mask=d < D)
        tl.store(values + place * key_column + d, new_v, mask=d < D)
    tl.debug_barrier()  # this program reads them again, with the rest of its part
    high = tl.full((GROUP,), float("-inf"), tl.float32)
    total = tl.zeros((GROUP,), tl.float32)
    answer = tl.zeros((GROUP, WIDE), tl.float32)
    for start in range(begin, end, BLOCK_S):
        column = start + s
        inside = (column < end)[:, None] & (d < D)[None, :]
        where = column[:, None] * key_column + d[None, :]
        tile = tl.load(keys + where, mask=inside, other=0.0)
        scores = tl.dot(turned, tl.trans(tile), input_precision="ieee") * scale
        scores = tl.where((column < end)[None, :], scores, float("-inf"))
        top = tl.maximum(high, tl.max(scores, axis=1))
        keep = tl.exp(high - top)
        weights = tl.exp(scores - top[:, None])
        tile = tl.load(values + where, mask=inside, other=0.0)
        total = total * keep + tl.sum(weights, axis=1)
        answer = answer * keep[:, None]
        answer += tl.dot(weights.to(tile.dtype), tile, input_precision="ieee")
        high = top
    target = out + row * K * G * D + head * G * D + g[:, None] * D + d[None, :]
    if SPLITS == 1:
        answer = answer / total[:, None]
        tl.store(target, answer.to(out.dtype.element_ty), mask=queries)
    else:
        parts = tl.program_id(0) * SPLITS
        mine = (parts + part) * GROUP + g
        tl.store(tops + mine, high)
        tl.store(masses + mine, total)
        tl.store(acc + mine[:, None] * WIDE + d[None, :], answer)
        tl.debug_barrier()
        if tl.atomic_add(counter + tl.program_id(0), 1, sem="acq_rel") == SPLITS - 1:
            answer = _join(tops, masses, acc, parts, SPLITS, GROUP, WIDE)
            tl.store(target, answer.to(out.dtype.element_ty), mask=queries)
            tl.store(counter + tl.program_id(0), 0)
# fmt: on
