"""The values of RWKV-7's first layer, which all others read, from the residual stream of one token
of one row that enters the first step (`layers`), in fp32.

Axes: C channels, A = H D width.
"""

# Compiled functions take arrays and addresses, for which Python has no types to write.
# An intrinsic is called without the typing context that it is written with.
# mypy: disallow_untyped_defs=False, disallow_incomplete_defs=False, disable-error-code=call-arg
from __future__ import annotations

import numpy as np
from numba import carray, cfunc

from .crew import JOB, PRODUCT, together
from .dots import hold, how, pointer
from .layers import FIRST_VALUES, ROPES, STREAM
from .shift import move, shift
from .vectors import norm, numbers, read

(KIND, NORM, SIZE, WEIGHTS, TABLE, EPS, SHIFT) = range(7)
ENTRIES = 7
"""Entries (int64): what the residual stream and the shift are held in; the kind of norm; C; the
addresses of the product (1, 5), of what the norm multiplies with and adds and what moves the input
(3, C), of eps, and of what was seen last (C,). Numbers are fp32 where nothing else is said."""


@cfunc("void(int64, int64, int64)", **how)
def step(job_address, first_address, token_address):
    """From the residual stream of a token to the values (A,) that it has a place for."""
    job = carray(pointer(job_address), (JOB,), np.int64)
    first = carray(pointer(first_address), (ENTRIES,), np.int64)
    token = carray(pointer(token_address), (ROPES,), np.int64)
    product = carray(pointer(first[WEIGHTS]), (1, PRODUCT), np.int64)
    size = first[SIZE]
    table, eps = numbers(first[TABLE], (3, size)), numbers(first[EPS], (1,))
    x, h = np.empty(size, np.float32), np.empty(size, np.float32)
    read(first[KIND], token[STREAM], x)
    norm(first[NORM], x, table[0], table[1], eps[0], h)
    last = shift(first[KIND], h, first[SHIFT])
    move(h, last, table[2], x)
    together(job, product, x.ctypes.data, 0, token[FIRST_VALUES])
    hold(x)
