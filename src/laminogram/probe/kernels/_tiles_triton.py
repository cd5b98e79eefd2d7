"""The Triton kernels behind the one-read statistics. Import needs Triton.

`read_tiles` reads a site (B, T, C) once: each program a span of tokens of one row by a block of
channels. It leaves sums of powers about a center of its own, extrema and counts for every channel
of its span, and the keys of the values that may be among the largest. `fold` joins spans to what
was seen before, pairwise, as `Moments.combine` does.

Axes: B rows, T tokens, C channels, P spans of a row, S slots (a site of a step each).
"""

# Triton kernels take tensors of pointers and blocks, for which Python has no types to write.
# mypy: disallow_untyped_defs=False, disallow_incomplete_defs=False
from __future__ import annotations

import triton
import triton.language as tl


# fmt: off
@triton.jit
def _load(at, t, channel, length, C, EXACT: tl.constexpr):
    """A tile of tokens by channels in fp32, and which of its values count."""
    where = at + t[:, None] * C + channel[None, :]
    if EXACT:
        inside = (t < length)[:, None] & (channel < C)[None, :]
        v = tl.load(where, mask=inside, other=0.0).to(tl.float32)
        return v, inside & (tl.abs(v) < float("inf"))
    v = tl.load(where).to(tl.float32)
    return v, v == v


