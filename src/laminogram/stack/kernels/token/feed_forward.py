"""A plain or gated feed-forward network for one token of one row, by a crew of threads
(`crew`), in fp32. The formulas are those of `mixers/mlp.py`.

Axes: C channels, F ffn width.
"""

# Compiled functions take arrays and addresses, for which Python has no types to write.
# An intrinsic is called without the typing context that it is written with.
# mypy: disallow_untyped_defs=False, disallow_incomplete_defs=False, disable-error-code=call-arg
from __future__ import annotations

import math

import numpy as np
from numba import carray, cfunc, njit

from .crew import JOB, PRODUCT, together
from .dots import hold, how, pointer
from .vectors import add, numbers, sigmoid

SILU, GELU, GELU_TANH, RELU, RELU2 = range(5)
(ACTIVATION, WEIGHTS, PARTS, BIASES, DOWN_BIAS) = range(5)
ENTRIES = 5
"""Entries of a network (int64): the kind of activation; the address of its products (parts, 5) and
how many there are (the gate where there is one, up, down); the addresses of the fp32 biases of gate
and up in one, and of down, or 0."""

_ROOT_HALF, _ROOT_2_PI = np.float32(0.5**0.5), np.float32((2 / math.pi) ** 0.5)
_CUBIC = np.float32(0.044715)


@njit(**how)
def activate(kind, x):
    """In place. GELU by tanh is written as `x * sigmoid(2u)`, for `(1 + tanh(u)) / 2`."""
    half, one, two = np.float32(0.5), np.float32(1), np.float32(2)
    for i in range(len(x)):
        if kind == SILU:
            x[i] *= sigmoid(x[i])
        elif kind == GELU:
            x[i] *= half * (one + np.float32(math.erf(x[i] * _ROOT_HALF)))
        elif kind == GELU_TANH:
            x[i] *= sigmoid(two * _ROOT_2_PI * (x[i] + _CUBIC * x[i] * x[i] * x[i]))
        else:
            positive = np.float32(0) if x[i] < np.float32(0) else x[i]
            x[i] = positive if kind == RELU else positive * positive


@njit(**how)
def pass_network(job, network_address, h, out):
    """From what enters the network (C,) to what leaves it."""
    network = carray(pointer(network_address), (ENTRIES,), np.int64)
    products = carray(pointer(network[WEIGHTS]), (network[PARTS], PRODUCT), np.int64)
    inner = products[-1, 4]
    outputs = inner * (len(products) - 1)  # of the gate and up, or of up
    both = np.empty(outputs, np.float32)
    together(job, products[:-1], h.ctypes.data, 0, both.ctypes.data)
    if network[BIASES] != 0:
        add(both, numbers(network[BIASES], (outputs,)))
    act = both[:inner]
    activate(network[ACTIVATION], act)
    if outputs > inner:
        for i in range(inner):
            act[i] *= both[inner + i]
    together(job, products[-1:], act.ctypes.data, 0, out.ctypes.data)
    hold(both)
    if network[DOWN_BIAS] != 0:
        add(out, numbers(network[DOWN_BIAS], out.shape))


@cfunc("void(int64, int64, int64, int64, int64)", **how)
def step(job_address, network_address, h_address, out_address, size):
    """The same by addresses."""
    job = carray(pointer(job_address), (JOB,), np.int64)
    h, out = numbers(h_address, (size,)), numbers(out_address, (size,))
    pass_network(job, network_address, h, out)
