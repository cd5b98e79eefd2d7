"""Attention for one token of one row (`block`): products and heads by a crew of threads (`crew`),
norms of queries and keys, the rotary turn, the memory, in fp32. The formulas are those of
`mixers/attention.py` and `rope.turn`.

Axes: C channels, H heads, K key heads, D head size, R turned channels of a head.
"""

# Compiled functions take arrays and addresses, for which Python has no types to write.
# An intrinsic is called without the typing context that it is written with.
# mypy: disallow_untyped_defs=False, disallow_incomplete_defs=False, disable-error-code=call-arg
from __future__ import annotations

import math

import numpy as np
from numba import carray, cfunc, njit

from . import attend
from .crew import JOB, PRODUCT, X, finish, together
from .dots import hold, how, pointer
from .layers import END, ROPE, ROPES
from .vectors import add, norm, numbers, write

(Q_WEIGHT, Q_BIAS, K_WEIGHT, K_BIAS) = range(4)
"""Rows of the table of vectors (D,)."""
(Q_EPS, K_EPS, SCALE, TRAINED) = range(4)
"""Numbers of an attention; the last one is the log of the length beyond which queries are
stretched, or 0."""
ATTEND_HEAD = attend.attend_head.address
"""Where the function lies that does a share of an attention."""
(KIND, NORM, SIZE, WEIGHTS, TABLE, QKV_BIAS, O_BIAS, NUMBERS) = range(8)
(KEYS, VALUES, KEY_HEADS, GROUP, HEAD_SIZE, CAPACITY, ATTEND, TURN, WINDOW, SLOPES) = range(8, 18)
ENTRIES = 18
"""Entries of an attention (int64): what the memory is held in; the kind of norm of q and k, or -1;
C; the addresses of the products q, k, v and o (4, 5), of the table of vectors, of the biases of q,
k and v in one, of the bias of o (C,), and of the numbers. Keys and values (K, capacity, D), K,
G = H / K, D and the capacity; `ATTEND_HEAD`; which rope turns, from 0, or -1; the window, or 0; the
address of slopes (H,), or 0. Numbers are fp32 where nothing else is said."""


@njit(**how)
def turn(x, size, cos, sin, spare):
    """Turn the first R channels of each head of `x` (heads * D,); the sine carries its sign."""
    turned = len(cos)
    half = turned // 2
    for start in range(0, len(x), size):
        for i in range(turned):
            spare[i] = x[start + i]
        for i in range(half):
            x[start + i] = spare[i] * cos[i] + spare[half + i] * sin[i]
            x[start + half + i] = spare[half + i] * cos[half + i] + spare[i] * sin[half + i]


@njit(**how)
def _remember(layer, x, memory, column):
    """Write `x` (K * D,) to a column of the memory."""
    size, width = layer[HEAD_SIZE], 4 if layer[KIND] == 0 else 2
    for head in range(layer[KEY_HEADS]):
        at = head * layer[CAPACITY] + column
        write(layer[KIND], x[head * size : (head + 1) * size], memory + at * size * width)


@njit(**how)
def _turn_both(rope, q, k, size):
    """rope: addresses of cosines and sines, and R."""
    cos, sin = numbers(rope[0], (rope[2],)), numbers(rope[1], (rope[2],))
    spare = np.empty(rope[2], np.float32)
    turn(q, size, cos, sin, spare)
    turn(k, size, cos, sin, spare)


@njit(**how)
def _norm_heads(kind, x, size, weight, bias, eps):
    """Each head of `x` (heads * D,), in place."""
    for start in range(0, len(x), size):
        head = x[start : start + size]
        norm(kind, head, weight, bias, eps, head)


@njit(**how)
def _place(layer, token, q, k, scalars):
    """What q and k go through before they meet: norms, rotary, scale."""
    size, end = layer[HEAD_SIZE], token[END]
    kind = layer[NORM]
    if kind >= 0:
        table = numbers(layer[TABLE], (4, size))
        _norm_heads(kind, q, size, table[Q_WEIGHT], table[Q_BIAS], scalars[Q_EPS])
        _norm_heads(kind, k, size, table[K_WEIGHT], table[K_BIAS], scalars[K_EPS])
    if layer[TURN] >= 0:
        _turn_both(token[ROPES + ROPE * layer[TURN] :], q, k, size)
    scale = scalars[SCALE]
    if scalars[TRAINED] > 0:
        scale *= max(np.float32(1), np.float32(math.log(end)) / scalars[TRAINED])
    for i in range(len(q)):
        q[i] *= scale


@njit(**how)
def _look_back(job, layer, token, qkv, scalars, z):
    """From q, k and v in one vector to the answers `z` (H * D,); the memory takes the keys and
    values."""
    size, narrow = layer[HEAD_SIZE], layer[KEY_HEADS] * layer[HEAD_SIZE]
    width, end = narrow * layer[GROUP], token[END]
    k, v = qkv[width : width + narrow], qkv[width + narrow :]
    _place(layer, token, qkv[:width], k, scalars)
    _remember(layer, k, layer[KEYS], end - 1)
    _remember(layer, v, layer[VALUES], end - 1)
    table = np.empty(attend.ATTENTION, np.int64)
    table[attend.KIND], table[attend.GROUP] = layer[KIND], layer[GROUP]
    table[attend.QUERIES], table[attend.ANSWERS] = qkv.ctypes.data, z.ctypes.data
    table[attend.KEYS], table[attend.VALUES] = layer[KEYS], layer[VALUES]
    table[attend.SIZE], table[attend.VALUE_SIZE], table[attend.ROW] = size, size, size
    table[attend.APART], table[attend.END] = layer[CAPACITY] * size, end
    table[attend.FIRST] = max(0, end - layer[WINDOW]) if layer[WINDOW] > 0 else 0
    table[attend.SLOPES] = layer[SLOPES]
    job[X] = table.ctypes.data
    finish(job, layer[ATTEND], layer[KEY_HEADS])
    hold(table)


@cfunc("void(int64, int64, int64, int64, int64)", **how)
def step(job_address, layer_address, token_address, h_address, out_address):
    """From what enters the attention (C,) to what leaves it."""
    job = carray(pointer(job_address), (JOB,), np.int64)
    layer = carray(pointer(layer_address), (ENTRIES,), np.int64)
    token = carray(pointer(token_address), (ROPES + ROPE * (layer[TURN] + 1),), np.int64)
    products = carray(pointer(layer[WEIGHTS]), (4, PRODUCT), np.int64)
    joint = products[0, 3] + 2 * products[1, 3]
    qkv, z = np.empty(joint, np.float32), np.empty(products[3, 4], np.float32)
    scalars = numbers(layer[NUMBERS], (TRAINED + 1,))
    together(job, products[:3], h_address, 0, qkv.ctypes.data)
    add(qkv, numbers(layer[QKV_BIAS], (joint,)))
    _look_back(job, layer, token, qkv, scalars, z)
    together(job, products[3:4], z.ctypes.data, 0, out_address)
    add(numbers(out_address, (layer[SIZE],)), numbers(layer[O_BIAS], (layer[SIZE],)))
    hold(qkv)
    hold(z)