@triton.jit
def _walk(
    at, first, channel, center, length, threshold, C,
    TOKENS: tl.constexpr, SPAN: tl.constexpr, WIDE: tl.constexpr, EXACT: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Sums of powers about the center, extrema and counts of a span, of each of its lanes."""
    s1 = tl.zeros((TOKENS, BLOCK), WIDE)
    s2 = tl.zeros((TOKENS, BLOCK), WIDE)
    s3 = tl.zeros((TOKENS, BLOCK), WIDE)
    s4 = tl.zeros((TOKENS, BLOCK), WIDE)
    low = tl.full((TOKENS, BLOCK), float("inf"), tl.float32)
    high = tl.full((TOKENS, BLOCK), float("-inf"), tl.float32)
    number = tl.zeros((TOKENS, BLOCK), tl.int32)
    above = tl.zeros((TOKENS, BLOCK), tl.int32)
    middle = center.to(WIDE)[None, :]
    for step in range(0, SPAN, TOKENS):
        t = first + step + tl.arange(0, TOKENS)
        v, counts = _load(at, t, channel, length, C, EXACT)
        d = v.to(WIDE) - middle
        if EXACT:
            d = tl.where(counts, d, 0.0)
            low = tl.minimum(low, tl.where(counts, v, float("inf")))
            high = tl.maximum(high, tl.where(counts, v, float("-inf")))
            number += counts.to(tl.int32)
            above += (counts & (tl.abs(v) >= threshold)).to(tl.int32)
        else:
            low = tl.minimum(low, v)
            high = tl.maximum(high, v)
            above += (tl.abs(v) >= threshold).to(tl.int32)
        square = d * d
        s1 += d
        s2 += square
        s3 += square * d
        s4 += square * square
    if not EXACT:
        number += SPAN // TOKENS
    return s1, s2, s3, s4, low, high, number, above


@triton.jit
def read_tiles(
    x, lengths, ranks, threshold, floor, centers, sums, extrema, counts, keys, found,
    T, C, spans, size,
    TOKENS: tl.constexpr, SPAN: tl.constexpr, BLOCK: tl.constexpr, WIDE: tl.constexpr,
    K: tl.constexpr,
):
    """One span of tokens by BLOCK channels: see the module for what it leaves.

    centers, extrema (2), counts (2): (B * P, C) each; sums (4, B * P, C); size is B * P * C.
    keys (B * P * blocks, K): |x| bits, the place in order and the sign in an int64 each;
    found: how many of them. floor: the size that the running k-th largest has.
    """
    span, block = tl.program_id(0), tl.program_id(1)
    row, first = span // spans, (span % spans) * SPAN
    length = tl.load(lengths + row)
    channel = block * BLOCK + tl.arange(0, BLOCK)
    at = x + row.to(tl.int64) * T * C

    t = first + tl.arange(0, TOKENS)
    v, some = _load(at, t, channel, length, C, True)
    within = tl.sum(some.to(tl.float32), 0)
    center = tl.sum(tl.where(some, v, 0.0), 0) / tl.maximum(within, 1.0)

    whole = (first + SPAN <= length) & ((block + 1) * BLOCK <= C)
    exact = whole
    if whole:
        s1, s2, s3, s4, low, high, number, above = _walk(
            at, first, channel, center, length, threshold, C, TOKENS, SPAN, WIDE, False, BLOCK
        )
        exact = tl.sum(tl.sum(s2, 1), 0) < float("inf")
    else:
        s1, s2, s3, s4, low, high, number, above = _walk(
            at, first, channel, center, length, threshold, C, TOKENS, SPAN, WIDE, True, BLOCK
        )
        exact = whole == whole
    if not exact:  # an infinity or NaN shows in the sum: count again without it
        s1, s2, s3, s4, low, high, number, above = _walk(
            at, first, channel, center, length, threshold, C, TOKENS, SPAN, WIDE, True, BLOCK
        )

    out = span * C + channel
    inside = channel < C
    least, most = tl.min(low, 0), tl.max(high, 0)
    tl.store(centers + out, center, mask=inside)
    tl.store(sums + out, tl.sum(s1, 0), mask=inside)
    tl.store(sums + size + out, tl.sum(s2, 0), mask=inside)
    tl.store(sums + 2 * size + out, tl.sum(s3, 0), mask=inside)
    tl.store(sums + 3 * size + out, tl.sum(s4, 0), mask=inside)
    tl.store(extrema + out, least, mask=inside)
    tl.store(extrema + size + out, most, mask=inside)
    tl.store(counts + out, tl.sum(number, 0), mask=inside)
    tl.store(counts + size + out, tl.sum(above, 0), mask=inside)

    if K > 0:
        least_size = tl.load(floor)
        largest = tl.max(tl.where(inside, tl.maximum(most, -least), -1.0), 0)
        program = span * tl.num_programs(1) + block
        count = 0
        if largest >= least_size:
            count = _emit(
                at, keys + program * K, first, channel, length, tl.load(ranks + row), least_size,
                T, C, TOKENS, SPAN, K,
            )
        tl.store(found + program, count)


@triton.jit
def _emit(
    at, keys, first, channel, length, rank, floor, T, C,
    TOKENS: tl.constexpr, SPAN: tl.constexpr, K: tl.constexpr,
):
    """Write the keys of up to K values of at least the size `floor`, largest first."""
    bound = (floor.to(tl.int32, bitcast=True)).to(tl.int64) << 32
    last = tl.full((), 0x7FFFFFFFFFFFFFFF, tl.int64)
    count = 0
    going = floor == floor
    while going:
        best = tl.full((), -1, tl.int64)
        for step in range(0, SPAN, TOKENS):
            t = first + step + tl.arange(0, TOKENS)
            v, some = _load(at, t, channel, length, C, True)
            bits = v.to(tl.int32, bitcast=True)
            size = (bits & 0x7FFFFFFF).to(tl.int64) << 32
            order = (rank * T + t).to(tl.int64)[:, None] * C + channel[None, :]
            sign = (bits < 0).to(tl.int64)
            key = size | ((0x7FFFFFFF - order) << 1) | sign
            key = tl.where(some & (key < last), key, -1)
            best = tl.maximum(best, tl.max(tl.max(key, 1), 0))
        if best >= bound:
            tl.store(keys + count, best)
            count += 1
        going = (best >= bound) & (count < K)
        last = best
    return count


@triton.jit
def fold(
    centers, sums, extrema, counts, means, moments, ranges, totals,
    C, spans, size, tokens, slot_spans, running,
    BLOCK: tl.constexpr,
):
    """Join the spans of every slot to its running moments: means (2, S, C) in two parts, moments
    (3, S, C), ranges (2, S, C), totals (2, S, C): values that count, and not finite ones."""
    slot, block = tl.program_id(0), tl.program_id(1)
    channel = block * BLOCK + tl.arange(0, BLOCK)
    inside = channel < C
    here = slot * C + channel
    n = tl.load(totals + here, mask=inside, other=0).to(tl.float64)
    mean = tl.load(means + here, mask=inside, other=0.0)
    rest = tl.load(means + running + here, mask=inside, other=0.0)
    s2 = tl.load(moments + here, mask=inside, other=0.0)
    s3 = tl.load(moments + running + here, mask=inside, other=0.0)
    s4 = tl.load(moments + 2 * running + here, mask=inside, other=0.0)
    low = tl.load(ranges + here, mask=inside, other=0.0)
    high = tl.load(ranges + running + here, mask=inside, other=0.0)
    for span in range(0, slot_spans):
        at = (slot * slot_spans + span).to(tl.int64) * C + channel
        count = tl.load(counts + at, mask=inside, other=0).to(tl.float64)
        center = tl.load(centers + at, mask=inside, other=0.0).to(tl.float64)
        t1 = tl.load(sums + at, mask=inside, other=0.0).to(tl.float64)
        t2 = tl.load(sums + size + at, mask=inside, other=0.0).to(tl.float64)
        t3 = tl.load(sums + 2 * size + at, mask=inside, other=0.0).to(tl.float64)
        t4 = tl.load(sums + 3 * size + at, mask=inside, other=0.0).to(tl.float64)
        low = tl.minimum(low, tl.load(extrema + at, mask=inside, other=0.0).to(tl.float64))
        high = tl.maximum(high, tl.load(extrema + size + at, mask=inside, other=0.0).to(tl.float64))
        away = t1 / tl.maximum(count, 1.0)  # from the center to the mean of the span
        u4 = t4 - 4 * away * t3 + 6 * away * away * t2 - 3 * count * away * away * away * away
        u3 = t3 - 3 * away * t2 + 2 * count * away * away * away
        u2 = t2 - count * away * away
        both = tl.maximum(n + count, 1.0)
        gap = (center - mean) + (away - rest)
        pa, pb = n / both, count / both
        da, db = -pb * gap, pa * gap
        s4 = (
            s4 + u4 + n * pb * (pa * pa - pa * pb + pb * pb) * gap * gap * gap * gap
            + 6 * (da * da * s2 + db * db * u2) + 4 * (da * s3 + db * u3)
        )
        s3 = s3 + u3 + n * pb * (pa - pb) * gap * gap * gap + 3 * (da * s2 + db * u2)
        s2 = s2 + u2 + n * pb * gap * gap
        more = n >= count
        a = tl.where(more, mean, center)
        b = tl.where(more, rest - da, away - db)
        mean = a + b
        part = mean - a
        rest = (a - (mean - part)) + (b - part)
        n += count
    before = tl.load(totals + here, mask=inside, other=0)
    left_out = tl.load(totals + running + here, mask=inside, other=0)
    read = tl.load(tokens)
    tl.store(totals + here, n.to(tl.int64), mask=inside)
    tl.store(totals + running + here, left_out + read - (n.to(tl.int64) - before), mask=inside)
    tl.store(means + here, mean, mask=inside)
    tl.store(means + running + here, rest, mask=inside)
    tl.store(moments + here, s2, mask=inside)
    tl.store(moments + running + here, s3, mask=inside)
    tl.store(moments + 2 * running + here, s4, mask=inside)
    tl.store(ranges + here, low, mask=inside)
    tl.store(ranges + running + here, high, mask=inside)
