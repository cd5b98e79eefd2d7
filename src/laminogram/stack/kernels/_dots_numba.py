"""Dot products of neighbouring rows of a weight with one vector, for a CPU: weights in fp32, bf16
or int8, everything by address.

Reading a weight once is all the work there is, so every load is as wide as the processor allows and
the next rows are asked for ahead: in LLVM's own words, since no compiler finds it in a loop over
bf16 or int8.

Axes: O outputs (rows of a weight), I inputs (its columns).
"""

# Compiled functions take arrays and addresses, for which Python has no types to write.
# An intrinsic is called without the typing context that it is written with.
# mypy: disallow_untyped_defs=False, disallow_incomplete_defs=False, disable-error-code=call-arg
from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import carray, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

FP32, BF16, INT8 = range(3)
LANES, UNROLL, TOGETHER, AHEAD = 16, 2, 4, 4
"""Numbers of a load, loads of a row at a time, rows at a time, rows between a load and its asking
ahead: measured best of several on one core and on two."""
STEP = LANES * UNROLL
"""What the number of columns is to be a multiple of."""

# Sums may be taken in another order; NaN and infinity stay what they are.
_FAST = {"reassoc", "contract", "arcp", "nsz"}
how: dict[str, Any] = {"nogil": True, "cache": True, "fastmath": _FAST, "boundscheck": False}
_I64, _I32, _FLOAT = ir.IntType(64), ir.IntType(32), ir.FloatType()
_FLOATS = ir.VectorType(_FLOAT, LANES)


@intrinsic
def pointer(typing, address):
    """A pointer from an address, for `carray`."""

    def code(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), code


def _of_fp32(builder, loaded):
    return loaded


def _of_bf16(builder, loaded):
    wide = ir.VectorType(_I32, LANES)
    moved = builder.shl(builder.zext(loaded, wide), ir.Constant(wide, [16] * LANES))
    return builder.bitcast(moved, _FLOATS)


def _of_int8(builder, loaded):
    return builder.sitofp(builder.sext(loaded, ir.VectorType(_I32, LANES)), _FLOATS)


def _dots(entry, size, widened, rows):
    """A function (weight address, bytes of a row, x address, I) -> `rows` dot products of
    neighbouring rows with x; `entry` is the LLVM type of an entry of `size` bytes, `widened` makes
    floats of a load."""

    @intrinsic
    def dots(typing, weight, stride, x, columns):
        def code(context, builder, signature, arguments):
            sums = _loop(builder, entry, size, widened, rows, *arguments)
            return context.make_tuple(builder, signature.return_type, sums)

        integer = types.int64
        return types.UniTuple(types.float32, rows)(integer, integer, integer, integer), code

    return dots


def _loop(builder, entry, size, widened, rows, weight, stride, x, columns):
    """The loop over columns; the sums as floats."""
    before, loop = builder.block, builder.append_basic_block("columns")
    after = builder.append_basic_block("sums")
    zero = ir.Constant(_FLOATS, [0.0] * LANES)
    builder.branch(loop)
    builder.position_at_end(loop)
    column = builder.phi(_I64)
    column.add_incoming(_I64(0), before)
    sums = [[builder.phi(_FLOATS) for _ in range(UNROLL)] for _ in range(rows)]
    starts = [builder.add(weight, builder.mul(stride, _I64(row))) for row in range(rows)]
    numbers = [_vector(builder, _FLOAT, 4, x, column, part) for part in range(UNROLL)]
    multiply = _intrinsic(builder, "llvm.fmuladd", _FLOATS, [_FLOATS] * 3)
    for row in range(rows):
        _ask_ahead(
            builder, builder.add(starts[row], builder.mul(stride, _I64(AHEAD))), column, size
        )
        for part in range(UNROLL):
            loaded = widened(builder, _vector(builder, entry, size, starts[row], column, part))
            total = builder.call(multiply, [loaded, numbers[part], sums[row][part]])
            sums[row][part].add_incoming(zero, before)
            sums[row][part].add_incoming(total, loop)
    following = builder.add(column, _I64(STEP))
    column.add_incoming(following, loop)
    builder.cbranch(builder.icmp_signed("<", following, columns), loop, after)
    builder.position_at_end(after)
    reduce = _intrinsic(builder, "llvm.vector.reduce.fadd", _FLOAT, [_FLOAT, _FLOATS])
    found = []
    for of_row in sums:
        total = of_row[0].incomings[1][0]
        for other in of_row[1:]:
            total = builder.fadd(total, other.incomings[1][0])
        found.append(builder.call(reduce, [_FLOAT(-0.0), total], fastmath=("reassoc",)))
    return found


def _vector(builder, entry, size, start, column, part):
    at = builder.mul(builder.add(column, _I64(LANES * part)), _I64(size))
    kind = ir.VectorType(entry, LANES)
    address = builder.inttoptr(builder.add(start, at), kind.as_pointer())
    return builder.load(address, align=size, typ=kind)


def _ask_ahead(builder, start, column, size):
    """Ask for the cache lines of one step of a later row."""
    at = builder.add(start, builder.mul(column, _I64(size)))
    arguments = [cgutils.voidptr_t, _I32, _I32, _I32]
    kind = ir.FunctionType(ir.VoidType(), arguments)
    ask = builder.module.declare_intrinsic("llvm.prefetch", [cgutils.voidptr_t], kind)
    for line in range(0, STEP * size, 64):
        address = builder.inttoptr(builder.add(at, _I64(line)), cgutils.voidptr_t)
        builder.call(ask, [address, _I32(0), _I32(2), _I32(1)])  # to read, second level, data


def _intrinsic(builder, name, result, arguments):
    kind = ir.FunctionType(result, arguments)
    return cgutils.get_or_insert_function(builder.module, kind, f"{name}.v{LANES}f32")


def _filling(entry, size, widened):
    """A function that fills y[start:stop] with the products of those rows."""
    several, single = (_dots(entry, size, widened, rows) for rows in (TOGETHER, 1))

    @njit(**how)
    def fill(weight, x, columns, y, start, stop):
        stride, row = columns * size, start
        while row + TOGETHER <= stop:
            sums = several(weight + row * stride, stride, x, columns)
            for i in range(TOGETHER):
                y[row + i] = sums[i]
            row += TOGETHER
        while row < stop:
            y[row] = single(weight + row * stride, stride, x, columns)[0]
            row += 1

    return fill


_fill_fp32 = _filling(_FLOAT, 4, _of_fp32)
_fill_bf16 = _filling(ir.IntType(16), 2, _of_bf16)
_fill_int8 = _filling(ir.IntType(8), 1, _of_int8)


@njit(**how)
def fill_rows(product, x, y, start, stop):
    """Rows `start` to `stop` of a product `(kind, weight, scale, O, I)` with `x (I,)` into those of
    `y (O,)`, both fp32. `scale` (O,) is for int8 alone."""
    kind, weight, rows, columns = product[0], product[1], product[3], product[4]
    out = carray(pointer(y), (rows,), np.float32)
    if kind == FP32:
        _fill_fp32(weight, x, columns, out, start, stop)
    elif kind == BF16:
        _fill_bf16(weight, x, columns, out, start, stop)
    else:
        _fill_int8(weight, x, columns, out, start, stop)
        scale = carray(pointer(product[2]), (rows,), np.float32)
        for row in range(start, stop):
            out[row] *= scale[row]
