"""One layer of RWKV-4 for one token of one row, in one call: norms, token shifts, the seven
products by a crew of threads (`_crew_numba`), the recurrence and both additions, in fp32.

The formulas are those of `mixers/rwkv4.py` and `wkv4_naive`. Where the last weight lies by its
inputs, its product leaves out what the squared ReLU has set to zero.

Axes: C channels, A width, F ffn width.
"""

# Compiled functions take arrays and addresses, for which Python has no types to write.
# An intrinsic is called without the typing context that it is written with.
# mypy: disallow_untyped_defs=False, disallow_incomplete_defs=False, disable-error-code=call-arg
from __future__ import annotations

import math

import numpy as np
from numba import carray, njit

from ._crew_numba import BF16, how, multiply, pointer

R, K, V, O, UP, GATE, DOWN = range(7)  # noqa: E741 - the mixer's own names
PRODUCTS = 7
"""Products of a layer; each is a row (kind, weight, scale, outputs, inputs) of int64."""
(ATTN_WEIGHT, ATTN_BIAS, FFN_WEIGHT, FFN_BIAS, MIX_R, MIX_K, MIX_V, MIX_UP, MIX_GATE) = range(9)
VECTORS = 9
"""Rows of the table of vectors (C,)."""
WIDE, NARROW = 2, 5
"""Rows of working memory for F or C, and for C or A, numbers."""

_LOG2_E = np.float32(1.4426950408889634)
_TAYLOR = tuple(np.float32(math.log(2) ** n / math.factorial(n)) for n in range(7, -1, -1))
"""Of 2**x, highest power first."""


@njit(**how)
def _exp(x):
    """e**x of a number that is not positive, to two roundings; a loop over it is vectorised."""
    power = x * _LOG2_E
    power = np.float32(-126) if power < np.float32(-126) else power  # this way round NaN stays
    whole = np.int32(power - np.float32(0.5))
    part = power - np.float32(whole)
    out = _TAYLOR[0]
    for c in _TAYLOR[1:]:
        out = out * part + c
    return out * np.int32((whole + np.int32(127)) << np.int32(23)).view(np.float32)


@njit(**how)
def _sigmoid(x):
    small = _exp(-abs(x))
    return (np.float32(1) if x > 0 else small) / (np.float32(1) + small)


@njit(**how)
def read(kind, address, out):
    """Numbers in fp32 or bf16 at an address, as fp32."""
    if kind == BF16:
        bits = carray(pointer(address), out.shape, np.uint16)
        for i in range(len(out)):
            out[i] = np.uint32(np.uint32(bits[i]) << np.uint32(16)).view(np.float32)
    else:
        out[:] = carray(pointer(address), out.shape, np.float32)


@njit(**how)
def write(kind, x, address):
    """The reverse; bf16 rounded to nearest, to even in the middle."""
    if kind == BF16:
        bits = carray(pointer(address), x.shape, np.uint16)
        for i in range(len(x)):
            own = np.float32(x[i]).view(np.uint32)
            odd = np.uint32(own >> np.uint32(16)) & np.uint32(1)
            bits[i] = np.uint16(np.uint32(own + np.uint32(0x7FFF) + odd) >> np.uint32(16))
    else:
        carray(pointer(address), x.shape, np.float32)[:] = x


@njit(**how)
def _normalise(x, weight, bias, eps, out):
    mean = np.float32(0)
    for i in range(len(x)):
        mean += x[i]
    mean /= np.float32(len(x))
    spread = np.float32(0)
    for i in range(len(x)):
        spread += (x[i] - mean) * (x[i] - mean)
    factor = np.float32(1) / np.sqrt(spread / np.float32(len(x)) + np.float32(eps))
    for i in range(len(x)):
        out[i] = (x[i] - mean) * factor * weight[i] + bias[i]


@njit(**how)
def _product(job, product, x, y):
    kind, weight, scale = product[0], product[1], product[2]
    multiply(job, kind, weight, scale, product[3], product[4], x.ctypes.data, y.ctypes.data)


@njit(**how)
def _mixed_product(job, product, h, last, mix, spare, y):
    """The product of `h * mix + last * (1 - mix)`."""
    for i in range(len(h)):
        spare[i] = last[i] + mix[i] * (h[i] - last[i])
    _product(job, product, spare, y)


@njit(**how)
def _recur(r, k, v, decay, bonus, state):
    """`r` becomes sigmoid(r) times the answer; state (3, A) moves on."""
    one = np.float32(1)
    for i in range(len(r)):
        num, den, scale = state[0, i], state[1, i], state[2, i]
        ahead = bonus[i] + k[i] - scale
        share = _exp(-abs(ahead))
        past, own = (share, one) if ahead > 0 else (one, share)
        r[i] = _sigmoid(r[i]) * (past * num + own * v[i]) / (past * den + own)
        ahead = k[i] - (scale + decay[i])
        share = _exp(-abs(ahead))
        past, own = (share, one) if ahead > 0 else (one, share)
        state[0, i] = past * num + own * v[i]
        state[1, i] = past * den + own
        state[2, i] = max(scale + decay[i], k[i])


@njit(**how)
def layer_step(job, kind, x_in, products, vectors, past, eps, shifts, state, wide, narrow, out):
    """A token through the layer.

    kind, x_in, out: what the residual stream (C,) is held in, its address, and where to write it.
    vectors (9, C), past (2, A): decay and bonus, fp32. eps: of both norms. shifts: the addresses of
    what both mixers saw last (C,), in `kind`. state (3, A). wide (2, .), narrow (5, .): memory.
    """
    size, width = vectors.shape[1], past.shape[1]
    x, h, last, spare = wide[0, :size], wide[1, :size], narrow[0, :size], narrow[1, :size]
    read(kind, x_in, x)
    _normalise(x, vectors[ATTN_WEIGHT], vectors[ATTN_BIAS], eps[0], h)
    read(kind, shifts[0], last)
    r, k, v = narrow[2, :width], narrow[3, :width], narrow[4, :width]
    _mixed_product(job, products[R], h, last, vectors[MIX_R], spare, r)
    _mixed_product(job, products[K], h, last, vectors[MIX_K], spare, k)
    _mixed_product(job, products[V], h, last, vectors[MIX_V], spare, v)
    write(kind, h, shifts[0])
    _recur(r, k, v, past[0], past[1], state)
    _product(job, products[O], r, spare)
    for i in range(size):
        x[i] += spare[i]
    residual, gate = narrow[2, :size], narrow[3, :size]
    residual[:] = x
    _normalise(residual, vectors[FFN_WEIGHT], vectors[FFN_BIAS], eps[1], h)
    read(kind, shifts[1], last)
    _mixed_product(job, products[GATE], h, last, vectors[MIX_GATE], spare, gate)
    act = wide[0, : products[UP, 3]]
    _mixed_product(job, products[UP], h, last, vectors[MIX_UP], spare, act)
    write(kind, h, shifts[1])
    for i in range(len(act)):
        act[i] = np.float32(0) if act[i] < np.float32(0) else act[i] * act[i]
    _product(job, products[DOWN], act, spare)
    for i in range(size):
        residual[i] += _sigmoid(gate[i]) * spare[i]
    write(kind, residual, out)
