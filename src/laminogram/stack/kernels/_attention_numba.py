"""One layer of attention and feed-forward network, pre-norm, for one token of one row, in one call:
norms, products and attention by a crew of threads (`_crew_numba`), the rotary turn, the memory and
both additions, in fp32.

The formulas are those of `mixers/attention.py`, `mixers/mlp.py`, `rope.turn` and `norms.py`.

Axes: C channels, H heads, K key heads, D head size, R turned channels of a head, F ffn width.
"""

# Compiled functions take arrays and addresses, for which Python has no types to write.
# An intrinsic is called without the typing context that it is written with.
# mypy: disallow_untyped_defs=False, disallow_incomplete_defs=False, disable-error-code=call-arg
from __future__ import annotations

import math

import numpy as np
from numba import carray, njit

from ._attend_numba import (
    ANSWERS,
    ATTENTION,
    CAPACITY,
    END,
    FIRST,
    GROUP,
    KEY_HEADS,
    KEYS,
    KIND,
    QUERIES,
    SIZE,
    VALUES,
    attend_head,
)
from ._crew_numba import X, finish, together
from ._dots_numba import how, pointer
from ._vectors_numba import normalise, normalise_by_square, read, sigmoid, write

(ATTN_WEIGHT, ATTN_BIAS, FFN_WEIGHT, FFN_BIAS, O_BIAS, DOWN_BIAS) = range(6)
"""Rows of the table of vectors (C,)."""
RMS, LAYER = range(2)
SILU, GELU, GELU_TANH, RELU, RELU2 = range(5)
ATTEND = attend_head.address
"""Where the function lies that does a share of an attention."""

_ROOT_HALF, _ROOT_2_PI = np.float32(0.5**0.5), np.float32((2 / math.pi) ** 0.5)
_CUBIC = np.float32(0.044715)


@njit(**how)
def _norm(kind, x, weight, bias, eps, out):
    if kind == RMS:
        normalise_by_square(x, weight, bias, eps, out)
    else:
        normalise(x, weight, bias, eps, out)


@njit(**how)
def _activate(kind, x):
    """In place. GELU by tanh is written as `x * sigmoid(2u)`, for `(1 + tanh(u)) / 2`."""
    half, one, two = np.float32(0.5), np.float32(1), np.float32(2)
    for i in range(len(x)):
        if kind == SILU:
            x[i] *= sigmoid(x[i])
        elif kind == GELU:
            x[i] *= half * (one + np.float32(math.erf(x[i] * _ROOT_HALF)))
        elif kind == GELU_TANH:
            x[i] *= sigmoid(two * _ROOT_2_PI * (x[i] + _CUBIC * x[i] * x[i] * x[i]))
        else:
            positive = np.float32(0) if x[i] < np.float32(0) else x[i]
            x[i] = positive if kind == RELU else positive * positive


@njit(**how)
def _turn(x, size, cos, sin, spare):
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
def _remember(table, x, memory):
    """Write `x` (K * D,) to the last column that is looked at."""
    size, width = table[SIZE], 4 if table[KIND] == 0 else 2
    for head in range(table[KEY_HEADS]):
        column = head * table[CAPACITY] + table[END] - 1
        write(table[KIND], x[head * size : (head + 1) * size], memory + column * size * width)


@njit(**how)
def _add(x, more):
    for i in range(len(x)):
        x[i] += more[i]


@njit(**how)
def layer_step(job, x_in, products, vectors, biases, kinds, numbers, heads, wide, now, out):
    """A token through the layer.

    x_in, out: the address of the residual stream (C,), and where to write it. products: of q, k, v,
    o, the gate where there is one, up, down, as in `_crew_numba.together`. vectors (6, C); biases:
    of q, k and v in one, of gate and up in one. kinds: of stream and memory, norm, activation.
    numbers: both eps, scale. heads: keys, values, K, G, D,
    capacity, address of `attend_head`. wide (3, .): memory. now: this
    token's cosines and sines (R,), R, the first column that is looked at, and the end.
    """
    kind, norm, activation = kinds
    size, row = vectors.shape[1], wide[2]
    x, h, qkv = wide[0, :size], wide[1, :size], row[: len(biases[0])]
    read(kind, x_in, x)
    _norm(norm, x, vectors[ATTN_WEIGHT], vectors[ATTN_BIAS], numbers[0], h)
    together(job, products[:3], h.ctypes.data, 0, qkv.ctypes.data)
    _add(qkv, biases[0])
    table = np.empty(ATTENTION, np.int64)
    keys, values, key_heads, group, head_size, capacity = heads[:6]
    table[KIND], table[KEYS], table[VALUES], table[CAPACITY] = kind, keys, values, capacity
    table[KEY_HEADS], table[GROUP], table[SIZE] = key_heads, group, head_size
    table[FIRST], table[END] = now[3], now[4]
    z = wide[1, : key_heads * group * head_size]
    table[QUERIES], table[ANSWERS] = qkv.ctypes.data, z.ctypes.data
    _attention(job, heads[6], table, qkv, numbers[2], now)
    added = row[:size]
    together(job, products[3:4], z.ctypes.data, 0, added.ctypes.data)
    _add(x, added)
    _add(x, vectors[O_BIAS])
    _norm(norm, x, vectors[FFN_WEIGHT], vectors[FFN_BIAS], numbers[1], h)
    both = row[: len(biases[1])]
    together(job, products[4:-1], h.ctypes.data, 0, both.ctypes.data)
    _add(both, biases[1])
    inner = products[-1, 4]
    act = both[:inner]
    _activate(activation, act)
    if len(both) > inner:
        for i in range(inner):
            act[i] *= both[inner + i]
    down = wide[1, :size]
    together(job, products[-1:], act.ctypes.data, 0, down.ctypes.data)
    _add(x, down)
    _add(x, vectors[DOWN_BIAS])
    write(kind, x, out)


@njit(**how)
def _attention(job, attend, table, qkv, scale, now):
    """From q, k and v in one vector to the answers; the memory takes the keys and values."""
    size, narrow = table[SIZE], table[KEY_HEADS] * table[SIZE]
    width = narrow * table[GROUP]
    q, k, v = qkv[:width], qkv[width : width + narrow], qkv[width + narrow :]
    if now[2] > 0:
        cos = carray(pointer(now[0]), (now[2],), np.float32)
        sin = carray(pointer(now[1]), (now[2],), np.float32)
        spare = np.empty(now[2], np.float32)
        _turn(q, size, cos, sin, spare)
        _turn(k, size, cos, sin, spare)
    for i in range(width):
        q[i] *= scale
    _remember(table, k, table[KEYS])
    _remember(table, v, table[VALUES])
    job[X] = table.ctypes.data
    finish(job, attend, table[KEY_HEADS])
