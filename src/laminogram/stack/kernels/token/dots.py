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

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from llvmlite.binding import get_host_cpu_name
from numba import carray, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

FP32, BF16, INT8, PAIRS, FP32_CHECKED = range(5)
"""What a weight is stored in. Pairs are bf16 in another order: of 32 columns the first 16 are the
lower halves of words of 32 bits, the others the upper ones. One that is checked is fp32 of which
there may be a copy in pairs: both are read, and a difference in any bit is noted."""
LANES, UNROLL = 16, 2
"""Numbers of a load, and of a row how many vectors of them are taken at a time."""
TOGETHER, AHEAD = (1, 8) if get_host_cpu_name().startswith("znver") else (4, 4)
"""Rows at a time, and rows between a load and its asking ahead: measured best of several, on one
core and on two. Cores by AMD read one long stream faster than four short ones, by a tenth in fp32,
by a fifth in 16 bits; those by Intel do not."""
STEP = LANES * UNROLL
"""What the number of columns is to be a multiple of."""

# Sums may be taken in another order; NaN and infinity stay what they are.
_FAST = {"reassoc", "contract", "arcp", "nsz"}
how: dict[str, Any] = {
    "nogil": True,
    "cache": True,
    "fastmath": _FAST,
    "boundscheck": False,
    "error_model": "numpy",  # a loop that asks whether it divides by zero is not vectorised
}
_I64, _I32, _FLOAT = ir.IntType(64), ir.IntType(32), ir.FloatType()
FLOATS, BITS = ir.VectorType(_FLOAT, LANES), ir.VectorType(_I32, LANES)


@intrinsic
def pointer(typing, address):
    """A pointer from an address, for `carray`."""

    def code(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], cgutils.voidptr_t)

    return types.voidptr(types.int64), code


@intrinsic
def hold(typing, array):
    """Keep the memory of an array until here. numba lets go of it after its last mention, and an
    address taken there is none."""

    def code(context, builder, signature, arguments):
        return context.get_dummy_value()

    return types.void(array), code


def _of_fp32(builder, loaded):
    return [loaded]


def _of_bf16(builder, loaded):
    moved = builder.shl(builder.zext(loaded, BITS), ir.Constant(BITS, [16] * LANES))
    return [builder.bitcast(moved, FLOATS)]


def _of_int8(builder, loaded):
    return [builder.sitofp(builder.sext(loaded, BITS), FLOATS)]


def _of_pairs(builder, loaded):
    lower = builder.shl(loaded, ir.Constant(BITS, [16] * LANES))
    upper = builder.and_(loaded, ir.Constant(BITS, [0xFFFF0000] * LANES))
    return [builder.bitcast(half, FLOATS) for half in (lower, upper)]


class Storage(NamedTuple):
    """How numbers lie in memory: the LLVM type of an entry, the bytes of a number, what makes
    vectors of floats of a load of `LANES` entries."""

    entry: ir.Type
    size: int
    widened: Callable[..., list[Any]]


OF_FP32 = Storage(_FLOAT, 4, _of_fp32)
OF_BF16 = Storage(ir.IntType(16), 2, _of_bf16)
OF_INT8 = Storage(ir.IntType(8), 1, _of_int8)
OF_PAIRS = Storage(_I32, 2, _of_pairs)
"""Half as many loads, and no widening of 16 bits to 32, which together took a fifth of the time."""


def _dots(stored, rows, unroll):
    """A function (weight address, bytes of a row, x address, I) -> `rows` dot products of
    neighbouring rows with x, of which `unroll` loads are taken at a time."""

    @intrinsic
    def dots(typing, weight, stride, x, columns):
        def code(context, builder, signature, arguments):
            sums = _loop(builder, stored, rows, unroll, *arguments)
            return context.make_tuple(builder, signature.return_type, sums)

        integer = types.int64
        return types.UniTuple(types.float32, rows)(integer, integer, integer, integer), code

    return dots


def _checked_dots(rows):
    """The same of fp32 rows whose copies in pairs begin at `copy`: 1 comes to lie at `odd` where
    they are not the same numbers."""

    @intrinsic
    def dots(typing, weight, stride, x, columns, copy, odd):
        def code(context, builder, signature, arguments):
            sums = _loop(builder, OF_FP32, rows, UNROLL, *arguments)
            return context.make_tuple(builder, signature.return_type, sums)

        return types.UniTuple(types.float32, rows)(*[types.int64] * 6), code

    return dots


