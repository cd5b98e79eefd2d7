"""Work that a crew of threads shares while one token runs on a CPU: products of weights with one
vector, attention over a memory.

Reading weights and memory once is all the work there is, so two things count beside wide loads
(`_dots_numba`): that all threads read, and that handing work over costs a microsecond and not the
fifty of waking a thread. So helpers look at one job in memory for a while after each piece of work
(`help_out`). A thread takes a share by counting `LEFT` down; whoever comes late finds nothing left,
and nobody waits for a helper that is not there.

A job is an array of int64; what threads write lies on cache lines of its own.

Axes: O outputs (rows of a weight), I inputs (its columns).
"""

# Compiled functions take arrays and addresses, for which Python has no types to write.
# An intrinsic is called without the typing context that it is written with.
# mypy: disallow_untyped_defs=False, disallow_incomplete_defs=False, disable-error-code=call-arg
from __future__ import annotations

import numpy as np
from numba import carray, njit, types
from numba.extending import intrinsic

from ._attend_numba import ATTENTION, KEY_HEADS, attend_head
from ._dots_numba import BF16, FP32, INT8, STEP, TOGETHER, fill_rows, how, pointer

__all__ = ["BF16", "FP32", "INT8", "JOB", "STEP", "attend", "help_out", "multiply", "together"]

LEFT, DONE, X, Y, ROWS, SHARE, PARTS, ATTENDED, PART = 0, 8, 16, 17, 18, 19, 20, 21, 24
"""Where a job says how many shares are left and done; a product's input, output, rows, rows of a
share and number of parts; the table of an attention, or 0 for a product; and the parts."""
PRODUCT, MOST = 5, 3
"""Numbers of a part, `(kind, weight, scale, O, I)`, and how many parts there can be."""
JOB = PART + PRODUCT * MOST + 1
"""Entries of a job: whole cache lines."""
SHARES = 8
"""Into how many parts a product is cut: enough that a slow thread delays little."""


def _entry(context, builder, signature, arguments):
    job = context.make_array(signature.args[0])(context, builder, arguments[0])
    return builder.gep(job.data, [arguments[1]])


@intrinsic
def load(typing, job, index):
    """An entry of a job, and all that was written before it."""

    def code(context, builder, signature, arguments):
        return builder.load_atomic(_entry(context, builder, signature, arguments), "acquire", 8)

    return types.int64(job, types.intp), code


@intrinsic
def store(typing, job, index, value):
    """Write an entry of a job, after all that was written before."""

    def code(context, builder, signature, arguments):
        entry = _entry(context, builder, signature, arguments)
        builder.store_atomic(arguments[2], entry, "release", 8)
        return context.get_dummy_value()

    return types.void(job, types.intp, types.int64), code


@intrinsic
def add(typing, job, index, value):
    """Add to an entry of a job; what it was before."""

    def code(context, builder, signature, arguments):
        entry = _entry(context, builder, signature, arguments)
        return builder.atomic_rmw("add", entry, arguments[2], "acq_rel")

    return types.int64(job, types.intp, types.int64), code


@njit("void(int64[::1], int64)", **how)
def _share(job, number):
    """Do one share: a key head of an attention, or some rows of products that stand one below the
    other."""
    if job[ATTENDED] != 0:
        attend_head(carray(pointer(job[ATTENDED]), (ATTENTION,), np.int64), number)
        return
    start = number * job[SHARE]
    stop, before = min(job[ROWS], start + job[SHARE]), 0
    for part in range(job[PARTS]):
        product = job[PART + part * PRODUCT : PART + (part + 1) * PRODUCT]
        rows = product[3]
        first, last = max(start - before, 0), min(stop - before, rows)
        if first < last:
            fill_rows(product, job[X], job[Y] + 4 * before, first, last)
        before += rows


@njit("void(int64[::1])", **how)
def _take_shares(job):
    """Take shares until none is left. What a job says is read after a share is taken: from then on
    it stays until the share is done."""
    while load(job, LEFT) > 0:
        number = add(job, LEFT, -1)
        if number <= 0:
            return
        _share(job, number - 1)
        add(job, DONE, 1)


@njit("void(int64[::1], int64)", **how)
def help_out(job, patience):
    """A helper's watch: it ends after looking `patience` times without finding work."""
    idle = 0
    while idle < patience:
        if load(job, LEFT) > 0:
            _take_shares(job)
            idle = 0
        else:
            idle += 1


@njit("void(int64[::1], int64)", **how)
def _finish(job, shares):
    """Hand out the shares of what the job says, and wait until all are done."""
    store(job, DONE, 0)
    store(job, LEFT, shares)
    _take_shares(job)
    while load(job, DONE) < shares:
        pass


@njit("void(int64[::1], int64[:, ::1], int64, int64)", **how)
def together(job, products, x, y):
    """Up to `MOST` weights (O, I) times one `x (I,)`: all outputs, one after the other, into `y`.

    products (parts, 5): kind and address of a weight, address of the scale (O,) of an int8 one, O,
    I; x and y: addresses of fp32 numbers. I is a multiple of `STEP`.
    """
    rows = 0
    for part in range(len(products)):
        for i in range(PRODUCT):
            job[PART + part * PRODUCT + i] = products[part, i]
        rows += products[part, 3]
    share = (rows + SHARES - 1) // SHARES
    share = (share + TOGETHER - 1) // TOGETHER * TOGETHER
    job[X], job[Y], job[ROWS], job[SHARE], job[PARTS] = x, y, rows, share, len(products)
    job[ATTENDED] = 0
    _finish(job, (rows + share - 1) // share)


@njit("void(int64[::1], int64, int64, int64, int64, int64, int64, int64)", **how)
def multiply(job, kind, weight, scale, rows, columns, x, y):
    """`together` of one weight."""
    product = np.empty((1, PRODUCT), np.int64)
    product[0, 0], product[0, 1], product[0, 2] = kind, weight, scale
    product[0, 3], product[0, 4] = rows, columns
    together(job, product, x, y)


@njit("void(int64[::1], int64[::1])", **how)
def attend(job, table):
    """Attention of one token, a share for each key head; what the table says, `_attend_numba`."""
    job[ATTENDED] = table.ctypes.data
    _finish(job, table[KEY_HEADS])
