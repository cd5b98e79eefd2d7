"""RWKV-4's recurrence over many tokens in fp32: threads take shares of a row's channels and go
through its tokens one after the other, their state in the first cache.

Axes: B rows, T tokens, A width.
"""

# Compiled functions take arrays and addresses, for which Python has no types to write.
# An intrinsic is called without the typing context that it is written with.
# mypy: disallow_untyped_defs=False, disallow_incomplete_defs=False, disable-error-code=call-arg
from __future__ import annotations

import numpy as np
from numba import carray, cfunc, njit

from .token.crew import add
from .token.dots import BF16, how, pointer
from .token.vectors import exp, numbers, read

LEFT = 0
"""Where a job says how many shares are left: a cache line of its own."""
(KIND, KEYS, VALUES, PAST, STATE, LENGTHS, ANSWERS, ROWS, TOKENS, WIDTH) = range(8, 18)
"""What k and v are held in; the addresses of k and v (B, T, A), decay and bonus (2, A), the state
(B, 3, A), which moves on, real tokens of each row (B,), int64, and y (B, T, A); B, T and A. Numbers
are fp32 where nothing else is said."""
JOB = 18
CHANNELS = 64
"""Channels of a share: four vectors, whose long chains of sums overlap."""


@njit(**how)
def recur(k, v, decay, bonus, num, den, scale):
    """One token of one channel: its answer, and the state after it."""
    one = np.float32(1)
    ahead = bonus + k - scale
    share = exp(-abs(ahead))
    past, own = (share, one) if ahead > 0 else (one, share)
    y = (past * num + own * v) / (past * den + own)
    ahead = k - (scale + decay)
    share = exp(-abs(ahead))
    past, own = (share, one) if ahead > 0 else (one, share)
    return y, past * num + own * v, past * den + own, max(scale + decay, k)


@njit(**how)
def _whole(address, shape):
    return carray(pointer(address), shape, np.int64)


@njit(**how)
def _share(job, row, start, count):
    """Channels `start` on of a row."""
    kind, tokens, width = job[KIND], job[TOKENS], job[WIDTH]
    past, state = numbers(job[PAST], (2, width)), numbers(job[STATE], (job[ROWS], 3, width))
    decay, bonus = past[0, start : start + count], past[1, start : start + count]
    k, v, num, den, scale = np.empty((5, count), np.float32)
    for i in range(count):
        num[i] = state[row, 0, start + i]
        den[i] = state[row, 1, start + i]
        scale[i] = state[row, 2, start + i]
    real, size = _whole(job[LENGTHS], (job[ROWS],))[row], 2 if kind == BF16 else 4
    for token in range(tokens):
        at = (row * tokens + token) * width + start
        y = numbers(job[ANSWERS] + 4 * at, (count,))
        if token >= real:
            y[:] = 0
            continue
        read(kind, job[KEYS] + size * at, k)
        read(kind, job[VALUES] + size * at, v)
        for i in range(count):
            y[i], num[i], den[i], scale[i] = recur(
                k[i], v[i], decay[i], bonus[i], num[i], den[i], scale[i]
            )
    for i in range(count):
        state[row, 0, start + i] = num[i]
        state[row, 1, start + i] = den[i]
        state[row, 2, start + i] = scale[i]


@njit(**how)
def _take_shares(job):
    pieces = (job[WIDTH] + CHANNELS - 1) // CHANNELS
    while True:
        number = add(job, LEFT, -1) - 1
        if number < 0:
            return
        row, start = number // pieces, number % pieces * CHANNELS
        _share(job, row, start, min(CHANNELS, job[WIDTH] - start))


@cfunc("void(voidptr)", **how)
def take_shares(job):
    """What a thread does with the job at an address."""
    _take_shares(carray(job, (JOB,), np.int64))
