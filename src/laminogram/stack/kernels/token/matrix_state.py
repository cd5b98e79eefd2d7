"""The recurrences of RWKV-5, 6 and 7 for one token of one row, a head a share (`crew`), in
fp32: from what the products gave to what enters the output projection. The formulas are those of
`wkv6_naive.py`, `wkv7_naive.py` and the mixers.

Axes: A = H D width, H heads, D head. The state is (H, D values, D keys).
"""

# Compiled functions take arrays and addresses, for which Python has no types to write.
# An intrinsic is called without the typing context that it is written with.
# mypy: disallow_untyped_defs=False, disallow_incomplete_defs=False, disable-error-code=call-arg
from __future__ import annotations

import math

import numpy as np
from numba import carray, cfunc, njit

from .crew import JOB, X, finish
from .dots import hold, how, pointer
from .vectors import exp, normalise, numbers, sigmoid

(SIZE, STATE, EPS, NORM_WEIGHT, NORM_BIAS, BONUS, R, K, V, W, G, Z) = range(12)
"""Entries of a recurrence (int64): D; the addresses of the state, of the group norm's eps (1,), of
what it multiplies with and adds, and of the bonus; of r, k, v and w, of the gate, or 0, and of
where the answer goes. All are (A,) and fp32, as are those that follow."""
IS_DECAY = 12
"""RWKV-5 and 6: whether w is the decay, not the log of its negative log."""
(RATE, SHARE, FIRST, W0, A0, V0, K_K, K_A) = range(13, 21)
"""RWKV-7: the addresses of the learning rate before its offset and sigmoid, of the share of the
first layer's values, likewise, or 0, of those values, and of the vectors of these names."""
ENTRIES = 21
_SLOWEST = np.float32(math.exp(-0.5))
_SHORTEST = np.float32(1e-12)


@njit(**how)
def _own(address, head, size):
    """A head's numbers (D,) of those at an address."""
    return numbers(address + 4 * head * size, (size,))


@njit(**how)
def _end(table, head, z):
    """The group norm of a head's answer, in place."""
    size = table[SIZE]
    weight, bias = _own(table[NORM_WEIGHT], head, size), _own(table[NORM_BIAS], head, size)
    normalise(z, weight, bias, numbers(table[EPS], (1,))[0], z)


@njit(**how)
def _decay_of(w):
    """exp(-exp(w))."""
    small = exp(-abs(w))
    return exp(-(np.float32(1) / small if w > 0 else small))


@cfunc("void(int64, int64)", **how)
def recur6_head(job_address, head):
    """A head of RWKV-5 or 6: the token reads the state before it, and itself by its bonus."""
    job = carray(pointer(job_address), (JOB,), np.int64)
    table = carray(pointer(job[X]), (ENTRIES,), np.int64)
    size = table[SIZE]
    state = numbers(table[STATE] + 4 * head * size * size, (size, size))
    r, k, v = _own(table[R], head, size), _own(table[K], head, size), _own(table[V], head, size)
    w, u, z = _own(table[W], head, size), _own(table[BONUS], head, size), _own(table[Z], head, size)
    decay, own = np.empty(size, np.float32), np.float32(0)
    for j in range(size):
        decay[j] = w[j] if table[IS_DECAY] != 0 else _decay_of(w[j])
        own += k[j] * u[j] * r[j]
    for i in range(size):
        row, read = state[i], np.float32(0)
        for j in range(size):
            read += row[j] * r[j]
            row[j] = row[j] * decay[j] + v[i] * k[j]
        z[i] = read + v[i] * own
    _end(table, head, z)
    if table[G] != 0:
        gate = _own(table[G], head, size)
        for i in range(size):
            z[i] *= gate[i] * sigmoid(gate[i])


@njit(**how)
def _remove_and_join(state, removed, moved, decay, k, v, r, z):
    """The state decays, what it holds at the key `removed` goes along `moved`, the new pair joins
    it, and the token reads it into `z`."""
    for i in range(len(z)):
        row, held, read = state[i], np.float32(0), np.float32(0)
        for j in range(len(r)):
            held -= row[j] * removed[j]
        for j in range(len(r)):
            row[j] = row[j] * decay[j] + held * moved[j] + v[i] * k[j]
            read += row[j] * r[j]
        z[i] = read


@cfunc("void(int64, int64)", **how)
def recur7_head(job_address, head):
    """A head of RWKV-7."""
    job = carray(pointer(job_address), (JOB,), np.int64)
    table = carray(pointer(job[X]), (ENTRIES,), np.int64)
    size = table[SIZE]
    state = numbers(table[STATE] + 4 * head * size * size, (size, size))
    r, k, v = _own(table[R], head, size), _own(table[K], head, size), _own(table[V], head, size)
    w, w0 = _own(table[W], head, size), _own(table[W0], head, size)
    rate, a0 = _own(table[RATE], head, size), _own(table[A0], head, size)
    k_k, k_a = _own(table[K_K], head, size), _own(table[K_A], head, size)
    u, g, z = _own(table[BONUS], head, size), _own(table[G], head, size), _own(table[Z], head, size)
    rows = np.empty((3, size), np.float32)
    decay, removed, moved = rows[0], rows[1], rows[2]
    square, own = np.float32(0), np.float32(0)
    for j in range(size):
        decay[j] = exp(-_SLOWEST * sigmoid(w0[j] + w[j]))
        removed[j] = k[j] * k_k[j]
        square += removed[j] * removed[j]
    length = max(np.sqrt(square), _SHORTEST)
    for j in range(size):
        a = sigmoid(a0[j] + rate[j])
        removed[j] /= length
        moved[j] = removed[j] * a
        k[j] *= np.float32(1) + (a - np.float32(1)) * k_a[j]
        own += r[j] * k[j] * u[j]
    if table[SHARE] != 0:
        share, v0 = _own(table[SHARE], head, size), _own(table[V0], head, size)
        first = _own(table[FIRST], head, size)
        for j in range(size):
            v[j] += (first[j] - v[j]) * sigmoid(v0[j] + share[j])
    _remove_and_join(state, removed, moved, decay, k, v, r, z)
    _end(table, head, z)
    for i in range(size):
        z[i] = (z[i] + own * v[i]) * g[i]


@njit(**how)
def recur(job, heads, function, table):
    """All heads of a recurrence; `function` is the address of one of those above."""
    job[X] = table.ctypes.data
    finish(job, function, heads)
    hold(table)
