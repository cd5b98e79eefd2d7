"""The loops of `passes`: threads take shares of a batch's rows, without the interpreter's lock.

A job is an array of int64: what is left of it, and where lies what it reads and writes. Sums are of
each share and joined in order, so that it does not matter which thread took it; what is counted is
of each thread. Values are finite.

Axes: N rows, C channels, K thresholds, J bins, S shares.
"""

# Compiled functions take arrays and addresses, for which Python has no types to write.
# An intrinsic is called without the typing context that it is written with.
# mypy: disallow_untyped_defs=False, disallow_incomplete_defs=False, disable-error-code=call-arg
from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray, cfunc, njit

from laminogram.stack.kernels.token.crew import add
from laminogram.stack.kernels.token.dots import LANES, pointer

from ._tile_numba import add_tile, ask_for

LEFT, JOINED = 0, 8
"""Where a job says how many shares are left and how many threads have come, each on a cache line of
its own. From the third line on, the sizes N, C, S, K and the number of bounds (0 where nothing is
binned), and the addresses of what `prepare` and `take_shares` name so."""
ROWS, CHANNELS, SHARES, LEVELS, EDGES = range(16, 21)
VALUES, CENTER, EXTREMES, SUMS, LARGEST, THRESHOLDS, ABOVE, BOUNDS, TABLES, BINS = range(21, 31)
JOB = 32

BLOCK = 32
"""Rows that stay in the second cache while everything that is asked is read off them."""
WAYS, CELLS = 4, 1 << 16
"""Neighbouring values are counted in different tables: adding to what was just written waits for
it. A table has an entry for each pattern of a float32's leading bits without its sign."""
_LINE, _PIECE = 16, 64
"""Values of a cache line, and of what is looked through at once."""

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
def _count_above(values, largest, threshold, above):
    for i in range(len(values)):
        if largest[i] > threshold:
            row = values[i]
            for j in range(len(row)):
                above[j] += np.int32(abs(row[j]) > threshold)


@njit(**_HOW)
def _largest_of(row):
    """The pattern of the largest |x|."""
    most = np.uint32(0)
    for j in range(len(row)):
        most = max(most, np.uint32(row[j] & _SIZE))
    return most


@njit(**_HOW)
def _cells_of(row, base, cells):
    """The leading bits of every |x|, at least `base`; the least of them, and the pattern of the
    largest |x|."""
    most, least = np.uint32(0), _SIZE
    for j in range(len(row)):
        size = np.uint32(row[j] & _SIZE)
        most = max(most, size)
        cell = max(np.uint32(size >> _SHIFT), base)
        least = min(least, cell)
        cells[j] = np.uint16(cell)
    return np.int64(least), most


@njit(**_HOW)
def _count_cells(cells, tables, ahead):
    """Count cells, while the row at an address ahead is on its way to the cache."""
    a, b, c, d = tables[0], tables[1], tables[2], tables[3]
    whole = len(cells) // _LINE * _LINE
    for start in range(0, whole, _LINE):
        ask_for(ahead + 4 * start)
        for i in range(start, start + _LINE, WAYS):
            a[cells[i]] += _ONE
            b[cells[i + 1]] += _ONE
            c[cells[i + 2]] += _ONE
            d[cells[i + 3]] += _ONE
    for i in range(whole, len(cells)):
        a[cells[i]] += _ONE


@njit(**_HOW)
def _number(tables, cell):
    """How often a cell was counted."""
    return tables[0, cell] + tables[1, cell] + tables[2, cell] + tables[3, cell]


@njit(**_HOW)
def _count_zeros(patterns):
    zeros = np.int32(0)
    for i in range(len(patterns)):
        row = patterns[i]
        for j in range(len(row)):
            zeros = np.int32(zeros + np.int32((row[j] & _SIZE) == np.uint32(0)))
    return zeros


@njit(**_HOW)
def _count_rows(patterns, largest, base, cells, tables, reach):
    """Count leading bits and note the pattern of the largest |x| of each row; `reach` (2,) grows to
    the cells that were met. How many values are zero."""
    tiny = _number(tables, base)
    for i in range(len(patterns)):
        row = patterns[i]
        least, largest[i] = _cells_of(row, np.uint32(base), cells)
        # What comes after the block is asked for; beyond the last row that does no harm.
        _count_cells(cells, tables, row.ctypes.data + 4 * BLOCK * len(row))
        reach[0] = min(reach[0], least)
        reach[1] = max(reach[1], np.int64(largest[i] >> _SHIFT), base)
    return 0 if _number(tables, base) == tiny else _count_zeros(patterns)


