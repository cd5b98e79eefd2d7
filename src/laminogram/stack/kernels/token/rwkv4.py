"""One layer of RWKV-4 for one token of one row (`layers`): norms, token shifts, the seven
products by a crew of threads (`crew`), the recurrence and both additions, in fp32.

The formulas are those of `mixers/rwkv4.py` and `wkv4_naive`. Where the last weight lies by its
inputs, its product leaves out what the squared ReLU has set to zero.

Axes: C channels, A width, F ffn width.
"""

# Compiled functions take arrays and addresses, for which Python has no types to write.
# An intrinsic is called without the typing context that it is written with.
# mypy: disallow_untyped_defs=False, disallow_incomplete_defs=False, disable-error-code=call-arg
from __future__ import annotations

import numpy as np
from numba import carray, cfunc, njit

from laminogram.stack.kernels._wkv4_numba import recur

from .crew import JOB, PRODUCT, together
from .dots import how, pointer
from .layers import STREAM
from .vectors import normalise, numbers, read, sigmoid, write

R, K, V, O, UP, GATE, DOWN = range(7)  # noqa: E741 - the mixer's own names
PRODUCTS = 7
"""Products of a layer; each is a row of int64, as in `crew.together`."""
(ATTN_WEIGHT, ATTN_BIAS, FFN_WEIGHT, FFN_BIAS, MIX_R, MIX_K, MIX_V, MIX_UP, MIX_GATE) = range(9)
VECTORS = 9
"""Rows of the table of vectors (C,)."""
X, H, LAST, ENTERING, ROWS = 0, 1, 2, 3, 6
"""Rows of working memory for C or A numbers: the residual, what a mixer sees and saw last, and from
`ENTERING` on what enters up to three products."""
(KIND, WEIGHTS, TABLE, PAST, EPS, ATTN_SHIFT, FFN_SHIFT, STATE, SIZE, WIDTH) = range(10)
ENTRIES = 10
"""Entries of a layer (int64): what the residual stream and the shifts are held in; the addresses of
its products (7, 5), its vectors (9, C), decay and bonus (2, A), the eps of both norms, what both
mixers saw last (C,), its state (3, A); C and A. Numbers are fp32 where nothing else is said."""


@njit(**how)
def _product(job, product, x, y):
    together(job, product, x.ctypes.data, 0, y.ctypes.data)


@njit(**how)
def _mixed_products(job, products, rows, mix, size, y):
    """Products, each of its own `h * mix + last * (1 - mix)`."""
    h, last = rows[H, :size], rows[LAST, :size]
    for part in range(len(products)):
        own, entering = mix[part], rows[ENTERING + part, :size]
        for i in range(size):
            entering[i] = last[i] + own[i] * (h[i] - last[i])
    apart = 4 * rows.shape[1]
    together(job, products, rows[ENTERING].ctypes.data, apart, y.ctypes.data)


@njit(**how)
def _recur(r, k, v, decay, bonus, state):
    """`r` becomes sigmoid(r) times the answer; state (3, A) moves on."""
    for i in range(len(r)):
        y, state[0, i], state[1, i], state[2, i] = recur(
            k[i], v[i], decay[i], bonus[i], state[0, i], state[1, i], state[2, i]
        )
        r[i] = sigmoid(r[i]) * y


@njit(**how)
def _time_mix(job, layer, products, vectors, rows, wide):
    size, width = layer[SIZE], layer[WIDTH]
    x, h, last = rows[X, :size], rows[H, :size], rows[LAST, :size]
    past, state = numbers(layer[PAST], (2, width)), numbers(layer[STATE], (3, width))
    read(layer[KIND], layer[ATTN_SHIFT], last)
    _mixed_products(job, products[R : V + 1], rows, vectors[MIX_R : MIX_V + 1], size, wide)
    write(layer[KIND], h, layer[ATTN_SHIFT])
    r, k, v = wide[:width], wide[width : 2 * width], wide[2 * width : 3 * width]
    _recur(r, k, v, past[0], past[1], state)
    added = rows[ENTERING, :size]
    _product(job, products[O : O + 1], r, added)
    for i in range(size):
        x[i] += added[i]


@njit(**how)
def _channel_mix(job, layer, products, vectors, rows, wide):
    size, inner = layer[SIZE], products[UP, 3]
    x, h, last = rows[X, :size], rows[H, :size], rows[LAST, :size]
    read(layer[KIND], layer[FFN_SHIFT], last)
    _mixed_products(job, products[UP : GATE + 1], rows, vectors[MIX_UP : MIX_GATE + 1], size, wide)
    write(layer[KIND], h, layer[FFN_SHIFT])
    act, gate = wide[:inner], wide[inner : inner + size]
    for i in range(inner):
        act[i] = np.float32(0) if act[i] < np.float32(0) else act[i] * act[i]
    added = rows[ENTERING, :size]
    _product(job, products[DOWN : DOWN + 1], act, added)
    for i in range(size):
        x[i] += sigmoid(gate[i]) * added[i]


@cfunc("void(int64, int64, int64)", **how)
def step(job_address, layer_address, token_address):
    """A token through the layer."""
    job = carray(pointer(job_address), (JOB,), np.int64)
    layer = carray(pointer(layer_address), (ENTRIES,), np.int64)
    stream = carray(pointer(token_address), (STREAM + 1,), np.int64)[STREAM]
    products = carray(pointer(layer[WEIGHTS]), (PRODUCTS, PRODUCT), np.int64)
    size, width, inner = layer[SIZE], layer[WIDTH], products[UP, 3]
    vectors, eps = numbers(layer[TABLE], (VECTORS, size)), numbers(layer[EPS], (2,))
    rows = np.empty((ROWS, max(size, width)), np.float32)
    wide = np.empty(max(3 * width, inner + size), np.float32)
    x, h = rows[X, :size], rows[H, :size]
    read(layer[KIND], stream, x)
    normalise(x, vectors[ATTN_WEIGHT], vectors[ATTN_BIAS], eps[0], h)
    _time_mix(job, layer, products, vectors, rows, wide)
    normalise(x, vectors[FFN_WEIGHT], vectors[FFN_BIAS], eps[1], h)
    _channel_mix(job, layer, products, vectors, rows, wide)
    write(layer[KIND], x, stream)
