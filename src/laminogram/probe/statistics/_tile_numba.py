"""Sums and extremes of 16 neighbouring channels over some rows, for a CPU, all in registers: in
LLVM's own words, since compilers prefer narrower vectors and go through memory at every few rows.

Axes: N rows, C channels.
"""

# An intrinsic is called without the typing context that it is written with.
# mypy: disallow_untyped_defs=False, disallow_incomplete_defs=False, disable-error-code=call-arg
from __future__ import annotations

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from laminogram.stack.kernels.token.dots import FLOATS, LANES, OF_FP32, vector

POWERS = 4
_HALF = LANES // 2
_I64, _I32 = ir.IntType(64), ir.IntType(32)
_DOUBLES = ir.VectorType(ir.DoubleType(), _HALF)
_HALF_FLOATS = ir.VectorType(ir.FloatType(), _HALF)
_FUSED = ("contract",)


@intrinsic
def add_tile(typing, values, stride, rows, center, extremes, sums, channels):
    """Add rows of `LANES` channels to their sums and extremes, all by address: numbers of the first
    row, fp32, with `stride` bytes from row to row; `center` (C,), fp64; `extremes` (2, C), fp32;
    `sums` (4, C), fp64. At least one row."""

    def code(context, builder, signature, arguments):
        _tile(builder, *arguments)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 7), code


@intrinsic
def ask_for(typing, address):
    """Have the cache line at an address brought to the second cache."""

    def code(context, builder, signature, arguments):
        kind = ir.FunctionType(ir.VoidType(), [cgutils.voidptr_t, _I32, _I32, _I32])
        ask = builder.module.declare_intrinsic("llvm.prefetch", [cgutils.voidptr_t], kind)
        at = builder.inttoptr(arguments[0], cgutils.voidptr_t)
        builder.call(ask, [at, _I32(0), _I32(2), _I32(1)])  # to read, second level, data
        return context.get_dummy_value()

    return types.void(types.int64), code


def _tile(builder, values, stride, rows, center, extremes, sums, channels):
    sums_at = [
        _at(builder, _DOUBLES, builder.add(sums, builder.mul(channels, _I64(8 * power))), half)
        for power in range(POWERS)
        for half in range(2)
    ]
    high = builder.add(extremes, builder.mul(channels, _I64(4)))
    held_at = [*sums_at, *(_at(builder, FLOATS, at, 0) for at in (extremes, high))]
    centers = [builder.load(_at(builder, _DOUBLES, center, half), align=8) for half in range(2)]
    held = [builder.load(at, align=4) for at in held_at]
    before, loop = builder.block, builder.append_basic_block("rows")
    after = builder.append_basic_block("written")
    builder.branch(loop)
    builder.position_at_end(loop)
    row = builder.phi(_I64)
    row.add_incoming(_I64(0), before)
    phis = []
    for number in held:
        phis.append(builder.phi(number.type))
        phis[-1].add_incoming(number, before)
    start = builder.add(values, builder.mul(row, stride))
    following = _with_row(builder, start, centers, phis)
    for phi, number in zip(phis, following, strict=True):
        phi.add_incoming(number, loop)
    further = builder.add(row, _I64(1))
    row.add_incoming(further, loop)
    builder.cbranch(builder.icmp_signed("<", further, rows), loop, after)
    builder.position_at_end(after)
    for at, number in zip(held_at, following, strict=True):
        builder.store(number, at, align=4)


def _with_row(builder, start, centers, held):
    """What is held of the channels with one row's numbers, at an address, added: the sums of each
    power by halves, the smallest and the largest."""
    *sums, low, high = held
    x = vector(builder, OF_FP32, start, _I64(0), 0)
    added: list[ir.Value] = []
    for half in range(2):
        # Loaded once more: to widen what is in a register takes the place of arithmetic.
        narrow = builder.load(_at(builder, _HALF_FLOATS, start, half), align=4)
        a = builder.fsub(builder.fpext(narrow, _DOUBLES), centers[half])
        aa = builder.fmul(a, a)
        for factor, other in ((a, None), (aa, None), (aa, a), (aa, aa)):
            term = factor if other is None else builder.fmul(factor, other, flags=_FUSED)
            added.append(builder.fadd(sums[2 * (len(added) % POWERS) + half], term, flags=_FUSED))
    sums = [added[half * POWERS + power] for power in range(POWERS) for half in range(2)]
    low = builder.select(builder.fcmp_ordered("<", x, low), x, low)
    return [*sums, low, builder.select(builder.fcmp_ordered(">", x, high), x, high)]


def _at(builder, kind, address, place):
    """A pointer to the vector of a kind at a place of an array."""
    size = kind.count * (8 if kind.element == ir.DoubleType() else 4)
    return builder.inttoptr(builder.add(address, _I64(place * size)), kind.as_pointer())
