"""One layer of attention and feed-forward network, pre-norm, for one token of one row
(`_layers_numba`): norms, products and attention by a crew of threads (`_crew_numba`), the rotary
turn, the memory and both additions, in fp32.

The formulas are those of `mixers/attention.py`, `mixers/mlp.py`, `rope.turn` and `norms.py`.

Axes: C channels, H heads, K key heads, D head size, R turned channels of a head, F ffn width.
"""

# Compiled functions take arrays and addresses, for which Python has no types to write.
# An intrinsic is called without the typing context that it is written with.
# mypy: disallow_untyped_defs=False, disallow_incomplete_defs=False, disable-error-code=call-arg
from __future__ import annotations

import math

import numpy as np
from numba import carray, cfunc, njit

from . import _attend_numba as attend
from ._crew_numba import JOB, PRODUCT, X, finish, together
from ._dots_numba import how, pointer
from ._layers_numba import END, ROPE, ROPES, STREAM
from ._vectors_numba import norm, numbers, read, sigmoid, write

(ATTN_WEIGHT, ATTN_BIAS, FFN_WEIGHT, FFN_BIAS, O_BIAS, DOWN_BIAS) = range(6)
"""Rows of the table of vectors (C,)."""
SILU, GELU, GELU_TANH, RELU, RELU2 = range(5)
ATTEND_HEAD = attend.attend_head.address
"""Where the function lies that does a share of an attention."""
(KIND, NORM, ACTIVATION, SIZE, WEIGHTS, PARTS, TABLE, QKV_BIAS, FFN_BIASES, NUMBERS) = range(10)
(KEYS, VALUES, KEY_HEADS, GROUP, HEAD_SIZE, CAPACITY, ATTEND, TURN, WINDOW) = range(10, 19)
ENTRIES = 19
"""Entries of a layer (int64): what the residual stream and the memory are held in; kinds of norm
and activation; C; the addresses of its products (parts, 5), how many there are (of q, k, v, o, the
gate where there is one, up, down), and the addresses of its vectors (6, C), of the biases of q, k
and v in one and of gate and up in one, and of three numbers: both eps, scale. Keys and values
(K, capacity, D), K, G = H / K, D and the capacity; `ATTEND_HEAD`; which rope turns, from 0, or -1;
the window, or 0. Numbers are fp32 where nothing else is said."""

_ROOT_HALF, _ROOT_2_PI = np.float32(0.5**0.5), np.float32((2 / math.pi) ** 0.5)
_CUBIC = np.float32(0.044715)


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
def _remember(layer, x, memory, column):
    """Write `x` (K * D,) to a column of the memory."""
    size, width = layer[HEAD_SIZE], 4 if layer[KIND] == 0 else 2
    for head in range(layer[KEY_HEADS]):
        at = head * layer[CAPACITY] + column
        write(layer[KIND], x[head * size : (head + 1) * size], memory + at * size * width)


@njit(**how)
def _add(x, more):
    for i in range(len(x)):
        x[i] += more[i]


@njit(**how)
def _turn_both(rope, q, k, size):
    """rope: addresses of cosines and sines, and R."""
    cos, sin = numbers(rope[0], (rope[2],)), numbers(rope[1], (rope[2],))
    spare = np.empty(rope[2], np.float32)
    _turn(q, size, cos, sin, spare)
    _turn(k, size, cos, sin, spare)


@njit(**how)
def _attention(job, layer, token, qkv, scale, z):
    """From q, k and v in one vector to the answers `z` (H * D,); the memory takes the keys and
    values."""
    size, narrow = layer[HEAD_SIZE], layer[KEY_HEADS] * layer[HEAD_SIZE]
    width = narrow * layer[GROUP]
    q, k, v = qkv[:width], qkv[width : width + narrow], qkv[width + narrow :]
    if layer[TURN] >= 0:
        _turn_both(token[ROPES + ROPE * layer[TURN] :], q, k, size)
    for i in range(width):
        q[i] *= scale
    end = token[END]
    _remember(layer, k, layer[KEYS], end - 1)
    _remember(layer, v, layer[VALUES], end - 1)
    table = np.empty(attend.ATTENTION, np.int64)
    table[attend.KIND], table[attend.CAPACITY] = layer[KIND], layer[CAPACITY]
    table[attend.QUERIES], table[attend.ANSWERS] = qkv.ctypes.data, z.ctypes.data
    table[attend.KEYS], table[attend.VALUES] = layer[KEYS], layer[VALUES]
    table[attend.KEY_HEADS], table[attend.GROUP] = layer[KEY_HEADS], layer[GROUP]
    table[attend.SIZE], table[attend.END] = size, end
    table[attend.FIRST] = max(0, end - layer[WINDOW]) if layer[WINDOW] > 0 else 0
    job[X] = table.ctypes.data
    finish(job, layer[ATTEND], layer[KEY_HEADS])


@njit(**how)
def _feed_forward(job, layer, products, vectors, x, h):
    inner = products[-1, 4]
    outputs = inner * (len(products) - 5)  # of the gate and up, or of up
    both = np.empty(outputs, np.float32)
    together(job, products[4:-1], h.ctypes.data, 0, both.ctypes.data)
    _add(both, numbers(layer[FFN_BIASES], (outputs,)))
    act = both[:inner]
    _activate(layer[ACTIVATION], act)
    if outputs > inner:
        for i in range(inner):
            act[i] *= both[inner + i]
    together(job, products[-1:], act.ctypes.data, 0, h.ctypes.data)
    _add(x, h)
    _add(x, vectors[DOWN_BIAS])


@cfunc("void(int64, int64, int64)", **how)
def step(job_address, layer_address, token_address):
    """A token through the layer."""
    job = carray(pointer(job_address), (JOB,), np.int64)
    layer = carray(pointer(layer_address), (ENTRIES,), np.int64)
    token = carray(pointer(token_address), (ROPES + ROPE * (layer[TURN] + 1),), np.int64)
    products = carray(pointer(layer[WEIGHTS]), (layer[PARTS], PRODUCT), np.int64)
    kind, norm_kind, size = layer[KIND], layer[NORM], layer[SIZE]
    vectors, three = numbers(layer[TABLE], (6, size)), numbers(layer[NUMBERS], (3,))
    width, joint = products[3, 4], products[0, 3] + 2 * products[1, 3]
    qkv, z = np.empty(joint, np.float32), np.empty(width, np.float32)
    x, h = np.empty(size, np.float32), np.empty(size, np.float32)
    read(kind, token[STREAM], x)
    norm(norm_kind, x, vectors[ATTN_WEIGHT], vectors[ATTN_BIAS], three[0], h)
    together(job, products[:3], h.ctypes.data, 0, qkv.ctypes.data)
    _add(qkv, numbers(layer[QKV_BIAS], (joint,)))
    _attention(job, layer, token, qkv, three[2], z)
    together(job, products[3:4], z.ctypes.data, 0, h.ctypes.data)
    _add(x, h)
    _add(x, vectors[O_BIAS])
    norm(norm_kind, x, vectors[FFN_WEIGHT], vectors[FFN_BIAS], three[1], h)
    _feed_forward(job, layer, products, vectors, x, h)
    write(kind, x, token[STREAM])
