"""The loops of `passes`: each over some rows of a batch, without the interpreter's lock.

Values are finite. What a loop writes to is its caller's: one set for each thread.

Axes: N rows, C channels, K thresholds, J bins.
"""

# Compiled functions take arrays and addresses, for which Python has no types to write.
# An intrinsic is called without the typing context that it is written with.
# mypy: disallow_untyped_defs=False, disallow_incomplete_defs=False, disable-error-code=call-arg
from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from laminogram.stack.kernels._dots_numba import LANES

from ._tile_numba import add_tile

BLOCK = 32
"""Rows that stay in the second cache while everything that is asked is read off them."""
TABLES, CELLS = 2, 1 << 16
"""Neighbouring values are counted in different tables: adding to what was just written waits for
it. A table has an entry for each pattern of a float32's leading bits without its sign."""

_FAST = {"nsz", "contract"}  # NaN stays NaN: a sum shows it
_HOW: dict[str, Any] = {
    "nogil": True,
    "cache": True,
    "boundscheck": False,
    "fastmath": _FAST,
    "error_model": "numpy",
}
_SIZE = np.uint32(0x7FFFFFFF)
"""The bits of a float32 without its sign: sizes in their order, as whole numbers."""
_SHIFT = np.uint32(15)
_ONE = np.int32(1)


@njit(**_HOW)
def _add_channels(values, center, extremes, sums):
    """Add rows to the channels' sums and extremes."""
    rows, channels = values.shape
    whole = channels // LANES * LANES
    for j in range(0, whole, LANES):
        add_tile(
            values.ctypes.data + 4 * j,
            values.strides[0],
            rows,
            center.ctypes.data + 8 * j,
            extremes.ctypes.data + 4 * j,
            sums.ctypes.data + 8 * j,
            channels,
        )
    for j in range(whole, channels):
        for i in range(rows):
            a = np.float64(values[i, j]) - center[j]
            aa = a * a
            sums[0, j] += a
            sums[1, j] += aa
            sums[2, j] += aa * a
            sums[3, j] += aa * aa
            extremes[0, j] = min(extremes[0, j], values[i, j])
            extremes[1, j] = max(extremes[1, j], values[i, j])


@njit(**_HOW)
def _note_largest(patterns, largest):
    """Of every row the pattern of the largest |x|; and the largest of all as a number."""
    of_all = np.uint32(0)
    for i in range(len(patterns)):
        row, most = patterns[i], np.uint32(0)
        for j in range(len(row)):
            most = max(most, np.uint32(row[j] & _SIZE))
        largest[i] = most
        of_all = max(of_all, most)
    found = np.uint32(of_all)
    return found.view(np.float32)


@njit(**_HOW)
def _count_above(values, largest, threshold, above):
    for i in range(len(values)):
        if largest[i] > threshold:
            row = values[i]
            for j in range(len(row)):
                above[j] += np.int32(abs(row[j]) > threshold)


@njit(**_HOW)
def _count_cells(patterns, tables):
    a, b = tables[0], tables[1]
    fours = len(patterns) // 4 * 4
    for i in range(0, fours, 4):  # 16 bits are kept: the sign is not among them
        a[np.uint16(patterns[i] >> _SHIFT)] += _ONE
        b[np.uint16(patterns[i + 1] >> _SHIFT)] += _ONE
        a[np.uint16(patterns[i + 2] >> _SHIFT)] += _ONE
        b[np.uint16(patterns[i + 3] >> _SHIFT)] += _ONE
    for i in range(fours, len(patterns)):
        a[np.uint16(patterns[i] >> _SHIFT)] += _ONE


@njit(**_HOW)
def _count_zeros(patterns):
    zeros = np.int32(0)
    for i in range(len(patterns)):
        zeros = np.int32(zeros + np.int32((patterns[i] & _SIZE) == np.uint32(0)))
    return zeros


@njit(**_HOW)
def _clear(tables):
    for table in range(TABLES):
        one = tables[table]
        for i in range(CELLS):
            one[i] = 0


@njit(**_HOW)
def _fill_bins(tables, bounds, bins):
    a, b = tables[0], tables[1]
    for i in range(CELLS):
        a[i] += b[i]
    for j in range(len(bins)):
        total = np.int32(0)
        for i in range(bounds[j], bounds[j + 1]):
            total = np.int32(total + a[i])
        bins[j] = total


