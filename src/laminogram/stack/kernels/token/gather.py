"""Products of one vector that is zero in most places with a weight that lies by its inputs, for a
CPU: rows of the weight that meet a zero are not read.

Axes: O outputs, I inputs; the weight lies as (I, O).
"""

# Compiled functions take arrays and addresses, for which Python has no types to write.
# An intrinsic is called without the typing context that it is written with.
# mypy: disallow_untyped_defs=False, disallow_incomplete_defs=False, disable-error-code=call-arg
from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import carray, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from .dots import FP32_CHECKED, how, pointer

FP32_BY_INPUTS, BF16_BY_INPUTS = FP32_CHECKED + 1, FP32_CHECKED + 2
"""What a weight is stored in, after the kinds of `dots`."""
ROWS_AHEAD = 16
"""Rows of a weight between the reading of one and its asking ahead."""


@intrinsic
def _ask(typing, address):
    """Ask for the cache line of an address, to be read."""

    def code(context, builder, signature, arguments):
        entry, number = cgutils.voidptr_t, ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [entry, number, number, number])
        ask = builder.module.declare_intrinsic("llvm.prefetch", [entry], kind)
        place = builder.inttoptr(arguments[0], entry)
        builder.call(ask, [place, number(0), number(2), number(1)])  # to read, second level, data
        return context.get_dummy_value()

    return types.void(types.int64), code


@njit(**how)
def _not_zero(x, places):
    """Where `x` is not zero, into `places`; how many there are."""
    count = 0
    for i in range(len(x)):
        places[count] = i
        count += x[i] != np.float32(0)
    return count


@njit(**how)
def _of_bits(bits):
    """fp32 of bf16."""
    return np.uint32(np.uint32(bits) << np.uint32(16)).view(np.float32)


def _gathering(entry, size, widened):
    """A function that fills y[start:stop] with sums over the inputs that are not zero, four of
    them at a time, of a weight that lies as (I, O); `entry` of `size` bytes becomes a float by
    `widened`."""

    @njit(**how)
    def gather(weight, x, rows, y, start, stop):
        """weight: the address of (I, O = rows) numbers; x (I,), y (O,) fp32."""
        width, own = stop - start, y[start:stop]
        own[:] = np.float32(0)
        places = np.empty(len(x) + 1, np.int64)  # one more: what is not kept is written, too
        count, at = _not_zero(x, places), 0
        begin, step = weight + start * size, rows * size
        for early in range(min(ROWS_AHEAD, count)):
            for line in range(0, width * size, 64):
                _ask(begin + places[early] * step + line)
        while at + 4 <= count:
            for later in range(at + ROWS_AHEAD, min(at + ROWS_AHEAD + 4, count)):
                for line in range(0, width * size, 64):
                    _ask(begin + places[later] * step + line)
            p, q, r, s = places[at], places[at + 1], places[at + 2], places[at + 3]
            of_p = carray(pointer(begin + p * step), (width,), entry)
            of_q = carray(pointer(begin + q * step), (width,), entry)
            of_r = carray(pointer(begin + r * step), (width,), entry)
            of_s = carray(pointer(begin + s * step), (width,), entry)
            for i in range(width):
                one = x[p] * widened(of_p[i]) + x[q] * widened(of_q[i])
                own[i] += one + (x[r] * widened(of_r[i]) + x[s] * widened(of_s[i]))
            at += 4
        while at < count:
            p = places[at]
            of_p = carray(pointer(begin + p * step), (width,), entry)
            for i in range(width):
                own[i] += x[p] * widened(of_p[i])
            at += 1

    return gather


@njit(**how)
def _as_it_is(x):
    return x


_gather_fp32 = _gathering(np.float32, 4, _as_it_is)
_gather_bf16 = _gathering(np.uint16, 2, _of_bits)


@njit(**how)
def gather_rows(product, x, y, start, stop):
    """Outputs `start` to `stop` of a product `(kind, weight, -, O, I)` with `x (I,)` into those of
    `y (O,)`, both fp32."""
    rows, weight = product[3], product[1]
    given = carray(pointer(x), (product[4],), np.float32)
    out = carray(pointer(y), (rows,), np.float32)
    if product[0] == FP32_BY_INPUTS:
        _gather_fp32(weight, given, rows, out, start, stop)
    else:
        _gather_bf16(weight, given, rows, out, start, stop)
