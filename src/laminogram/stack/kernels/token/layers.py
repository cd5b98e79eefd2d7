"""Layers, and both ends, that one token of one row passes in one call, whatever their kind: each is
the address of a function and that of what it takes for its layer (`rwkv4`,
`rwkv6`, `rwkv7`, `block`, `embed`, `head`).

Between two calls from Python memory stands still, and what the interpreter needs there is cold
after every sweep of the caches.
"""

# Compiled functions take arrays and addresses, for which Python has no types to write.
# An intrinsic is called without the typing context that it is written with.
# mypy: disallow_untyped_defs=False, disallow_incomplete_defs=False, disable-error-code=call-arg
from __future__ import annotations

from typing import Any

import numpy as np
from numba import carray, cfunc, types
from numba.extending import intrinsic

from .crew import GIVEN, JOB, code_of_call
from .dots import how, pointer

STREAM, END, LOGITS, NUMBER, FIRST_VALUES, ROPES = range(6)
"""Entries of a token (int64): the address of its residual stream (C,), which the embedding writes
and layers read and write, how many tokens there are with it, the address of its logits (V,), which
the head writes, its number in the vocabulary, which the embedding reads, the address of the values
of RWKV-7's first layer (A,) in fp32, or 0, and for each rope the addresses of cosines and sines
(R,) and R."""
ROPE = 3
"""Entries of a rope."""


@intrinsic
def _call(typing, function, job, layer, token):
    """Call `void(int64, int64, int64)` at an address."""
    return types.void(*[types.int64] * 4), code_of_call


@cfunc("void(int64)", **how)
def _lead(job_address):
    """The way of a token through layers, one after the other; given: the address of `layers
    (L, 2)`, L, and the address of the token."""
    job = carray(pointer(job_address), (JOB,), np.int64)
    layers = carray(pointer(job[GIVEN]), (job[GIVEN + 1], 2), np.int64)
    for layer in range(len(layers)):
        _call(layers[layer, 0], job_address, layers[layer, 1], job[GIVEN + 2])


_compiled: Any = _lead
WAY = _compiled.address
