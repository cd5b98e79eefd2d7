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

_FAST = {"nnan", "nsz", "contract", "reassoc"}
_HOW: dict[str, Any] = {"nogil": True, "cache": True, "boundscheck": False, "fastmath": _FAST}
_SIZE = np.int32(0x7FFFFFFF)
"""The bits of a float32 without its sign: sizes in their order, as whole numbers."""


@njit(
    "void(float32[:, ::1], int32[:, ::1], float32[::1], float32[::1], float64[::1], int32[::1])",
    **_HOW,
)
def extremes(values, patterns, low, high, total, largest):
    """Smallest, largest and sum of every channel (C,), the first two starting from numbers that
    are in it; the pattern of the largest |x| of every row (N,). `patterns` are those of `values`:
    no compiler takes the largest float of a row in vectors."""
    rows, channels = values.shape
    for i in range(rows):
        for j in range(channels):
            x = values[i, j]
            low[j] = min(low[j], x)
            high[j] = max(high[j], x)
            total[j] += np.float64(x)
        most = np.int32(0)
        for j in range(channels):
            most = max(most, patterns[i, j] & _SIZE)
        largest[i] = most


@njit("void(float32[:, ::1], float64[::1], float64[:, ::1])", **_HOW)
def powers(values, center, sums):
    """Add the first four powers of the distance from a center (C,) to sums (4, C)."""
    rows, channels = values.shape
    first, second, third, fourth = sums[0], sums[1], sums[2], sums[3]
    for i in range(rows):
        for j in range(channels):
            distance = np.float64(values[i, j]) - center[j]
            square = distance * distance
            first[j] += distance
            second[j] += square
            third[j] += square * distance
            fourth[j] += square * square


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
