"""The loops of `passes`: each over some rows of a batch, without the interpreter's lock.

Values are finite. What a loop adds to is its caller's: one set for each thread.

Axes: N rows, C channels.
"""

# Compiled functions take arrays and addresses, for which Python has no types to write.
# mypy: disallow_untyped_defs=False, disallow_incomplete_defs=False
from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

_FAST = {"nsz", "contract"}  # NaN stays NaN: a sum shows it
_HOW: dict[str, Any] = {"nogil": True, "cache": True, "boundscheck": False, "fastmath": _FAST}
_SIZE = np.int32(0x7FFFFFFF)
"""The bits of a float32 without its sign: sizes in their order, as whole numbers."""


@njit(**_HOW)
def _largest(patterns):
    most = np.int32(0)
    for j in range(len(patterns)):
        most = max(most, patterns[j] & _SIZE)
    return most


@njit(
    "void(float32[:, ::1], int32[:, ::1], float64[::1], float32[:, ::1], float64[:, ::1], "
    "int32[::1])",
    **_HOW,
)
def summary(values, patterns, center, extremes, sums, largest):
    """Of every channel the smallest and largest value, `extremes` (2, C), which start from numbers
    that are in it, and the sums (4, C) of the first four powers of the distance from `center` (C,);
    of every row the pattern of the largest |x| (N,). `patterns` are those of `values`: no compiler
    takes the largest float of a row in vectors."""
    rows, channels = values.shape
    low, high = extremes[0], extremes[1]
    first, second, third, fourth = sums[0], sums[1], sums[2], sums[3]
    fours = rows // 4 * 4
    for i in range(0, fours, 4):  # four at a time: a quarter of the reads and writes of the sums
        va, vb, vc, vd = values[i], values[i + 1], values[i + 2], values[i + 3]
        for j in range(channels):
            a, b = np.float64(va[j]) - center[j], np.float64(vb[j]) - center[j]
            c, d = np.float64(vc[j]) - center[j], np.float64(vd[j]) - center[j]
            aa, bb, cc, dd = a * a, b * b, c * c, d * d
            first[j] += (a + b) + (c + d)
            second[j] += (aa + bb) + (cc + dd)
            third[j] += (aa * a + bb * b) + (cc * c + dd * d)
            fourth[j] += (aa * aa + bb * bb) + (cc * cc + dd * dd)
        for j in range(channels):
            low[j] = min(low[j], min(min(va[j], vb[j]), min(vc[j], vd[j])))
            high[j] = max(high[j], max(max(va[j], vb[j]), max(vc[j], vd[j])))
        for k in range(i, i + 4):
            largest[k] = _largest(patterns[k])
    for i in range(fours, rows):
        for j in range(channels):
            a = np.float64(values[i, j]) - center[j]
            aa = a * a
            first[j] += a
            second[j] += aa
            third[j] += aa * a
            fourth[j] += aa * aa
            low[j] = min(low[j], values[i, j])
            high[j] = max(high[j], values[i, j])
        largest[i] = _largest(patterns[i])


@njit("int64(uint32[::1], uint32, int32[::1])", **_HOW)
def cells(patterns, shift, counts):
    """Count float32 patterns by their leading bits without the sign; how many are zero."""
    for i in range(len(patterns)):
        counts[(patterns[i] & np.uint32(_SIZE)) >> shift] += np.int32(1)
    zeros = 0
    if counts[0]:
        for i in range(len(patterns)):
            zeros += (patterns[i] & np.uint32(_SIZE)) == np.uint32(0)
    return zeros
