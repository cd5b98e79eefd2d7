"""The final norm and the head for one token of one row (`layers`), in fp32.

Axes: C channels, V vocabulary.
"""

# Compiled functions take arrays and addresses, for which Python has no types to write.
# An intrinsic is called without the typing context that it is written with.
# mypy: disallow_untyped_defs=False, disallow_incomplete_defs=False, disable-error-code=call-arg
from __future__ import annotations

import numpy as np
from numba import carray, cfunc

from .crew import JOB, PRODUCT, together
from .dots import BF16, hold, how, pointer
from .layers import LOGITS, ROPES, STREAM
from .vectors import add, norm, numbers, read, write

(KIND, NORM, SIZE, WEIGHTS, TABLE, BIAS, EPS) = range(7)
ENTRIES = 7
"""Entries (int64): what the residual stream and the logits are held in; the kind of norm; C; the
addresses of the head's product (1, 5), of what the norm multiplies with and adds (2, C), of the
head's bias (V,), or 0, and of eps. Numbers are fp32 where nothing else is said."""


@cfunc("void(int64, int64, int64)", **how)
def step(job_address, head_address, token_address):
    """From the residual stream of a token to its logits."""
    job = carray(pointer(job_address), (JOB,), np.int64)
    head = carray(pointer(head_address), (ENTRIES,), np.int64)
    token = carray(pointer(token_address), (ROPES,), np.int64)
    products = carray(pointer(head[WEIGHTS]), (1, PRODUCT), np.int64)
    size, outputs = head[SIZE], products[0, 3]
    x, h = np.empty(size, np.float32), np.empty(size, np.float32)
    read(head[KIND], token[STREAM], x)
    scale = numbers(head[TABLE], (2, size))
    norm(head[NORM], x, scale[0], scale[1], numbers(head[EPS], (1,))[0], h)
    narrow = head[KIND] == BF16
    spare = np.empty(outputs if narrow else 0, np.float32)
    scores = spare if narrow else numbers(token[LOGITS], (outputs,))
    together(job, products, h.ctypes.data, 0, scores.ctypes.data)
    if head[BIAS] != 0:
        add(scores, numbers(head[BIAS], (outputs,)))
    if narrow:
        write(head[KIND], scores, token[LOGITS])
    hold(h)