def _loop(builder, stored, rows, unroll, weight, stride, x, columns, copy=None, odd=None):
    """The loop over columns; the sums as floats."""
    before, loop = builder.block, builder.append_basic_block("columns")
    after = builder.append_basic_block("sums")
    zero = ir.Constant(FLOATS, [0.0] * LANES)
    builder.branch(loop)
    builder.position_at_end(loop)
    column = builder.phi(_I64)
    column.add_incoming(_I64(0), before)
    sums = [[builder.phi(FLOATS) for _ in range(unroll)] for _ in range(rows)]
    others = None if copy is None else _Others(builder, before)
    starts = [builder.add(weight, builder.mul(stride, _I64(row))) for row in range(rows)]
    numbers = _vectors(builder, OF_FP32, x, column, unroll)
    multiply = vector_function(builder, "llvm.fmuladd", FLOATS, [FLOATS] * 3)
    for row in range(rows):
        later = builder.add(starts[row], builder.mul(stride, _I64(AHEAD)))
        _ask_ahead(builder, later, column, stored.size, unroll)
        weights = _vectors(builder, stored, starts[row], column, unroll)
        if others is not None:
            half = builder.add(copy, builder.mul(builder.lshr(stride, _I64(1)), _I64(row)))
            others.compare(weights, _vectors(builder, OF_PAIRS, half, column, unroll))
        for part in range(unroll):
            total = builder.call(multiply, [weights[part], numbers[part], sums[row][part]])
            sums[row][part].add_incoming(zero, before)
            sums[row][part].add_incoming(total, loop)
    if others is not None:
        others.close(loop)
    following = builder.add(column, _I64(LANES * unroll))
    column.add_incoming(following, loop)
    builder.cbranch(builder.icmp_signed("<", following, columns), loop, after)
    builder.position_at_end(after)
    if others is not None:
        others.note(odd)
    return [_total(builder, [part.incomings[1][0] for part in of_row]) for of_row in sums]


def _total(builder, parts):
    """The sum of some vectors' numbers."""
    reduce = vector_function(builder, "llvm.vector.reduce.fadd", _FLOAT, [_FLOAT, FLOATS])
    total = parts[0]
    for other in parts[1:]:
        total = builder.fadd(total, other)
    return builder.call(reduce, [_FLOAT(-0.0), total], fastmath=("reassoc",))


class _Others:
    """The bits in which vectors of a loop differ from those that they are compared with."""

    def __init__(self, builder, before):
        self._builder, self._before = builder, before
        self._kept = builder.phi(BITS)
        self._now = self._kept

    def compare(self, weights, copies):
        b = self._builder
        for one, other in zip(weights, copies, strict=True):
            found = b.xor(b.bitcast(one, BITS), b.bitcast(other, BITS))
            self._now = b.or_(self._now, found)

    def close(self, loop):
        self._kept.add_incoming(ir.Constant(BITS, [0] * LANES), self._before)
        self._kept.add_incoming(self._now, loop)

    def note(self, odd):
        """Write 1 to the address `odd` where there is such a bit, and leave it alone where not."""
        b = self._builder
        kind = ir.FunctionType(_I32, [BITS])
        name = f"llvm.vector.reduce.or.v{LANES}i32"
        reduce = cgutils.get_or_insert_function(b.module, kind, name)
        differs = b.icmp_unsigned("!=", b.call(reduce, [self._now]), _I32(0))
        with b.if_then(differs, likely=False):
            b.store_atomic(_I64(1), b.inttoptr(odd, _I64.as_pointer()), "monotonic", 8)


def vector(builder, stored, start, column, part):
    """Load `LANES` numbers of a row as floats."""
    return _loaded(builder, stored, start, builder.add(column, _I64(LANES * part)))[0]


def _vectors(builder, stored, start, column, count):
    """The next `count * LANES` numbers of a row as floats."""
    found: list[object] = []
    while len(found) < count:
        at = builder.add(column, _I64(LANES * len(found)))
        found += _loaded(builder, stored, start, at)
    return found


def _loaded(builder, stored, start, column):
    at, kind = builder.mul(column, _I64(stored.size)), ir.VectorType(stored.entry, LANES)
    address = builder.inttoptr(builder.add(start, at), kind.as_pointer())
    return stored.widened(builder, builder.load(address, align=stored.size, typ=kind))


