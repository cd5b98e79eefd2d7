"""fp32 numbers whose last 16 bits are zero, copied as bf16 or compared with such a copy, by a crew
of threads: everything by address, bit by bit, and no further than the first number that is odd.
"""

# Compiled functions take arrays and addresses, for which Python has no types to write.
# mypy: disallow_untyped_defs=False, disallow_incomplete_defs=False, disable-error-code=call-arg
from __future__ import annotations

import numpy as np
from numba import carray, cfunc, njit

from ._crew_numba import JOB, X, finish
from ._dots_numba import how, pointer

__all__ = ["COMPARE", "COPY", "LONG", "NUMBERS", "ODD", "SHORT", "TABLE", "whole"]

LONG, SHORT, NUMBERS, ODD = range(4)
"""Of a pass: the addresses of fp32 and bf16 numbers, how many there are, and whether one of them
is not what was hoped for."""
TABLE = 4
_BLOCK = 1 << 16
"""Numbers of a share: too few to delay the others, too many to be counted with care."""
_LOW, _HALF = np.uint32(0xFFFF), np.uint32(16)
# What is gathered is made uint32 at every turn: numba would widen it to 64 bits, half as fast.


@njit(**how)
def _share(address, number):
    """The table of a pass, and the numbers of a share of it."""
    job = carray(pointer(address), (JOB,), np.int64)
    table = carray(pointer(job[X]), (TABLE,), np.int64)
    start = number * _BLOCK
    count = min(_BLOCK, table[NUMBERS] - start)
    long = carray(pointer(table[LONG] + 4 * start), (count,), np.uint32)
    short = carray(pointer(table[SHORT] + 2 * start), (count,), np.uint16)
    return table, long, short


@cfunc("void(int64, int64)", **how)
def _copy_share(address, number):
    table, long, short = _share(address, number)
    if table[ODD]:
        return
    low = np.uint32(0)
    for i in range(len(long)):
        low = np.uint32(low | (long[i] & _LOW))
        short[i] = long[i] >> _HALF
    if low:
        table[ODD] = 1


@cfunc("void(int64, int64)", **how)
def _compare_share(address, number):
    table, long, short = _share(address, number)
    if table[ODD]:
        return
    other = np.uint32(0)
    for i in range(len(long)):
        other = np.uint32(other | (long[i] ^ (np.uint32(short[i]) << _HALF)))
    if other:
        table[ODD] = 1


COPY, COMPARE = _copy_share.address, _compare_share.address


def whole(job, work, table):
    """Do `COPY` or `COMPARE` to all numbers of a table; whether all of them were as hoped for."""
    job[X] = table.ctypes.data
    finish(job, work, (table[NUMBERS] + _BLOCK - 1) // _BLOCK)
    return not table[ODD]
