"""Work that a crew of threads shares while one token runs on a CPU: products of weights with one
vector, and what else a caller brings (`attend`).

Reading weights and memory once is all the work there is, so two things count beside wide loads
(`dots`): that all threads read, and that handing work over costs a microsecond and not the
fifty of waking a thread. So threads come together once, for a token or a product (`work`). The
first of them leads: it goes its way and hands out shares (`finish`), for which the others look in
memory until it is over. Each thread has a part of the shares and takes them in their order, so that
it reads on where it was: to begin elsewhere costs two thirds of a microsecond. Who is done takes
from the others' parts. A share is taken by counting `LEFT` of its part down; whoever comes late
finds nothing left, and nobody waits for one that is not there.

A job is an array of int64; what threads write lies on cache lines of its own. What a share is says
a function, called by its address: it is compiled once, not into each of its callers.

Axes: O outputs (rows of a weight), I inputs (its columns).
"""

# Compiled functions take arrays and addresses, for which Python has no types to write.
# An intrinsic is called without the typing context that it is written with.
# mypy: disallow_untyped_defs=False, disallow_incomplete_defs=False, disable-error-code=call-arg
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, cfunc, njit, types
from numba.extending import intrinsic

from .dots import (
    BF16,
    FP32,
    FP32_CHECKED,
    INT8,
    PAIRS,
    STEP,
    TOGETHER,
    fill_rows,
    how,
    pointer,
)
from .gather import BF16_BY_INPUTS, FP32_BY_INPUTS, gather_rows

__all__ = [
    "BF16",
    "BF16_BY_INPUTS",
    "FP32",
    "FP32_BY_INPUTS",
    "FP32_CHECKED",
    "INT8",
    "PAIRS",
    "PRODUCT_WAY",
    "STEP",
    "WORK_ADDRESS",
    "finish",
    "new_job",
    "together",
]

DONE, TIMES, ARRIVED, OVER = range(0, 32, 8)
"""Where a job says how many shares are done, how many times there were some, how many threads have
come, and whether the first of them has gone all its way."""
WAY, WORK, TOTAL, PARTS, MULTIPLY, X, APART, Y, ROWS, SHARE, PRODUCTS, WEIGHTS = range(32, 44)
"""The way of the first; what does a share, how many there are, and into how many parts they go;
what does a share of a product, its input, the bytes from that of a weight to that of the next, its
output, rows, rows of a share, the address of its weights and their number."""
PRODUCT = 5
"""Numbers of a weight: `(kind, weight, scale, O, I)`."""
GIVEN = WEIGHTS + 1
"""What the way of the first asks for; whose numbers these are says its own text."""
LEFT, LINE, MOST_PARTS = 64, 8, 64
"""Where the first part says how many of its shares are left, and entries to the next part's."""
JOB = LEFT + LINE * MOST_PARTS
SHARES = 4
"""Into how many shares a thread's part of a product is cut: enough that a slow one delays little.
"""


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


def code_of_call(context, builder, signature, arguments):
    """Of an intrinsic (address, numbers...) that calls `void(int64, ...)` at the address."""
    function, *numbers = arguments
    kind = ir.FunctionType(ir.VoidType(), [ir.IntType(64)] * len(numbers))
    builder.call(builder.inttoptr(function, kind.as_pointer()), numbers)
    return context.get_dummy_value()


@intrinsic
def _go(typing, function, job):
    """Call `void(int64)` at an address."""
    return types.void(*[types.int64] * 2), code_of_call


@intrinsic
def _call(typing, function, job, number):
    """Call `void(int64, int64)` at an address."""
    return types.void(*[types.int64] * 3), code_of_call


@cfunc("void(int64, int64)", **how)
def _multiply_share(address, number):
    """Some rows of products that stand one below the other."""
    job = carray(pointer(address), (JOB,), np.int64)
    products = carray(pointer(job[PRODUCTS]), (job[WEIGHTS], PRODUCT), np.int64)
    start = number * job[SHARE]
    stop, before = min(job[ROWS], start + job[SHARE]), 0
    for i in range(len(products)):
        product = products[i]
        rows = product[3]
        first, last = max(start - before, 0), min(stop - before, rows)
        if first < last and product[0] >= FP32_BY_INPUTS:
            gather_rows(product, job[X] + i * job[APART], job[Y] + 4 * before, first, last)
        elif first < last:
            fill_rows(product, job[X] + i * job[APART], job[Y] + 4 * before, first, last)
        before += rows


