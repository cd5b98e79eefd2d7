"""What a token's layer does to vectors beside its products, in compiled loops: exponentials, norms,
reading and writing fp32 and bf16. Vectors are fp32."""

# Compiled functions take arrays and addresses, for which Python has no types to write.
# An intrinsic is called without the typing context that it is written with.
# mypy: disallow_untyped_defs=False, disallow_incomplete_defs=False, disable-error-code=call-arg
from __future__ import annotations

import math

import numpy as np
from numba import carray, njit

from .dots import BF16, how, pointer

RMS, LAYER = range(2)
"""Kinds of norm."""
_LOG2_E = np.float32(1.4426950408889634)
_TAYLOR = tuple(np.float32(math.log(2) ** n / math.factorial(n)) for n in range(7, -1, -1))
"""Of 2**x, highest power first."""


@njit(**how)
def numbers(address, shape):
    """The fp32 numbers at an address."""
    return carray(pointer(address), shape, np.float32)


@njit(**how)
def exp(x):
    """e**x of a number that is not positive, to two roundings; a loop over it is vectorised."""
    power = x * _LOG2_E
    power = np.float32(-126) if power < np.float32(-126) else power  # this way round NaN stays
    whole = np.int32(power - np.float32(0.5))
    part = power - np.float32(whole)
    out = _TAYLOR[0]
    for c in _TAYLOR[1:]:
        out = out * part + c
    return out * np.int32((whole + np.int32(127)) << np.int32(23)).view(np.float32)


@njit(**how)
def sigmoid(x):
    """1 / (1 + e**-x)."""
    small = exp(-abs(x))
    return (np.float32(1) if x > 0 else small) / (np.float32(1) + small)


@njit(**how)
def read(kind, address, out):
    """Numbers in fp32 or bf16 at an address, as fp32."""
    if kind == BF16:
        bits = carray(pointer(address), out.shape, np.uint16)
        for i in range(len(out)):
            out[i] = np.uint32(np.uint32(bits[i]) << np.uint32(16)).view(np.float32)
    else:
        given = numbers(address, out.shape)
        for i in range(len(out)):  # an assignment of the whole takes seconds to compile
            out[i] = given[i]


@njit(**how)
def write(kind, x, address):
    """The reverse; bf16 rounded to nearest, to even in the middle."""
    if kind == BF16:
        bits = carray(pointer(address), x.shape, np.uint16)
        for i in range(len(x)):
            own = np.float32(x[i]).view(np.uint32)
            odd = np.uint32(own >> np.uint32(16)) & np.uint32(1)
            bits[i] = np.uint16(np.uint32(own + np.uint32(0x7FFF) + odd) >> np.uint32(16))
    else:
        out = numbers(address, x.shape)
        for i in range(len(x)):
            out[i] = x[i]


@njit(**how)
def add(x, more):
    """`x (C,)` plus another vector, in place."""
    for i in range(len(x)):
        x[i] += more[i]


@njit(**how)
def normalise(x, weight, bias, eps, out):
    """LayerNorm of `x` (C,)."""
    mean = np.float32(0)
    for i in range(len(x)):
        mean += x[i]
    mean /= np.float32(len(x))
    spread = np.float32(0)
    for i in range(len(x)):
        spread += (x[i] - mean) * (x[i] - mean)
    factor = np.float32(1) / np.sqrt(spread / np.float32(len(x)) + np.float32(eps))
    for i in range(len(x)):
        out[i] = (x[i] - mean) * factor * weight[i] + bias[i]


@njit(**how)
def normalise_by_square(x, weight, bias, eps, out):
    """RMSNorm of `x` (C,)."""
    square = np.float32(0)
    for i in range(len(x)):
        square += x[i] * x[i]
    factor = np.float32(1) / np.sqrt(square / np.float32(len(x)) + np.float32(eps))
    for i in range(len(x)):
        out[i] = x[i] * factor * weight[i] + bias[i]


@njit(**how)
def norm(kind, x, weight, bias, eps, out):
    """`x (C,)` normalised in one of both ways; `out` may be `x`."""
    if kind == RMS:
        normalise_by_square(x, weight, bias, eps, out)
    else:
        normalise(x, weight, bias, eps, out)
