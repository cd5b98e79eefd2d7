"""Softmax attention of one token over a memory of keys and values, one key head at a time, in fp32.

Scores are the product of the keys, as a weight, with the query (`dots`). Values are summed
in strips of columns that stay in registers.

Axes: H heads, K key heads, G = H / K heads of a key head, D and Dv size of a key and a value,
S key positions.
"""

# Compiled functions take arrays and addresses, for which Python has no types to write.
# An intrinsic is called without the typing context that it is written with.
# mypy: disallow_untyped_defs=False, disallow_incomplete_defs=False, disable-error-code=call-arg
from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import carray, cfunc, njit, types
from numba.extending import intrinsic

from .crew import JOB, X
from .dots import (
    BF16,
    FLOATS,
    LANES,
    OF_BF16,
    OF_FP32,
    filling,
    hold,
    how,
    pointer,
    vector,
    vector_function,
)
from .vectors import exp, numbers

(KIND, QUERIES, KEYS, VALUES, ANSWERS, GROUP, SIZE, VALUE_SIZE, ROW, APART, FIRST, END) = range(12)
SLOPES, ATTENTION = 12, 13
"""Entries of the table (int64) of an attention: what the memory is held in; the addresses of q
(H, D), keys, values and z (H, Dv), q and z in fp32; G, D and Dv; how many numbers lie between a
column and the next of keys and of values, and how many between a key head's and the next one's; the
columns that are looked at; the address of the fp32 slopes (H,) of `alibi`, or 0; and their number.
q is multiplied by the scale already; D and Dv are multiples of `LANES`."""
WIDE = 4
"""Loads of a strip of values, where D has room for as many."""

_I64 = ir.IntType(64)


def _summing(stored, loads):
    """A function (address of S rows, bytes of a row, address of their shares, S, where to) that
    writes the weighted sum of `loads * LANES` columns."""

    @intrinsic
    def total(typing, rows, stride, shares, count, out):
        def code(context, builder, signature, arguments):
            _sum_rows(builder, stored, loads, *arguments)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 5), code

    return total


def _sum_rows(builder, stored, loads, rows, stride, shares, count, out):
    """The loop over rows, of which there is at least one."""
    before, loop = builder.block, builder.append_basic_block("rows")
    after = builder.append_basic_block("sums")
    builder.branch(loop)
    builder.position_at_end(loop)
    row, place = builder.phi(_I64), builder.phi(_I64)
    row.add_incoming(_I64(0), before)
    place.add_incoming(rows, before)
    sums = [builder.phi(FLOATS) for _ in range(loads)]
    at = builder.add(shares, builder.mul(row, _I64(4)))
    share = builder.load(builder.inttoptr(at, ir.FloatType().as_pointer()), typ=ir.FloatType())
    undefined = ir.Constant(FLOATS, ir.Undefined)
    single = builder.insert_element(undefined, share, ir.IntType(32)(0))
    everywhere = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
    spread = builder.shuffle_vector(single, undefined, everywhere)
    multiply = vector_function(builder, "llvm.fmuladd", FLOATS, [FLOATS] * 3)
    for part, old in enumerate(sums):
        loaded = vector(builder, stored, place, _I64(0), part)
        old.add_incoming(ir.Constant(FLOATS, [0.0] * LANES), before)
        old.add_incoming(builder.call(multiply, [loaded, spread, old]), loop)
    following = builder.add(row, _I64(1))
    row.add_incoming(following, loop)
    place.add_incoming(builder.add(place, stride), loop)
    builder.cbranch(builder.icmp_signed("<", following, count), loop, after)
    builder.position_at_end(after)
    for part, old in enumerate(sums):
        to = builder.inttoptr(builder.add(out, _I64(4 * LANES * part)), FLOATS.as_pointer())
        builder.store(old.incomings[1][0], to, align=4)


_score_fp32, _score_bf16 = filling(OF_FP32, 1), filling(OF_BF16, 1)
_strip_fp32, _wide_strip_fp32 = _summing(OF_FP32, 1), _summing(OF_FP32, WIDE)
_strip_bf16, _wide_strip_bf16 = _summing(OF_BF16, 1), _summing(OF_BF16, WIDE)


@njit(**how)
def _softmax(x):
    top = x[0]
    for i in range(1, len(x)):
        top = x[i] if x[i] > top else top
    total = np.float32(0)
    for i in range(len(x)):
        x[i] = exp(x[i] - top)
        total += x[i]
    for i in range(len(x)):
        x[i] /= total


@cfunc("void(int64, int64)", **how)
def attend_head(job, head):
    """A share of an attention: z of the heads that have one key head. A job says where the table
    is."""
    entries = carray(pointer(job), (JOB,), np.int64)
    table = carray(pointer(entries[X]), (ATTENTION,), np.int64)
    bf16 = table[KIND] == BF16
    group, size, count = table[GROUP], table[SIZE], table[END] - table[FIRST]
    width, wide = 2 if bf16 else 4, table[VALUE_SIZE]
    start = (head * table[APART] + table[FIRST] * table[ROW]) * width
    keys, values, apart = table[KEYS] + start, table[VALUES] + start, table[ROW] * width
    scores = np.empty(count, np.float32)
    for one in range(head * group, (head + 1) * group):
        q, z = table[QUERIES] + one * size * 4, table[ANSWERS] + one * wide * 4
        if bf16:
            _score_bf16(keys, q, size, scores, 0, count)
        else:
            _score_fp32(keys, q, size, scores, 0, count)
        if table[SLOPES] != 0:
            slope = numbers(table[SLOPES], (one + 1,))[one]
            for place in range(count):
                scores[place] -= slope * np.float32(count - 1 - place)
        _softmax(scores)
        shares, column = scores.ctypes.data, 0
        while column + WIDE * LANES <= wide:
            if bf16:
                _wide_strip_bf16(values + 2 * column, apart, shares, count, z + 4 * column)
            else:
                _wide_strip_fp32(values + 4 * column, apart, shares, count, z + 4 * column)
            column += WIDE * LANES
        while column < wide:
            if bf16:
                _strip_bf16(values + 2 * column, apart, shares, count, z + 4 * column)
            else:
                _strip_fp32(values + 4 * column, apart, shares, count, z + 4 * column)
            column += LANES
    hold(scores)