@njit(**how)
def _end(job, part):
    """The share after the last of a part."""
    return job[TOTAL] * (part + 1) // job[PARTS]


@njit("void(int64[::1], int64)", **how)
def _take_shares(job, own):
    """Take shares until none is left, those of the own part first. What a job says is read after a
    share is taken: from then on it stays until the share is done."""
    for away in range(job[PARTS]):
        part = (own + away) % job[PARTS]
        at = LEFT + part * LINE
        while load(job, at) > 0:
            number = add(job, at, -1)
            if number <= 0:
                break
            _call(job[WORK], job.ctypes.data, _end(job, part) - number)
            add(job, DONE, 1)


@cfunc("void(voidptr)", **how)
def _work(address):
    """What each thread does with a job."""
    job = carray(address, (JOB,), np.int64)
    own: int = add(job, ARRIVED, 1)
    if own == 0:
        _go(job[WAY], job.ctypes.data)
        store(job, OVER, 1)
    seen = 0
    while load(job, OVER) == 0:
        handed_out = load(job, TIMES)
        if handed_out > seen:
            _take_shares(job, own)
            seen = handed_out


@njit("void(int64[::1], int64, int64)", **how)
def finish(job, work, shares):
    """Hand out shares of `work`, the address of a function (address of the job, number of the
    share), and wait until all are done."""
    job[WORK], job[TOTAL] = work, shares
    store(job, DONE, 0)
    begin = 0
    for part in range(job[PARTS]):
        end = _end(job, part)
        store(job, LEFT + part * LINE, end - begin)
        begin = end
    add(job, TIMES, 1)
    _take_shares(job, 0)
    while load(job, DONE) < shares:
        pass


@njit("void(int64[::1], int64[:, ::1], int64, int64, int64)", **how)
def together(job, products, x, apart, y):
    """Weights (O, I), each times its `x (I,)`: all outputs, one after the other, into `y`.

    products (weights, 5): kind and address of a weight, address of the scale (O,) of an int8 one or
    of what `dots` says of one that is checked, O, I; x and y: addresses of fp32 numbers;
    apart: bytes from one weight's x to the next one's, 0 for the same. I is a multiple of `STEP`,
    but for weights that lie by inputs.
    """
    rows = 0
    for i in range(len(products)):
        rows += products[i, 3]
    shares = SHARES * job[PARTS]
    share = (rows + shares - 1) // shares
    share = (share + TOGETHER - 1) // TOGETHER * TOGETHER
    job[X], job[APART], job[Y] = x, apart, y
    job[PRODUCTS], job[WEIGHTS] = products.ctypes.data, len(products)
    job[ROWS], job[SHARE] = rows, share
    finish(job, job[MULTIPLY], (rows + share - 1) // share)


@cfunc("void(int64)", **how)
def _lead_product(address):
    """The way of one product; given: addresses of its row (5,), of x and of y (`together`)."""
    job = carray(pointer(address), (JOB,), np.int64)
    product = carray(pointer(job[GIVEN]), (1, PRODUCT), np.int64)
    together(job, product, job[GIVEN + 1], 0, job[GIVEN + 2])


_compiled: Any = _work, _lead_product, _multiply_share
WORK_ADDRESS, PRODUCT_WAY, _SHARE_ADDRESS = (function.address for function in _compiled)


def new_job(way: int, given: Sequence[int], threads: int) -> np.ndarray:
    """A job for so many threads that come together at `WORK_ADDRESS`."""
    job = np.zeros(JOB, np.int64)
    job[WAY], job[MULTIPLY], job[GIVEN : GIVEN + len(given)] = way, _SHARE_ADDRESS, given
    job[PARTS] = min(threads, MOST_PARTS)
    return job
