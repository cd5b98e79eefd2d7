"""fp32 numbers whose last 16 bits are zero, copied in 16 bits or compared with such a copy, by a
crew of threads: everything by address, bit by bit, and no further than the first number that is
odd.
A copy is bf16 in the order of its numbers, or in pairs (`dots`).
"""

# Compiled functions take arrays and addresses, for which Python has no types to write.
# mypy: disallow_untyped_defs=False, disallow_incomplete_defs=False, disable-error-code=call-arg
from __future__ import annotations

import numpy as np
from numba import carray, cfunc, njit

from .crew import GIVEN, JOB, X, finish
from .dots import STEP, how, pointer

__all__ = [
    "COMPARE",
    "COMPARE_PAIRS",
    "COPY",
    "COPY_PAIRS",
    "LONG",
    "NUMBERS",
    "ODD",
    "SHORT",
    "TABLE",
    "WAY",
]

LONG, SHORT, NUMBERS, ODD = range(4)
"""Of a pass: the addresses of fp32 numbers and their copies, how many there are, and whether one of
them is not what was hoped for."""
TABLE = 4
_BLOCK = 1 << 16
"""Numbers of a share: too few to delay the others, too many to be counted with care."""
_LOW, _HIGH, _HALF = np.uint32(0xFFFF), np.uint32(0xFFFF0000), np.uint32(16)
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


@njit(**how)
def _pair(long, i):
    """The word of two numbers that lie half a step apart, and the bits that it has no room for."""
    one, other = long[i], long[i + STEP // 2]
    return np.uint32((one >> _HALF) | (other & _HIGH)), np.uint32((one | other) & _LOW)


@cfunc("void(int64, int64)", **how)
def _copy_pairs(address, number):
    table, long, short = _share(address, number)
    if table[ODD]:
        return
    low, words = np.uint32(0), short.view(np.uint32)
    for start in range(0, len(long), STEP):
        for i in range(STEP // 2):
            word, rest = _pair(long, start + i)
            low = np.uint32(low | rest)
            words[start // 2 + i] = word
    if low:
        table[ODD] = 1


@cfunc("void(int64, int64)", **how)
def _compare_pairs(address, number):
    table, long, short = _share(address, number)
    if table[ODD]:
        return
    other, words = np.uint32(0), short.view(np.uint32)
    for start in range(0, len(long), STEP):
        for i in range(STEP // 2):
            word, rest = _pair(long, start + i)
            other = np.uint32(other | rest | (word ^ words[start // 2 + i]))
    if other:
        table[ODD] = 1


COPY, COMPARE = _copy_share.address, _compare_share.address
COPY_PAIRS, COMPARE_PAIRS = _copy_pairs.address, _compare_pairs.address


@cfunc("void(int64)", **how)
def _lead(address):
    """The way of a pass over all numbers of a table; given: one of the four, and the table's
    address."""
    job = carray(pointer(address), (JOB,), np.int64)
    job[X] = job[GIVEN + 1]
    table = carray(pointer(job[X]), (TABLE,), np.int64)
    finish(job, job[GIVEN], (table[NUMBERS] + _BLOCK - 1) // _BLOCK)


WAY = _lead.address
