"""Products of a weight with one row of numbers, shared by a crew of threads, for a CPU.

Reading a weight once is all the work there is, so three things count: that every load is as wide as
the processor allows and the next rows are asked for ahead (`_dots`, in LLVM's own words, since no
compiler finds it in a loop over bf16 or int8), that all threads read, and that handing work over
costs a microsecond and not the fifty of waking a thread. So helpers look at one job in memory for a
while after each product (`help_out`). A thread takes a share by counting `LEFT` down; whoever
comes late finds nothing left, and nobody waits for a helper that is not there.

A job is an array of int64; what threads write lies on cache lines of its own.

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

FP32, BF16, INT8, FP32_BY_INPUTS, BF16_BY_INPUTS = range(5)
"""What a weight is stored in; by inputs, it lies as (I, O), and rows of zeros are not read."""
LEFT, DONE, KIND, WEIGHT, SCALE, X, Y, ROWS, COLUMNS, SHARE = 0, 8, 16, 17, 18, 19, 20, 21, 22, 23
JOB = 32
"""Entries of a job: shares left, shares done, and what is multiplied."""
LANES, UNROLL, TOGETHER, AHEAD = 16, 2, 4, 4
"""Numbers of a load, loads of a row at a time, rows at a time, rows between a load and its asking
ahead: measured best of several on one core and on two."""
ROWS_AHEAD = 16
"""Rows of a weight that lies by its inputs between the reading of one and its asking ahead."""
STEP = LANES * UNROLL
"""What the number of columns is to be a multiple of."""
SHARES = 8
"""Into how many parts a product is cut: enough that a slow thread delays little."""

# Sums may be taken in another order; NaN and infinity stay what they are.
_FAST = {"reassoc", "contract", "arcp", "nsz"}
how: dict[str, Any] = {"nogil": True, "cache": True, "fastmath": _FAST, "boundscheck": False}
_I64, _I32, _FLOAT = ir.IntType(64), ir.IntType(32), ir.FloatType()
_FLOATS = ir.VectorType(_FLOAT, LANES)


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


@intrinsic
def pointer(typing, address):
    """A pointer from an address, for `carray`."""

    def code(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), code


@intrinsic
def ask(typing, address):
    """Ask for the cache line of an address, to be read."""

    def code(context, builder, signature, arguments):
        _prefetch(builder, arguments[0])
        return context.get_dummy_value()

    return types.void(types.int64), code


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
    for line in range(0, STEP * size, 64):
        _prefetch(builder, builder.add(at, _I64(line)))


def _prefetch(builder, address):
    arguments = [cgutils.voidptr_t, _I32, _I32, _I32]
    kind = ir.FunctionType(ir.VoidType(), arguments)
    call = builder.module.declare_intrinsic("llvm.prefetch", [cgutils.voidptr_t], kind)
    place = builder.inttoptr(address, cgutils.voidptr_t)
    builder.call(call, [place, _I32(0), _I32(2), _I32(1)])  # to read, second level, data


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
        width, own = stop - start, y[start:stop]
        own[:] = np.float32(0)
        places = np.empty(len(x) + 1, np.int64)  # one more: what is not kept is written, too
        count, at = _not_zero(x, places), 0
        begin, step = weight + start * size, rows * size
        for early in range(min(ROWS_AHEAD, count)):
            for line in range(0, width * size, 64):
                ask(begin + places[early] * step + line)
        while at + 4 <= count:
            for later in range(at + ROWS_AHEAD, min(at + ROWS_AHEAD + 4, count)):
                for line in range(0, width * size, 64):
                    ask(begin + places[later] * step + line)
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


@njit("void(int64[::1], int64)", **how)
def _share(job, number):
    """Multiply the rows of one share."""
    rows, columns, x, weight = job[ROWS], job[COLUMNS], job[X], job[WEIGHT]
    start = number * job[SHARE]
    stop = min(rows, start + job[SHARE])
    y = carray(pointer(job[Y]), (rows,), np.float32)
    if job[KIND] == FP32:
        _fill_fp32(weight, x, columns, y, start, stop)
    elif job[KIND] == BF16:
        _fill_bf16(weight, x, columns, y, start, stop)
    elif job[KIND] == FP32_BY_INPUTS:
        given = carray(pointer(x), (columns,), np.float32)
        _gather_fp32(weight, given, rows, y, start, stop)
    elif job[KIND] == BF16_BY_INPUTS:
        given = carray(pointer(x), (columns,), np.float32)
        _gather_bf16(weight, given, rows, y, start, stop)
    else:
        _fill_int8(weight, x, columns, y, start, stop)
        scale = carray(pointer(job[SCALE]), (rows,), np.float32)
        for row in range(start, stop):
            y[row] *= scale[row]


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


@njit("void(int64[::1], int64, int64, int64, int64, int64, int64, int64)", **how)
def multiply(job, kind, weight, scale, rows, columns, x, y):
    """`weight (O, I)` times `x (I,)` into `y (O,)`, both fp32; everything by address. `scale` (O,)
    is for int8 alone. I is a multiple of `STEP`, but for weights that lie by inputs."""
    job[KIND], job[WEIGHT], job[SCALE], job[X], job[Y] = kind, weight, scale, x, y
    job[ROWS], job[COLUMNS] = rows, columns
    share = (rows + SHARES - 1) // SHARES
    share = (share + TOGETHER - 1) // TOGETHER * TOGETHER
    shares = (rows + share - 1) // share
    job[SHARE] = share
    store(job, DONE, 0)
    store(job, LEFT, shares)
    _take_shares(job)
    while load(job, DONE) < shares:
        pass
