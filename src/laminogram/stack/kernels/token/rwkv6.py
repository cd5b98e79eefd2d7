"""One layer of RWKV-5 or 6 for one token of one row (`layers`): norms, token shifts,
products by a crew of threads (`crew`), the recurrence (`matrix_state`), both
additions, in fp32. The formulas are those of `mixers/rwkv5.py` and `mixers/rwkv6.py`.

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
from .layers import ROPES, STREAM
from .shift import channel_mix, move, moved_products, shift
from .vectors import add, norm, numbers, read, write

RECUR = matrix_state.recur6_head.address
"""Where the function lies that does a head of the recurrence."""
(ATTN_WEIGHT, ATTN_BIAS, FFN_WEIGHT, FFN_BIAS, MIX_UP, MIX_GATE, MIX) = range(7)
"""Rows of the table of vectors (C,); from `MIX` on what moves the input of each product that reads
the token, and of RWKV-6 that of the first half of all shares."""
PLACES = (3, 1, 2, 4, 0)
"""Where what the first half of all shares gives for r, k, v, gate and decay lies in it."""
(ATTN_EPS, FFN_EPS) = range(2)
(KIND, NORM, SIZE, WIDTH, HEADS, GATED, DYNAMIC, WEIGHTS, TABLE, EPS) = range(10)
(DECAY, ATTN_SHIFT, FFN_SHIFT, HEAD, RECURRENCE) = range(10, 15)
ENTRIES = 15
"""Entries of a layer (int64): what the residual stream and the shifts are held in; the kind of
norm; C, A and H; whether r, k and v have a gate beside them, and whether decay and token shifts
depend on the token, as in RWKV-6. The addresses of its products (parts, 5): of RWKV-6 the first
half of all shares and the second half of each; those that read the token, r, k, v, gate and of
RWKV-6 the first half of the decay; its second half; o, up, the gate of the channel mixing, down.
The addresses of the table of vectors, of the eps of both norms (2,), of the decay (A,), of RWKV-6
what is added to its log, and of what both mixers saw last (C,). `RECUR`, and the address of the
entries of the recurrence. Numbers are fp32 where nothing else is said."""


@njit(**how)
def _reading(layer):
    """How many products read the token."""
    return 3 + layer[GATED] + layer[DYNAMIC]


@njit(**how)
def _shares(job, products, h, last, mixes):
    """What moves the input of each product (n, C), which depends on the token: from the first half
    of all shares and the second half of each, `products (1 + n, 5)`; mixes (n + 1, C)."""
    count, size = len(products) - 1, len(h)
    first, out = np.empty(size, np.float32), np.empty((count, size), np.float32)
    inner = np.empty(products[0, 3], np.float32)
    move(h, last, mixes[count], first)
    together(job, products[:1], first.ctypes.data, 0, inner.ctypes.data)
    rank = len(inner) // count
    rows = np.empty((count, rank), np.float32)
    for part in range(count):
        for i in range(rank):
            rows[part, i] = np.float32(math.tanh(inner[PLACES[part] * rank + i]))
    together(job, products[1:], rows.ctypes.data, 4 * rank, out.ctypes.data)
    for part in range(count):
        add(out[part], mixes[part])
    hold(first)
    hold(rows)
    return out


@njit(**how)
def _decay(job, second, first, offset):
    """The logs of the negative logs of the decays (A,), which depend on the token."""
    raw = np.empty(len(offset), np.float32)
    for i in range(len(first)):
        first[i] = np.float32(math.tanh(first[i]))
    together(job, second, first.ctypes.data, 0, raw.ctypes.data)
    add(raw, offset)
    return raw


@njit(**how)
def _time_mix(job, layer, products, mixes, h, out):
    """From what enters the time mixing (C,) to what leaves it."""
    width, reading, dynamic = layer[WIDTH], _reading(layer), layer[DYNAMIC] != 0
    at = 1 + reading if dynamic else 0
    last = shift(layer[KIND], h, layer[ATTN_SHIFT])
    shares = _shares(job, products[:at], h, last, mixes) if dynamic else mixes
    own, total = products[at : at + reading], 0
    for part in range(reading):
        total += own[part, 3]
    wide, z = np.empty(total, np.float32), np.empty(width, np.float32)
    moved_products(job, own, h, last, shares, wide)
    at += reading
    decay = numbers(layer[DECAY], (width,))
    if dynamic:
        decay = _decay(job, products[at : at + 1], wide[total - own[-1, 3] :], decay)
        at += 1
    table = carray(pointer(layer[RECURRENCE]), (matrix_state.ENTRIES,), np.int64).copy()
    row, place = 4 * width, wide.ctypes.data
    table[matrix_state.R], table[matrix_state.K] = place, place + row
    table[matrix_state.V], table[matrix_state.Z] = place + 2 * row, z.ctypes.data
    table[matrix_state.G] = place + 3 * row if layer[GATED] != 0 else 0
    table[matrix_state.W] = decay.ctypes.data
    matrix_state.recur(job, layer[HEADS], layer[HEAD], table)
    together(job, products[at : at + 1], z.ctypes.data, 0, out.ctypes.data)
    hold(wide)
    hold(decay)
    hold(z)


@cfunc("void(int64, int64, int64)", **how)
def step(job_address, layer_address, token_address):
    """A token through the layer."""
    job = carray(pointer(job_address), (JOB,), np.int64)
    layer = carray(pointer(layer_address), (ENTRIES,), np.int64)
    token = carray(pointer(token_address), (ROPES,), np.int64)
    kind, size, reading = layer[KIND], layer[SIZE], _reading(layer)
    parts = reading + 4 + layer[DYNAMIC] * (reading + 2)
    products = carray(pointer(layer[WEIGHTS]), (parts, PRODUCT), np.int64)
    vectors = numbers(layer[TABLE], (MIX + reading + layer[DYNAMIC], size))
    eps = numbers(layer[EPS], (2,))
    x, h, out = np.empty(size, np.float32), np.empty(size, np.float32), np.empty(size, np.float32)
    read(kind, token[STREAM], x)
    norm(layer[NORM], x, vectors[ATTN_WEIGHT], vectors[ATTN_BIAS], eps[ATTN_EPS], h)
    _time_mix(job, layer, products, vectors[MIX:], h, out)
    add(x, out)
    norm(layer[NORM], x, vectors[FFN_WEIGHT], vectors[FFN_BIAS], eps[FFN_EPS], h)
    last = shift(kind, h, layer[FFN_SHIFT])
    channel_mix(job, products[parts - 3 :], h, last, vectors[MIX_UP:MIX], x)
    write(kind, x, token[STREAM])
