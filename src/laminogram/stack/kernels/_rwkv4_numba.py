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

import numpy as np
from numba import njit

from ._crew_numba import together
from ._dots_numba import how
from ._vectors_numba import exp, normalise, read, sigmoid, write

R, K, V, O, UP, GATE, DOWN = range(7)  # noqa: E741 - the mixer's own names
PRODUCTS = 7
"""Products of a layer; each is a row of int64, as in `_crew_numba.together`."""
(ATTN_WEIGHT, ATTN_BIAS, FFN_WEIGHT, FFN_BIAS, MIX_R, MIX_K, MIX_V, MIX_UP, MIX_GATE) = range(9)
VECTORS = 9
"""Rows of the table of vectors (C,)."""
X, H, LAST, ENTERING, ROWS = 0, 1, 2, 3, 6
"""Rows of working memory for C or A numbers: the residual, what a mixer sees and saw last, and from
`ENTERING` on what enters up to three products."""


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
    one = np.float32(1)
    for i in range(len(r)):
        num, den, scale = state[0, i], state[1, i], state[2, i]
        ahead = bonus[i] + k[i] - scale
        share = exp(-abs(ahead))
        past, own = (share, one) if ahead > 0 else (one, share)
        r[i] = sigmoid(r[i]) * (past * num + own * v[i]) / (past * den + own)
        ahead = k[i] - (scale + decay[i])
        share = exp(-abs(ahead))
        past, own = (share, one) if ahead > 0 else (one, share)
        state[0, i] = past * num + own * v[i]
        state[1, i] = past * den + own
        state[2, i] = max(scale + decay[i], k[i])


@njit(**how)
def layer_step(job, kind, x_in, products, vectors, past, eps, shifts, state, rows, wide, out):
    """A token through the layer.

    kind, x_in, out: what the residual stream (C,) is held in, its address, and where to write it.
    vectors (9, C), past (2, A): decay and bonus, fp32. eps: of both norms. shifts: the addresses of
    what both mixers saw last (C,), in `kind`. state (3, A). rows (6, .), wide (.): memory.
    """
    size, width, inner = vectors.shape[1], past.shape[1], products[UP, 3]
    x, h, last, added = rows[X, :size], rows[H, :size], rows[LAST, :size], rows[ENTERING, :size]
    read(kind, x_in, x)
    normalise(x, vectors[ATTN_WEIGHT], vectors[ATTN_BIAS], eps[0], h)
    read(kind, shifts[0], last)
    _mixed_products(job, products[R : V + 1], rows, vectors[MIX_R : MIX_V + 1], size, wide)
    write(kind, h, shifts[0])
    r, k, v = wide[:width], wide[width : 2 * width], wide[2 * width : 3 * width]
    _recur(r, k, v, past[0], past[1], state)
    _product(job, products[O : O + 1], r, added)
    for i in range(size):
        x[i] += added[i]
    normalise(x, vectors[FFN_WEIGHT], vectors[FFN_BIAS], eps[1], h)
    read(kind, shifts[1], last)
    _mixed_products(job, products[UP : GATE + 1], rows, vectors[MIX_UP : MIX_GATE + 1], size, wide)
    write(kind, h, shifts[1])
    act, gate = wide[:inner], wide[inner : inner + size]
    for i in range(inner):
        act[i] = np.float32(0) if act[i] < np.float32(0) else act[i] * act[i]
    _product(job, products[DOWN : DOWN + 1], act, added)
    for i in range(size):
        x[i] += sigmoid(gate[i]) * added[i]
    write(kind, x, out)