@njit(**_HOW)
def _fill_bins(tables, reach, bounds, bins):
    """Add up what was counted within `reach`, and leave it zero."""
    a, b, c, d = tables[0], tables[1], tables[2], tables[3]
    for j in range(len(bins)):
        total = np.int32(0)
        for i in range(max(reach[0], bounds[j]), min(reach[1] + 1, bounds[j + 1])):
            total = np.int32(total + a[i] + b[i] + c[i] + d[i])
            a[i] = b[i] = c[i] = d[i] = 0
        bins[j] = total


@njit(**_HOW)
def _take_shares(job):
    """Take shares until none is left, and write what was counted in them."""
    thread: Any = add(job, JOINED, 1)
    rows, channels, shares = job[ROWS], job[CHANNELS], job[SHARES]
    levels, edges = job[LEVELS], job[EDGES]
    values = carray(pointer(job[VALUES]), (rows, channels), np.float32)
    patterns = carray(pointer(job[VALUES]), (rows, channels), np.uint32)
    center = carray(pointer(job[CENTER]), (channels,), np.float64)
    extremes = carray(pointer(job[EXTREMES]), (shares, 2, channels), np.float32)
    sums = carray(pointer(job[SUMS]), (shares, 4, channels), np.float64)
    largest = carray(pointer(job[LARGEST]), (rows,), np.float32)
    noted = carray(pointer(job[LARGEST]), (rows,), np.uint32)
    thresholds = carray(pointer(job[THRESHOLDS]), (levels,), np.float32)
    above = carray(pointer(job[ABOVE]), (thread + 1, levels, channels), np.int32)[thread]
    bounds = carray(pointer(job[BOUNDS]), (edges,), np.int32)
    tables = carray(pointer(job[TABLES]), (thread + 1, WAYS, CELLS), np.int32)[thread]
    bins = carray(pointer(job[BINS]), (thread + 1, edges), np.int64)[thread]
    base, zeros, reach = bounds[1] - 1 if edges else 0, 0, np.array([CELLS, 0])
    cells = np.empty(channels, np.uint16)
    above[:] = 0
    while True:
        share = add(job, LEFT, -1) - 1
        if share < 0:
            break
        first, last = rows * share // shares, rows * (share + 1) // shares
        extremes[share, 0], extremes[share, 1] = values[first], values[first]
        sums[share] = 0
        for start in range(first, last, BLOCK):
            block = slice(start, min(start + BLOCK, last))
            # What reads along rows comes first: then the block is in the cache.
            if edges:
                zeros += _count_rows(patterns[block], noted[block], base, cells, tables, reach)
            else:
                for i in range(start, block.stop):
                    noted[i] = _largest_of(patterns[i])
            _add_channels(values[block], center, extremes[share], sums[share])
            for k in range(levels):
                _count_above(values[block], largest[block], thresholds[k], above[k])
    if edges:
        _fill_bins(tables, reach, bounds, bins[1:])
        bins[0], bins[1] = zeros, bins[1] - zeros


@cfunc("void(voidptr)", **_HOW)
def take_shares(job):
    """What a thread does with the job at an address."""
    _take_shares(carray(job, (JOB,), np.int64))