@njit(
    "void(float32[:, ::1], uint32[:, ::1], float64[::1], float32[:, ::1], float64[:, ::1], "
    "uint32[::1], float32[::1], int32[:, ::1], int32[::1], int32[:, ::1], int64[::1])",
    **_HOW,
)
def summarise(
    values, patterns, center, extremes, sums, largest, thresholds, above, bounds, tables, bins
):
    """Read values (N, C) once; `patterns` are their bits.

    Written are, of every channel, the smallest and largest value, `extremes` (2, C), and the sums
    (4, C) of the first four powers of the distance from `center` (C,); of every row the pattern of
    the largest |x| (N,); how often |x| exceeds the thresholds (K,), `above` (K, C); and `bins`
    (1 + J,), where they are wanted: how many values are zero, and how many others lie between the
    leading bits `bounds` (J + 1,). `tables` (TABLES, CELLS) is room to count them.
    """
    rows, channels = values.shape
    extremes[0], extremes[1] = values[0], values[0]
    sums[:] = 0
    above[:] = 0
    sizes = largest.view(np.float32)
    if len(bins):
        _clear(tables)
    zeros, tiny = 0, np.int32(0)
    for start in range(0, rows, BLOCK):
        stop = min(start + BLOCK, rows)
        # What reads along rows comes first: then the block is in the cache.
        most = _note_largest(patterns[start:stop], largest[start:stop])
        if len(bins):
            flat = patterns[start:stop].reshape((stop - start) * channels)
            _count_cells(flat, tables)
            reached = np.int32(tables[0, 0] + tables[1, 0])
            if reached != tiny:
                zeros, tiny = zeros + _count_zeros(flat), reached
        block = values[start:stop]
        _add_channels(block, center, extremes, sums)
        for k in range(len(thresholds)):
            if most > thresholds[k]:
                _count_above(block, sizes[start:stop], thresholds[k], above[k])
    if len(bins):
        _fill_bins(tables, bounds, bins[1:])
        bins[0], bins[1] = zeros, bins[1] - zeros


@njit("void(float32[:, ::1], int64, float64[::1])", **_HOW)
def near_mean(values, step, center):
    """The mean (C,) of every row in `step`. With a 32nd of all it lies within the root of 32
    standard deviations of the mean of all, so that the fourth power loses three of fp64's sixteen
    digits at the worst."""
    center[:] = 0
    number = 0
    for i in range(0, len(values), step):
        row = values[i]
        for j in range(len(center)):
            center[j] += np.float64(row[j])
        number += 1
    for j in range(len(center)):
        center[j] /= number


@njit(
    "boolean(int64, float64[:, ::1], float32[:, :, ::1], float64[:, :, ::1], int32[:, :, ::1], "
    "int64[:, ::1])",
    **_HOW,
)
def join(number, channels, extremes, sums, above, bins):
    """Join what the threads found of `number` rows in all: counts into those of the first thread,
    the rest into `channels` (7, C), of which the first line is the center. Whether the sums are
    finite."""
    for part in range(1, len(sums)):
        for k in range(above.shape[1]):
            for j in range(above.shape[2]):
                above[0, k, j] += above[part, k, j]
        for j in range(bins.shape[1]):
            bins[0, j] += bins[part, j]
    test = 0.0
    for j in range(channels.shape[1]):
        s1 = s2 = s3 = s4 = 0.0
        low, high = extremes[0, 0, j], extremes[0, 1, j]
        for part in range(len(sums)):
            s1 += sums[part, 0, j]
            s2 += sums[part, 1, j]
            s3 += sums[part, 2, j]
            s4 += sums[part, 3, j]
            low, high = min(low, extremes[part, 0, j]), max(high, extremes[part, 1, j])
        rest = s1 / number
        gap = s1 * rest
        channels[1, j] = rest
        channels[2, j] = max(s2 - gap, 0.0)
        channels[3, j] = s3 - rest * (3 * s2 - 2 * gap)
        channels[4, j] = max(s4 - rest * (4 * s3 - rest * (6 * s2 - 3 * gap)), 0.0)
        channels[5, j], channels[6, j] = low, high
        test += s1
    return np.isfinite(test)


@njit(**_HOW)
def _count_from(row, floor):
    number = np.int32(0)
    for j in range(len(row)):
        number = np.int32(number + np.int32(abs(row[j]) >= floor))
    return number


@njit("UniTuple(int64[::1], 2)(float32[:, ::1], float32[::1], float32)", **_HOW)
def reaching(values, largest, floor):
    """Where |x| is at least `floor`, in order: rows and channels; `largest` (N,) is that of each
    row."""
    number = 0
    for i in range(len(values)):
        if largest[i] >= floor:
            number += _count_from(values[i], floor)
    rows, channels = np.empty(number + 1, np.int64), np.empty(number + 1, np.int64)
    place = 0
    for i in range(len(values)):
        if largest[i] >= floor:
            row = values[i]
            for j in range(len(row)):  # written whether it counts or not: faster than to ask
                rows[place], channels[place] = i, j
                place += abs(row[j]) >= floor
    return rows[:number], channels[:number]
