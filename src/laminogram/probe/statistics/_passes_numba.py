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
    pairs = rows // 2 * 2
    for i in range(0, pairs, 2):  # two at a time: half as many reads and writes of the sums
        for j in range(channels):
            a, b = np.float64(values[i, j]) - center[j], np.float64(values[i + 1, j]) - center[j]
            aa, bb = a * a, b * b
            first[j] += a + b
            second[j] += aa + bb
            third[j] += aa * a + bb * b
            fourth[j] += aa * aa + bb * bb
    for i in range(pairs, rows):
        for j in range(channels):
            a = np.float64(values[i, j]) - center[j]
            aa = a * a
            first[j] += a
            second[j] += aa
            third[j] += aa * a
            fourth[j] += aa * aa
    for i in range(rows):
        most = np.int32(0)
        for j in range(channels):
            low[j] = min(low[j], values[i, j])
            high[j] = max(high[j], values[i, j])
            most = max(most, patterns[i, j] & _SIZE)
        largest[i] = most


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