@njit(**_HOW)
def _near_mean(values, step, center):
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
    "Tuple((int64[::1], int64, float64[:, ::1], float32[:, :, ::1], float64[:, :, ::1], "
    "float32[::1], int32[:, :, ::1], int64[:, ::1]))"
    "(float32[:, ::1], float32[::1], int32[::1], int32[:, :, ::1], int64, int64)",
    **_HOW,
)
def prepare(values, thresholds, bounds, tables, threads, shares):
    """A job for values (N, C) and up to so many threads, its address, and what it writes to.

    That is `channels` (7, C), of which only the first line is written, a center
    near the mean; of each share the smallest and largest value, `extremes` (S, 2, C), and the
    `sums` (S, 4, C) of the first four powers of the distance from the center; of each row the
    `largest` |x| (N,). Of each thread how often |x| exceeds the thresholds (K,), `above` (T, K, C),
    and `bins` (T, 1 + J): how many values are zero, and how many others lie between the leading
    bits `bounds` (J + 1,), if there are any. `tables` (T, WAYS, CELLS) are room to count, and zero
    before and after.
    """
    rows, channels = values.shape
    found = np.empty((7, channels))
    _near_mean(values, max(1, min(32, rows // 16)), found[0])
    extremes = np.empty((shares, 2, channels), np.float32)
    sums = np.empty((shares, 4, channels))
    largest = np.empty(rows, np.float32)
    above = np.empty((threads, len(thresholds), channels), np.int32)
    bins = np.empty((threads, len(bounds)), np.int64)
    job = np.zeros(JOB, np.int64)
    job[LEFT] = job[SHARES] = shares
    job[ROWS], job[CHANNELS], job[LEVELS], job[EDGES] = rows, channels, len(thresholds), len(bounds)
    job[VALUES], job[CENTER] = values.ctypes.data, found.ctypes.data
    job[EXTREMES], job[SUMS] = extremes.ctypes.data, sums.ctypes.data
    job[LARGEST], job[ABOVE] = largest.ctypes.data, above.ctypes.data
    job[THRESHOLDS], job[BOUNDS] = thresholds.ctypes.data, bounds.ctypes.data
    job[TABLES], job[BINS] = tables.ctypes.data, bins.ctypes.data
    return job, job.ctypes.data, found, extremes, sums, largest, above, bins


@njit(
    "Tuple((boolean, int64[:, ::1], int64[::1]))"
    "(int64[::1], float64[:, ::1], float32[:, :, ::1], float64[:, :, ::1], int32[:, :, ::1], "
    "int64[:, ::1])",
    **_HOW,
)
def join(job, channels, extremes, sums, above, bins):
    """Join what the shares and threads of a job found, see `prepare`: the other lines of `channels`
    are written. Whether the sums are finite, the counts above thresholds (K, C), the bins (1 + J,).
    """
    all_above = np.zeros(above.shape[1:], np.int64)
    all_bins = np.zeros(bins.shape[1], np.int64)
    for thread in range(job[JOINED]):
        for k in range(above.shape[1]):
            for j in range(above.shape[2]):
                all_above[k, j] += above[thread, k, j]
        for j in range(len(all_bins)):
            all_bins[j] += bins[thread, j]
    number, test = job[ROWS], 0.0
    for j in range(channels.shape[1]):
        s1 = s2 = s3 = s4 = 0.0
        low, high = extremes[0, 0, j], extremes[0, 1, j]
        for share in range(len(sums)):
            s1 += sums[share, 0, j]
            s2 += sums[share, 1, j]
            s3 += sums[share, 2, j]
            s4 += sums[share, 3, j]
            low, high = min(low, extremes[share, 0, j]), max(high, extremes[share, 1, j])
        rest = s1 / number
        gap = s1 * rest
        channels[1, j] = rest
        channels[2, j] = max(s2 - gap, 0.0)
        channels[3, j] = s3 - rest * (3 * s2 - 2 * gap)
        channels[4, j] = max(s4 - rest * (4 * s3 - rest * (6 * s2 - 3 * gap)), 0.0)
        channels[5, j], channels[6, j] = low, high
        test += s1
    return np.isfinite(test), all_above, all_bins


@njit(**_HOW)
def _count_from(values, floor):
    number = np.int32(0)
    for j in range(len(values)):
        number = np.int32(number + np.int32(abs(values[j]) >= floor))
    return number


@njit(**_HOW)
def _reaching(values, largest, floor):
    """Where |x| is at least `floor`, in order: rows and channels; `largest` (N,) is that of each
    row."""
    chosen, number = np.flatnonzero(largest >= floor), 0
    for i in range(len(chosen)):
        # Rows lie far apart, so that nobody foresees the next one: it is asked for.
        later = values[chosen[min(i + 2, len(chosen) - 1)]].ctypes.data
        for start in range(0, values.shape[1], _LINE):
            ask_for(later + 4 * start)
        number += _count_from(values[chosen[i]], floor)
    rows, channels = np.empty(number, np.int64), np.empty(number, np.int64)
    place = 0
    for row in chosen:
        for start in range(0, values.shape[1], _PIECE):
            piece = values[row, start : start + _PIECE]
            if not _count_from(piece, floor):  # as most pieces
                continue
            for j in range(len(piece)):
                if abs(piece[j]) >= floor:
                    rows[place], channels[place] = row, start + j
                    place += 1
    return rows, channels


@njit(
    "Tuple((float64[:, ::1], int64[:, ::1]))"
    "(float32[:, ::1], float32[::1], int64[:], int64[:], int64)",
    **_HOW,
)
def first(values, largest, documents, positions, k):
    """The k values (N, C) of largest |x|, or all where there are fewer, by size, document,
    position, channel: |x| and x (2, k); document, position, channel (3, k). `largest` (N,) is that
    of each row: no value but those of k rows can be among the k largest."""
    few = len(largest) <= k
    floor = np.float32(0) if few else np.partition(largest, len(largest) - k)[len(largest) - k]
    rows, channels = _reaching(values, largest, floor)
    number = len(rows)
    numbers, places = np.empty((2, number)), np.empty((3, number), np.int64)
    for i in range(number):
        row, channel = rows[i], channels[i]
        numbers[1, i] = values[row, channel]
        numbers[0, i] = abs(numbers[1, i])
        places[0, i], places[1, i], places[2, i] = documents[row], positions[row], channel
    # Each later sort keeps the order among equals; channels are in order.
    order = np.argsort(places[1], kind="mergesort")
    order = order[np.argsort(places[0][order], kind="mergesort")]
    order = order[np.argsort(-numbers[0][order], kind="mergesort")][:k]
    return numbers[:, order], places[:, order]
