"""Softmax attention of one token over a memory of keys and values, one key head at a time, in fp32.

Axes: H heads, K key heads, G = H / K heads of a key head, D head size, S key positions.
"""

# Compiled functions take arrays and addresses, for which Python has no types to write.
# An intrinsic is called without the typing context that it is written with.
# mypy: disallow_untyped_defs=False, disallow_incomplete_defs=False, disable-error-code=call-arg
from __future__ import annotations

import numpy as np
from numba import carray, njit

from ._dots_numba import how, pointer
from ._vectors_numba import exp, read

(KIND, QUERIES, KEYS, VALUES, ANSWERS, KEY_HEADS, GROUP, SIZE, CAPACITY, FIRST, END) = range(11)
ATTENTION = 11
"""Entries of the table (int64) of an attention: what the memory is held in; the addresses of q
(H, D), keys and values (K, capacity, D), z (H, D), q and z in fp32; K, G, D and the capacity; the
columns that are looked at. q is multiplied by the scale already."""


@njit(**how)
def attend_head(table, head):
    """z of the heads that share a key head."""
    group, size, first, end = table[GROUP], table[SIZE], table[FIRST], table[END]
    width = 4 if table[KIND] == 0 else 2
    above = head * group * size * 4
    q = carray(pointer(table[QUERIES] + above), (group, size), np.float32)
    z = carray(pointer(table[ANSWERS] + above), (group, size), np.float32)
    start, stride = (head * table[CAPACITY] + first) * size * width, size * width
    row, scores = np.empty(size, np.float32), np.empty((group, end - first), np.float32)
    for s in range(end - first):
        read(table[KIND], table[KEYS] + start + s * stride, row)
        for g in range(group):
            dot = np.float32(0)
            for d in range(size):
                dot += q[g, d] * row[d]
            scores[g, s] = dot
    for g in range(group):
        _softmax(scores[g])
        for d in range(size):
            z[g, d] = np.float32(0)
    for s in range(end - first):
        read(table[KIND], table[VALUES] + start + s * stride, row)
        for g in range(group):
            share = scores[g, s]
            for d in range(size):
                z[g, d] += share * row[d]


@njit(**how)
def _softmax(x):
    top = x[0]
    for i in range(1, len(x)):
        top = x[i] if x[i] > top else top
    total = np.float32(0)
    for i in range(len(x)):
        x[i] = exp(x[i] - top)
        total += x[i]
    for i in range(len(x)):
        x[i] /= total
