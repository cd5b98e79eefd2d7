"""The embedding for one token of one row (`layers`), with its norm where it has one.

Axes: V vocabulary, C channels.
"""

# Compiled functions take arrays and addresses, for which Python has no types to write.
# mypy: disallow_untyped_defs=False, disallow_incomplete_defs=False, disable-error-code=call-arg
from __future__ import annotations

import numpy as np
from numba import carray, cfunc

from .dots import BF16, how, pointer
from .layers import NUMBER, ROPES, STREAM
from .vectors import norm, numbers, read, write

(KIND, ROWS, SIZE, NORM, TABLE, EPS) = range(6)
ENTRIES = 6
"""Entries (int64): what the table and the residual stream are held in; the address of the table
(V, C); C; the kind of norm, or -1; the addresses of what it multiplies with and adds (2, C), and of
eps, in fp32."""


@cfunc("void(int64, int64, int64)", **how)
def step(job_address, embed_address, token_address):
    """From the number of a token to its residual stream."""
    embed = carray(pointer(embed_address), (ENTRIES,), np.int64)
    token = carray(pointer(token_address), (ROPES,), np.int64)
    size = embed[SIZE]
    x, h = np.empty(size, np.float32), np.empty(size, np.float32)
    width = 2 if embed[KIND] == BF16 else 4
    read(embed[KIND], embed[ROWS] + token[NUMBER] * size * width, x)
    if embed[NORM] < 0:
        write(embed[KIND], x, token[STREAM])
        return
    scale = numbers(embed[TABLE], (2, size))
    norm(embed[NORM], x, scale[0], scale[1], numbers(embed[EPS], (1,))[0], h)
    write(embed[KIND], h, token[STREAM])
