"""What layers of RWKV-5, 6 and 7 share for one token of one row: products behind a token shift, and
the channel mixing. All in fp32.

Axes: C channels, F ffn width.
"""

# Compiled functions take arrays and addresses, for which Python has no types to write.
# An intrinsic is called without the typing context that it is written with.
# mypy: disallow_untyped_defs=False, disallow_incomplete_defs=False, disable-error-code=call-arg
from __future__ import annotations

import numpy as np
from numba import njit

from .crew import together
from .dots import hold, how
from .vectors import add, read, sigmoid, write


@njit(**how)
def shift(kind, h, memory):
    """What a mixer saw last (C,), in whose place it remembers `h` now."""
    last = np.empty(len(h), np.float32)
    read(kind, memory, last)
    write(kind, h, memory)
    return last


@njit(**how)
def move(h, last, share, out):
    """`h + (last - h) * share`, all (C,)."""
    for i in range(len(h)):
        out[i] = h[i] + (last[i] - h[i]) * share[i]


@njit(**how)
def moved_products(job, products, h, last, shares, y):
    """Products (n, 5), each of `h` moved by its own of the shares (n, C); all outputs into `y`."""
    rows = np.empty(shares.shape, np.float32)
    for part in range(len(products)):
        move(h, last, shares[part], rows[part])
    together(job, products, rows.ctypes.data, 4 * rows.shape[1], y.ctypes.data)
    hold(rows)


@njit(**how)
def channel_mix(job, products, h, last, shares, x):
    """Add to `x (C,)` the squared ReLU network of `up`, a gate where there is one, and `down`."""
    inner = products[0, 3]
    count = len(products) - 1  # of what reads the token: up, and the gate
    wide = np.empty(inner + (count - 1) * len(x), np.float32)
    moved_products(job, products[:count], h, last, shares, wide)
    act, gate, added = wide[:inner], wide[inner:], np.empty(len(x), np.float32)
    for i in range(inner):
        act[i] = np.float32(0) if act[i] < np.float32(0) else act[i] * act[i]
    together(job, products[count:], act.ctypes.data, 0, added.ctypes.data)
    if count == 1:
        add(x, added)
    for i in range(len(gate)):
        x[i] += sigmoid(gate[i]) * added[i]
