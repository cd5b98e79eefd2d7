"""One layer of RWKV-7 for one token of one row (`layers`): norms, token shifts, products by
a crew of threads (`crew`), the recurrence (`matrix_state`), both additions, in fp32.
The formulas are those of `mixers/rwkv7.py`.

Axes: C channels, A = H D width, H heads, D head, F ffn width.
"""

# Compiled functions take arrays and addresses, for which Python has no types to write.
# An intrinsic is called without the typing context that it is written with.
# mypy: disallow_untyped_defs=False, disallow_incomplete_defs=False, disable-error-code=call-arg
from __future__ import annotations

import math

import numpy as np
from numba import carray, cfunc, njit

from . import matrix_state
from .crew import JOB, PRODUCT, together
from .dots import hold, how, pointer
from .layers import FIRST_VALUES, ROPES, STREAM
from .shift import channel_mix, moved_products, shift
from .vectors import add, norm, numbers, read, sigmoid, write

RECUR = matrix_state.recur7_head.address
"""Where the function lies that does a head of the recurrence."""
DENSE = 3
"""Products that read the token before the low-rank ones: r, k and v."""
(DECAY, RATE, GATE, SHARE) = range(4)
"""The low-rank products in their order; a layer that provides the first values has no share."""
(ATTN_WEIGHT, ATTN_BIAS, FFN_WEIGHT, FFN_BIAS, MIX_UP, MIX) = range(6)
"""Rows of the table of vectors (C,); from `MIX` on what moves the input of each product that reads
the token, in their order."""
(ATTN_EPS, FFN_EPS) = range(2)
(KIND, NORM, SIZE, WIDTH, HEADS, LOW, WEIGHTS, TABLE, EPS) = range(9)
(ATTN_SHIFT, FFN_SHIFT, HEAD, RECURRENCE) = range(9, 13)
ENTRIES = 13
"""Entries of a layer (int64): what the residual stream and the shifts are held in; the kind of
norm; C, A and H; how many low-rank products there are; the addresses of its products
(DENSE + 2 LOW + 3, 5), that is r, k, v, the first halves of the low-rank ones, their second halves,
o, up and down, of the table of vectors, of the eps of both norms (2,) and of what both mixers saw
last (C,); `RECUR`, and the address of the entries of the recurrence. Numbers are fp32 where nothing
else is said."""


@njit(**how)
def _low_rank(job, firsts, seconds, inner, y):
    """The second halves (n, 5), each of what its first half gave: outputs into `y`."""
    widest = 0
    for part in range(len(firsts)):
        widest = max(widest, firsts[part, 3])
    rows, start = np.empty((len(firsts), widest), np.float32), 0
    for part in range(len(firsts)):
        for i in range(firsts[part, 3]):
            x = inner[start + i]
            if part == DECAY:
                x = np.float32(math.tanh(x))
            elif part == GATE:
                x = sigmoid(x)
            rows[part, i] = x
        start += firsts[part, 3]
    together(job, seconds, rows.ctypes.data, 4 * widest, y.ctypes.data)
    hold(rows)


@njit(**how)
def _recur(job, layer, token, rkv, low, z):
    """From r, k and v (3, A) and the low-rank products (LOW, A) to what enters the output's."""
    table = carray(pointer(layer[RECURRENCE]), (matrix_state.ENTRIES,), np.int64).copy()
    row = 4 * layer[WIDTH]
    table[matrix_state.R], table[matrix_state.K] = rkv.ctypes.data, rkv.ctypes.data + row
    table[matrix_state.V], table[matrix_state.Z] = rkv.ctypes.data + 2 * row, z.ctypes.data
    table[matrix_state.W] = low.ctypes.data + DECAY * row
    table[matrix_state.RATE] = low.ctypes.data + RATE * row
    table[matrix_state.G] = low.ctypes.data + GATE * row
    table[matrix_state.SHARE] = low.ctypes.data + SHARE * row if layer[LOW] > SHARE else 0
    table[matrix_state.FIRST] = token[FIRST_VALUES]
    matrix_state.recur(job, layer[HEADS], layer[HEAD], table)


@njit(**how)
def _time_mix(job, layer, token, products, shares, h, out):
    """From what enters the time mixing (C,) to what leaves it."""
    width, low = layer[WIDTH], layer[LOW]
    reading, last = DENSE + low, DENSE + 2 * low
    total = 0
    for part in range(reading):
        total += products[part, 3]
    wide, z = np.empty(total, np.float32), np.empty(width, np.float32)
    inner = np.empty(low * width, np.float32)
    before = shift(layer[KIND], h, layer[ATTN_SHIFT])
    moved_products(job, products[:reading], h, before, shares[:reading], wide)
    _low_rank(job, products[DENSE:reading], products[reading:last], wide[DENSE * width :], inner)
    _recur(job, layer, token, wide, inner, z)
    together(job, products[last : last + 1], z.ctypes.data, 0, out.ctypes.data)
    hold(wide)
    hold(inner)
    hold(z)


@cfunc("void(int64, int64, int64)", **how)
def step(job_address, layer_address, token_address):
    """A token through the layer."""
    job = carray(pointer(job_address), (JOB,), np.int64)
    layer = carray(pointer(layer_address), (ENTRIES,), np.int64)
    token = carray(pointer(token_address), (ROPES,), np.int64)
    kind, size, reading = layer[KIND], layer[SIZE], DENSE + layer[LOW]
    parts = reading + layer[LOW] + 3
    products = carray(pointer(layer[WEIGHTS]), (parts, PRODUCT), np.int64)
    vectors, eps = numbers(layer[TABLE], (MIX + reading, size)), numbers(layer[EPS], (2,))
    x, h, out = np.empty(size, np.float32), np.empty(size, np.float32), np.empty(size, np.float32)
    read(kind, token[STREAM], x)
    norm(layer[NORM], x, vectors[ATTN_WEIGHT], vectors[ATTN_BIAS], eps[ATTN_EPS], h)
    _time_mix(job, layer, token, products, vectors[MIX:], h, out)
    add(x, out)
    norm(layer[NORM], x, vectors[FFN_WEIGHT], vectors[FFN_BIAS], eps[FFN_EPS], h)
    before = shift(kind, h, layer[FFN_SHIFT])
    channel_mix(job, products[parts - 2 :], h, before, vectors[MIX_UP:MIX], x)
    write(kind, x, token[STREAM])
