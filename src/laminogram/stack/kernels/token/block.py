"""One layer of a Transformer for one token of one row (`layers`): norms, the block equation, and
called by their addresses a token mixer (`attention`, `latent`) and a network (`feed_forward`,
`experts`). All in fp32; the formulas are those of `layer.py` and `norms.py`.

Axes: C channels.
"""

# Compiled functions take arrays and addresses, for which Python has no types to write.
# An intrinsic is called without the typing context that it is written with.
# mypy: disallow_untyped_defs=False, disallow_incomplete_defs=False, disable-error-code=call-arg
from __future__ import annotations

import numpy as np
from numba import carray, cfunc, njit, types
from numba.extending import intrinsic

from .crew import code_of_call
from .dots import hold, how, pointer
from .layers import ROPES, STREAM
from .vectors import add, norm, numbers, read, write

PRE, PARALLEL, SANDWICH = range(3)
(ATTN, FFN, ATTN_POST, FFN_POST) = range(4)
"""Norms of a layer, the last two of a sandwich; of each there are a weight and a bias (C,) in the
table of vectors, one below the other, and an eps."""
(KIND, BLOCK, NORM, SIZE, TABLE, EPS, MIXER, MIXER_TABLE, NETWORK, NETWORK_TABLE) = range(10)
ENTRIES = 10
"""Entries of a layer (int64): what the residual stream is held in; the block equation; the kind of
its norms; C; the addresses of the table of vectors and of the eps; of the token mixer, `void(job,
its table, token, what enters, what leaves)`, and of its table; of what follows, `void(job, its
table, what enters, what leaves, C)`, and of its table. Numbers are fp32 where nothing else is
said."""


@intrinsic
def _call(typing, function, job, table, first, second, third):
    """Call `void(int64, ...)` with five numbers at an address."""
    return types.void(*[types.int64] * 6), code_of_call


@njit(**how)
def _norm(layer, which, x, out):
    """One of the norms of a layer."""
    size = layer[SIZE]
    rows = numbers(layer[TABLE] + 8 * which * size, (2, size))
    norm(layer[NORM], x, rows[0], rows[1], numbers(layer[EPS] + 4 * which, (1,))[0], out)


@cfunc("void(int64, int64, int64)", **how)
def step(job, layer_address, token_address):
    """A token through the layer."""
    layer = carray(pointer(layer_address), (ENTRIES,), np.int64)
    stream = carray(pointer(token_address), (ROPES,), np.int64)[STREAM]
    size, twice = layer[SIZE], layer[BLOCK] == SANDWICH
    x, h, out = np.empty(size, np.float32), np.empty(size, np.float32), np.empty(size, np.float32)
    entering, leaving = h.ctypes.data, out.ctypes.data
    read(layer[KIND], stream, x)
    _norm(layer, ATTN, x, h)
    _call(layer[MIXER], job, layer[MIXER_TABLE], token_address, entering, leaving)
    if twice:
        _norm(layer, ATTN_POST, out, out)
    if layer[BLOCK] == PARALLEL:  # both read what has entered
        _norm(layer, FFN, x, h)
        add(x, out)
    else:
        add(x, out)
        _norm(layer, FFN, x, h)
    _call(layer[NETWORK], job, layer[NETWORK_TABLE], entering, leaving, size)
    if twice:
        _norm(layer, FFN_POST, out, out)
    add(x, out)
    write(layer[KIND], x, stream)
    hold(h)
