"""Multi-head latent attention for one token of one row (`block`): all heads read the same latents,
with queries brought into their space and answers brought out of it. Products and heads by a crew of
threads (`crew`), in fp32; the formulas are those of `mixers/latent.py`.

Axes: C channels, H heads, Dn and Dr own and turned channels of a head's query, Dv size of its
values, R rank of the latent, L = R + Dr.
"""

# Compiled functions take arrays and addresses, for which Python has no types to write.
# An intrinsic is called without the typing context that it is written with.
# mypy: disallow_untyped_defs=False, disallow_incomplete_defs=False, disable-error-code=call-arg
from __future__ import annotations

import numpy as np
from numba import carray, cfunc, njit

from . import attend
from .attention import turn
from .crew import JOB, PRODUCT, X, finish, together
from .dots import hold, how, pointer
from .layers import END, ROPE, ROPES
from .vectors import add, norm, numbers, write

(KV_EPS, Q_EPS, SCALE) = range(3)
ATTEND_HEAD = attend.attend_head.address
"""Where the function lies that does a head."""
(KIND, NORM, SIZE, PARTS, WEIGHTS, ABSORB, EXPAND, NUMBERS) = range(8)
(KV_TABLE, Q_TABLE, KV_BIAS, Q_BIAS, O_BIAS) = range(8, 13)
(LATENTS, HEADS, OWN, TURNED, RANK, ATTEND, TURN) = range(13, 20)
ENTRIES = 20
"""Entries of an attention (int64): what the latents are held in; the kind of the norms of both
latents; C; how many products there are and their address (parts, 5): what makes the latent, what
makes the queries (that of their own latent and from there, or one), and what leaves; the addresses
of the products (H, 5) that bring the query of a head into the latents' space, and its answer out of
it, and of the numbers; of what the norm of the latent multiplies with and adds (2, R), of that of
the queries' own, or 0; of the biases of the latent (L,), of the queries' own, and of what leaves
(C,). The latents (capacity, L); H, Dn, Dr and R; the function that does a head; which rope turns.
Numbers are fp32 where nothing else is said."""


@njit(**how)
def _queries(job, layer, products, h_address, wide):
    """The queries (H * (Dn + Dr),), neither turned nor scaled."""
    if len(products) == 1:
        together(job, products, h_address, 0, wide.ctypes.data)
        return
    rank = products[0, 3]
    low, table = np.empty(rank, np.float32), numbers(layer[Q_TABLE], (2, rank))
    together(job, products[:1], h_address, 0, low.ctypes.data)
    add(low, numbers(layer[Q_BIAS], (rank,)))
    norm(layer[NORM], low, table[0], table[1], numbers(layer[NUMBERS], (3,))[Q_EPS], low)
    together(job, products[1:], low.ctypes.data, 0, wide.ctypes.data)
    hold(low)


@njit(**how)
def _latent(job, layer, token, product, rope, h_address, width):
    """The latent of the token (L,), which joins the memory."""
    rank = layer[RANK]
    latent, table = np.empty(width, np.float32), numbers(layer[KV_TABLE], (2, rank))
    together(job, product, h_address, 0, latent.ctypes.data)
    add(latent, numbers(layer[KV_BIAS], (width,)))
    low = latent[:rank]
    norm(layer[NORM], low, table[0], table[1], numbers(layer[NUMBERS], (3,))[KV_EPS], low)
    _turn(rope, latent[rank:])
    size = 4 if layer[KIND] == 0 else 2
    write(layer[KIND], latent, layer[LATENTS] + (token[END] - 1) * width * size)


@njit(**how)
def _turn(rope, x):
    cos, sin = numbers(rope[0], (rope[2],)), numbers(rope[1], (rope[2],))
    turn(x, len(x), cos, sin, np.empty(rope[2], np.float32))


@njit(**how)
def _absorbed(job, layer, wide, rope, width):
    """The queries in the space of the latents (H, L), scaled."""
    heads, own, turned, rank = layer[HEADS], layer[OWN], layer[TURNED], layer[RANK]
    low, out = np.empty((heads, rank), np.float32), np.empty((heads, width), np.float32)
    products = carray(pointer(layer[ABSORB]), (heads, PRODUCT), np.int64)
    together(job, products, wide.ctypes.data, 4 * (own + turned), low.ctypes.data)
    scale = numbers(layer[NUMBERS], (3,))[SCALE]
    for head in range(heads):
        start = head * (own + turned) + own
        _turn(rope, wide[start : start + turned])
        for i in range(rank):
            out[head, i] = low[head, i] * scale
        for i in range(turned):
            out[head, rank + i] = wide[start + i] * scale
    hold(low)
    return out


@njit(**how)
def _look_back(job, layer, token, queries, answers):
    """From queries (H, L) to the latents that they read (H, R)."""
    table = np.zeros(attend.ATTENTION, np.int64)
    width = queries.shape[1]
    table[attend.KIND], table[attend.GROUP], table[attend.END] = layer[KIND], 1, token[END]
    table[attend.QUERIES], table[attend.ANSWERS] = queries.ctypes.data, answers.ctypes.data
    table[attend.KEYS], table[attend.VALUES] = layer[LATENTS], layer[LATENTS]
    table[attend.SIZE], table[attend.VALUE_SIZE] = width, layer[RANK]
    table[attend.ROW] = width
    job[X] = table.ctypes.data
    finish(job, layer[ATTEND], layer[HEADS])
    hold(table)


@cfunc("void(int64, int64, int64, int64, int64)", **how)
def step(job_address, layer_address, token_address, h_address, out_address):
    """From what enters the attention (C,) to what leaves it."""
    job = carray(pointer(job_address), (JOB,), np.int64)
    layer = carray(pointer(layer_address), (ENTRIES,), np.int64)
    token = carray(pointer(token_address), (ROPES + ROPE * (layer[TURN] + 1),), np.int64)
    products = carray(pointer(layer[WEIGHTS]), (layer[PARTS], PRODUCT), np.int64)
    rope, heads, width = token[ROPES + ROPE * layer[TURN] :], layer[HEADS], products[0, 3]
    last = len(products) - 1
    _latent(job, layer, token, products[:1], rope, h_address, width)
    wide = np.empty(products[last - 1, 3], np.float32)
    _queries(job, layer, products[1:last], h_address, wide)
    queries = _absorbed(job, layer, wide, rope, width)
    answers = np.empty((heads, layer[RANK]), np.float32)
    _look_back(job, layer, token, queries, answers)
    z = np.empty(products[last, 4], np.float32)
    expand = carray(pointer(layer[EXPAND]), (heads, PRODUCT), np.int64)
    together(job, expand, answers.ctypes.data, 4 * layer[RANK], z.ctypes.data)
    together(job, products[last:], z.ctypes.data, 0, out_address)
    add(numbers(out_address, (layer[SIZE],)), numbers(layer[O_BIAS], (layer[SIZE],)))
    hold(answers)
    hold(z)