def _ask_ahead(builder, start, column, size, unroll):
    """Ask for the cache lines of one step of a later row."""
    at = builder.add(start, builder.mul(column, _I64(size)))
    arguments = [cgutils.voidptr_t, _I32, _I32, _I32]
    kind = ir.FunctionType(ir.VoidType(), arguments)
    ask = builder.module.declare_intrinsic("llvm.prefetch", [cgutils.voidptr_t], kind)
    for line in range(0, LANES * unroll * size, 64):
        address = builder.inttoptr(builder.add(at, _I64(line)), cgutils.voidptr_t)
        builder.call(ask, [address, _I32(0), _I32(2), _I32(1)])  # to read, second level, data


def vector_function(builder, name, result, arguments):
    """LLVM's function of a vector of `LANES` fp32 numbers."""
    kind = ir.FunctionType(result, arguments)
    return cgutils.get_or_insert_function(builder.module, kind, f"{name}.v{LANES}f32")


def filling(stored, unroll):
    """A function that fills y[start:stop] with the products of those rows; the number of columns is
    a multiple of `LANES * unroll`."""
    several, single = (_dots(stored, rows, unroll) for rows in (TOGETHER, 1))
    size = stored.size

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


_fill_fp32 = filling(OF_FP32, UNROLL)
_fill_pairs = filling(OF_PAIRS, UNROLL)
_fill_int8 = filling(OF_INT8, UNROLL)
_several_checked, _single_checked = _checked_dots(TOGETHER), _checked_dots(1)


@njit(**how)
def _fill_checked(weight, x, columns, y, start, stop, copy, odd):
    """As those above, of fp32 rows whose copies in pairs begin at `copy`."""
    stride, row = columns * 4, start
    while row + TOGETHER <= stop:
        place, other = weight + row * stride, copy + row * stride // 2
        sums = _several_checked(place, stride, x, columns, other, odd)
        for i in range(TOGETHER):
            y[row + i] = sums[i]
        row += TOGETHER
    while row < stop:
        place, other = weight + row * stride, copy + row * stride // 2
        y[row] = _single_checked(place, stride, x, columns, other, odd)[0]
        row += 1


@intrinsic
def _part(typing, given, out):
    """Of the `STEP` numbers at one address those in even places, then the others, at another."""

    def code(context, builder, signature, arguments):
        places = [[builder.add(at, _I64(4 * LANES * i)) for i in range(2)] for at in arguments]
        given, out = ([builder.inttoptr(at, FLOATS.as_pointer()) for at in two] for two in places)
        loaded = [builder.load(at, align=4, typ=FLOATS) for at in given]
        for odd, at in enumerate(out):
            chosen = ir.Constant(BITS, [2 * i + odd for i in range(LANES)])
            builder.store(builder.shuffle_vector(*loaded, chosen), at, align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64), code


@njit(**how)
def _even_then_odd(x, columns):
    """Of every `STEP` numbers those in even places, then the others: what meets two neighbours of a
    row in bf16, read as a pair."""
    out = np.empty(columns, np.float32)
    for start in range(0, 4 * columns, 4 * STEP):
        _part(x + start, out.ctypes.data + start)
    return out


@njit(**how)
def fill_rows(product, x, y, start, stop):
    """Rows `start` to `stop` of a product `(kind, weight, scale, O, I)` with `x (I,)` into those of
    `y (O,)`, both fp32. `scale` (O,) is for int8; one that is checked has the address of two int64
    there: where the copy lies, and what becomes 1 where it is another."""
    kind, weight, rows, columns = product[0], product[1], product[3], product[4]
    out = carray(pointer(y), (rows,), np.float32)
    if kind == FP32:
        _fill_fp32(weight, x, columns, out, start, stop)
    elif kind == PAIRS:
        _fill_pairs(weight, x, columns, out, start, stop)
    elif kind == BF16:
        moved = _even_then_odd(x, columns)
        _fill_pairs(weight, moved.ctypes.data, columns, out, start, stop)
        hold(moved)
    elif kind == FP32_CHECKED:
        copy = carray(pointer(product[2]), (2,), np.int64)[0]
        _fill_checked(weight, x, columns, out, start, stop, copy, product[2] + 8)
    else:
        _fill_int8(weight, x, columns, out, start, stop)
        scale = carray(pointer(product[2]), (rows,), np.float32)
        for row in range(start, stop):
            out[row] *= scale[row]
