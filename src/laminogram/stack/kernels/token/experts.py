"""A mixture of experts for one token of one row, by a crew of threads (`crew`), in fp32:
only the experts that the token meets are read. The formulas are those of `mixers/moe.py`.

Axes: C channels, E experts, X experts that a token meets, F width of an expert.
"""

# Compiled functions take arrays and addresses, for which Python has no types to write.
# An intrinsic is called without the typing context that it is written with.
# mypy: disallow_untyped_defs=False, disallow_incomplete_defs=False, disable-error-code=call-arg
from __future__ import annotations

import numpy as np
from numba import carray, cfunc, njit

from .crew import JOB, PRODUCT, together
from .dots import hold, how, pointer
from .feed_forward import activate, pass_network
from .vectors import exp, numbers, read, sigmoid, write

SOFTMAX, SIGMOID = range(2)
(ENTERS, ROUTED, ROUTER, WEIGHTS, NUMBER, CHOSEN, SCORING, NORMED, CORRECTION) = range(9)
(GROUPS, BEST_GROUPS, BEST_OF, ACTIVATION, FACTOR, SHARED, SHARED_GATE) = range(9, 16)
ENTRIES = 16
"""Entries of a mixture (int64): what the router's input is rounded to, and its product, so that
scores tie where they do elsewhere; the addresses of its product (1, 5) and of the experts' (E, 3,
5), each gate, up and down; E and X; the kind of scoring, whether the chosen scores are divided by
their sum, and the address of the correction (E,), or 0; how many groups there are, how many of them
count, and by how many experts; the kind of activation; the addresses of the factor (1,), of the
shared network (`feed_forward`), or 0, and of its gate (C,), or 0. Numbers are fp32 where
nothing else is said."""
_LEAST = np.float32(1e-20)
_OUT = np.float32(-np.inf)


@njit(**how)
def _rounded(kind, x):
    """`x` as a tensor of this kind holds it, anew."""
    bits, out = np.empty(len(x), np.float32), np.empty(len(x), np.float32)
    write(kind, x, bits.ctypes.data)
    read(kind, bits.ctypes.data, out)
    hold(bits)
    return out


@njit(**how)
def _best(x, count):
    """Where the largest numbers of `x` stand, the largest first; of equal ones and beside those
    that are not numbers the first. Each place comes once, whatever the numbers are."""
    found, free = np.empty(count, np.int64), np.ones(len(x), np.bool_)
    for n in range(count):
        top = -1
        for i in range(len(x)):
            if free[i] and (top < 0 or x[i] > x[top]):
                top = i
        found[n], free[top] = top, False
    return found


@njit(**how)
def _score(kind, x):
    """Scores from the router's product, in place."""
    if kind == SIGMOID:
        for i in range(len(x)):
            x[i] = sigmoid(x[i])
        return
    top, total = x[0], np.float32(0)
    for i in range(1, len(x)):
        top = x[i] if x[i] > top else top
    for i in range(len(x)):
        x[i] = exp(x[i] - top)
        total += x[i]
    for i in range(len(x)):
        x[i] /= total


@njit(**how)
def _leave_out_groups(mixture, merit):
    """Take from the merit of the experts of all groups but the best."""
    groups = mixture[GROUPS]
    size = len(merit) // groups
    worth = np.zeros(groups, np.float32)
    for group in range(groups):
        own = merit[group * size : (group + 1) * size]
        for place in _best(own, mixture[BEST_OF]):
            worth[group] += own[place]
    counts = np.zeros(groups, np.bool_)
    for group in _best(worth, mixture[BEST_GROUPS]):
        counts[group] = True
    for i in range(len(merit)):
        if not counts[i // size]:
            merit[i] = _OUT


@njit(**how)
def _route(job, mixture, h):
    """The experts (X,) that a token meets, and what each counts (X,)."""
    router = carray(pointer(mixture[ROUTER]), (1, PRODUCT), np.int64)
    scores, given = np.empty(mixture[NUMBER], np.float32), _rounded(mixture[ENTERS], h)
    together(job, router, given.ctypes.data, 0, scores.ctypes.data)
    hold(given)
    scores = _rounded(mixture[ROUTED], scores)
    _score(mixture[SCORING], scores)
    merit = scores.copy()
    if mixture[CORRECTION] != 0:
        correction = numbers(mixture[CORRECTION], merit.shape)
        for i in range(len(merit)):
            merit[i] += correction[i]
    if mixture[GROUPS] > 1:
        _leave_out_groups(mixture, merit)
    chosen = _best(merit, mixture[CHOSEN])
    shares, total = np.empty(len(chosen), np.float32), np.float32(0)
    for i in range(len(chosen)):
        shares[i] = scores[chosen[i]]
        total += shares[i]
    factor = numbers(mixture[FACTOR], (1,))[0]
    for i in range(len(chosen)):
        if mixture[NORMED] != 0:
            shares[i] /= total + _LEAST
        shares[i] *= factor
    return chosen, shares


@njit(**how)
def _meet(job, mixture, chosen, shares, h, out):
    """What the chosen experts say, each as much as it counts, into `out (C,)`."""
    experts = carray(pointer(mixture[WEIGHTS]), (mixture[NUMBER], 3, PRODUCT), np.int64)
    count, inner = len(chosen), experts[0, 2, 4]
    first, second = np.empty((2 * count, PRODUCT), np.int64), np.empty((count, PRODUCT), np.int64)
    for n in range(count):
        for i in range(PRODUCT):
            first[2 * n, i] = experts[chosen[n], 0, i]
            first[2 * n + 1, i] = experts[chosen[n], 1, i]
            second[n, i] = experts[chosen[n], 2, i]
    both = np.empty((count, 2, inner), np.float32)
    together(job, first, h.ctypes.data, 0, both.ctypes.data)
    for n in range(count):
        activate(mixture[ACTIVATION], both[n, 0])
        for i in range(inner):
            both[n, 0, i] *= both[n, 1, i]
    answers = np.empty((count, len(out)), np.float32)
    together(job, second, both.ctypes.data, 8 * inner, answers.ctypes.data)
    hold(first)
    hold(second)
    hold(both)
    for i in range(len(out)):
        out[i] = np.float32(0)
    for n in range(count):
        for i in range(len(out)):
            out[i] += shares[n] * answers[n, i]


@njit(**how)
def _add_shared(job, mixture, h, out):
    """What the network says that every token meets."""
    more, share = np.empty(len(out), np.float32), np.float32(1)
    pass_network(job, mixture[SHARED], h, more)
    if mixture[SHARED_GATE] != 0:
        gate, total = numbers(mixture[SHARED_GATE], h.shape), np.float32(0)
        for i in range(len(h)):
            total += gate[i] * h[i]
        share = sigmoid(total)
    for i in range(len(out)):
        out[i] += share * more[i]


@cfunc("void(int64, int64, int64, int64, int64)", **how)
def step(job_address, mixture_address, h_address, out_address, size):
    """From what enters the mixture (C,) to what leaves it."""
    job = carray(pointer(job_address), (JOB,), np.int64)
    mixture = carray(pointer(mixture_address), (ENTRIES,), np.int64)
    h, out = numbers(h_address, (size,)), numbers(out_address, (size,))
    chosen, shares = _route(job, mixture, h)
    _meet(job, mixture, chosen, shares, h, out)
    if mixture[SHARED] != 0:
        _add_shared(job, mixture, h, out)
