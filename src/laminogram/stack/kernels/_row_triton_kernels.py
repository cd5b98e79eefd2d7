"""Triton kernels for one token of one row: matrix-vector products with what stands around them.

Every kernel reads its weights once and everything else from the second-level cache. A program takes
a block of output rows over all inputs; it asks for its first tile of the weight before anything
else, so that memory is busy while the norm of the residual is taken (each program takes it anew,
which costs less than a kernel of its own). With PDL a kernel may start before the one before it has
ended: weights are asked for at once, and `_wait` stands before the first value that the kernel
before wrote. Sums are fp32, and nothing is rounded between the residual and the result.

Inputs: C channels of the residual, or F of the channel mixer. Import needs Triton.
"""

# Triton kernels take tensors of pointers and blocks, for which Python has no types to write.
# mypy: disallow_untyped_defs=False, disallow_incomplete_defs=False
from __future__ import annotations

import triton
import triton.language as tl

NO_NORM, RMS, LAYER = 0, 1, 2
NO_SHIFT, LERP, MOVED = 0, 1, 2
PLAIN, SILU, GELU, GELU_TANH, RELU, RELU2, SIGMOID = 0, 1, 2, 3, 4, 5, 6


# fmt: off
@triton.jit
def _wait(PDL: tl.constexpr):
    """Let the next kernel begin, and wait for the one before to have written everything."""
    if PDL:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()


@triton.jit
def _activated(y, KIND: tl.constexpr):
    if KIND == 1:
        y = y * tl.sigmoid(y)
    elif KIND == 2:
        y = 0.5 * y * (1.0 + tl.erf(y * 0.7071067811865476))
    elif KIND == 3:
        inner = 0.7978845608028654 * (y + 0.044715 * y * y * y)
        y = y * tl.sigmoid(2.0 * inner)
    elif KIND == 4:
        y = tl.maximum(y, 0.0)
    elif KIND == 5:
        y = tl.maximum(y, 0.0)
        y = y * y
    elif KIND == 6:
        y = tl.sigmoid(y)
    return y


@triton.jit
def _moments(x, eps, SIZE: tl.constexpr, WIDE: tl.constexpr, NORM: tl.constexpr):
    """Mean and reciprocal deviation of the residual (SIZE,), as its norm takes them."""
    mean = 0.0
    scale = 1.0
    if NORM != 0:
        c = tl.arange(0, WIDE)
        v = tl.load(x + c, mask=c < SIZE, other=0.0).to(tl.float32)
        if NORM == 2:
            mean = tl.sum(v) / SIZE
            v = tl.where(c < SIZE, v - mean, 0.0)
        scale = tl.rsqrt(tl.sum(v * v) / SIZE + eps)
    return mean, scale


@triton.jit
def _normed(x, k, inside, mean, scale, gain, shift, offset, NORM: tl.constexpr):
    """Entries `k` of the normalised residual, in fp32."""
    h = tl.load(x + k, mask=inside, other=0.0).to(tl.float32)
    if NORM != 0:
        g = tl.load(gain + k, mask=inside, other=0.0).to(tl.float32) + offset
        h = (h - mean) * scale * g
        if shift is not None:
            h += tl.load(shift + k, mask=inside, other=0.0).to(tl.float32)
    return h


@triton.jit
def _shared(h, before, share, SHIFT: tl.constexpr):
    """The token shift of `h` with the token before, by shares."""
    if SHIFT == 1:
        h = before + (h - before) * share
    elif SHIFT == 2:
        h = h + (before - h) * share
    return h


@triton.jit
def _mixed(h, before, mix, k, inside, SHIFT: tl.constexpr):
    """The token shift of `h` by the shares `mix`, where there is one."""
    if SHIFT != 0:
        share = tl.load(mix + k, mask=inside, other=0.0).to(tl.float32)
        h = _shared(h, before, share, SHIFT)
    return h


@triton.jit
def _tile(w, n, k, N, K: tl.constexpr):
    """Rows `n` and columns `k` of a weight (N, K), as they lie in memory."""
    where = (n < N)[:, None] & (k < K)[None, :]
    at = w + n.to(tl.int64)[:, None] * K + k[None, :]
    return tl.load(at, mask=where, other=0.0, eviction_policy="evict_first")


@triton.jit
def _finish(y, n, N, bias, out, KIND: tl.constexpr):
    if bias is not None:
        y += tl.load(bias + n, mask=n < N, other=0.0).to(tl.float32)
    tl.store(out + n, _activated(y, KIND).to(out.dtype.element_ty), mask=n < N)


@triton.jit
def project(
    x, gain, shift, last, fresh, w0, w1, w2, b0, b1, b2, m0, m1, m2, o0, o1, o2,
    N0, N1, N2, eps, offset,
    K: tl.constexpr, WIDE: tl.constexpr, NORM: tl.constexpr, SHIFT: tl.constexpr,
    A0: tl.constexpr, A1: tl.constexpr, A2: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PDL: tl.constexpr,
):
    """Up to three products of the normalised, shifted residual, one after the other in the grid."""
    pid = tl.program_id(0)
    e0 = tl.cdiv(N0, BLOCK_N)
    e1 = e0 + tl.cdiv(N1, BLOCK_N)
    w, N, mix, first = w0, N0, m0, pid * 0
    if pid >= e1:
        w, N, mix, first = w2, N2, m2, e1
    elif pid >= e0:
        w, N, mix, first = w1, N1, m1, e0
    n = (pid - first) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    tile = _tile(w, n, k, N, K)
    _wait(PDL)
    mean, scale = _moments(x, eps, K, WIDE, NORM)
    acc = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
    for start in range(0, K, BLOCK_K):
        at = start + k
        inside = at < K
        h = _normed(x, at, inside, mean, scale, gain, shift, offset, NORM)
        if SHIFT != 0:
            if pid == 0:
                tl.store(fresh + at, h.to(fresh.dtype.element_ty), mask=inside)
            before = tl.load(last + at, mask=inside, other=0.0).to(tl.float32)
            h = _mixed(h, before, mix, at, inside, SHIFT)
        acc += tile.to(tl.float32) * h[None, :]
        if start + BLOCK_K < K:
            tile = _tile(w, n, at + BLOCK_K, N, K)
    y = tl.sum(acc, axis=1)
    if pid >= e1:
        _finish(y, n, N, b2, o2, A2)
    elif pid >= e0:
        _finish(y, n, N, b1, o1, A1)
    else:
        _finish(y, n, N, b0, o0, A0)


@triton.jit
def gated(
    x, gain, shift, w_gate, w_up, b_gate, b_up, out, N, eps, offset,
    K: tl.constexpr, WIDE: tl.constexpr, NORM: tl.constexpr, ACT: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PDL: tl.constexpr,
):
    """`act(gate h) * (up h)` of the normalised residual."""
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    gate_tile = _tile(w_gate, n, k, N, K)
    up_tile = _tile(w_up, n, k, N, K)
    _wait(PDL)
    mean, scale = _moments(x, eps, K, WIDE, NORM)
    gate_acc = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
    up_acc = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
    for start in range(0, K, BLOCK_K):
        at = start + k
        h = _normed(x, at, at < K, mean, scale, gain, shift, offset, NORM)[None, :]
        gate_acc += gate_tile.to(tl.float32) * h
        up_acc += up_tile.to(tl.float32) * h
        if start + BLOCK_K < K:
            gate_tile = _tile(w_gate, n, at + BLOCK_K, N, K)
            up_tile = _tile(w_up, n, at + BLOCK_K, N, K)
    gate = tl.sum(gate_acc, axis=1)
    if b_gate is not None:
        gate += tl.load(b_gate + n, mask=n < N, other=0.0).to(tl.float32)
    up = tl.sum(up_acc, axis=1)
    if b_up is not None:
        up += tl.load(b_up + n, mask=n < N, other=0.0).to(tl.float32)
    tl.store(out + n, (_activated(gate, ACT) * up).to(out.dtype.element_ty), mask=n < N)


@triton.jit
def _give_back(y, n, N, bias, gate, x, out, added, fresh, last):
    """`x + gate * (y + bias)`, what was added where it is wanted, and the token shift moved on."""
    here = n < N
    if bias is not None:
        y += tl.load(bias + n, mask=here, other=0.0).to(tl.float32)
    if gate is not None:
        y *= tl.load(gate + n, mask=here, other=0.0).to(tl.float32)
    if added is not None:
        tl.store(added + n, y.to(added.dtype.element_ty), mask=here)
    y += tl.load(x + n, mask=here, other=0.0).to(tl.float32)
    tl.store(out + n, y.to(out.dtype.element_ty), mask=here)
    if fresh is not None:
        tl.store(last + n, tl.load(fresh + n, mask=here, other=0.0), mask=here)


@triton.jit
def add_back(
    z, w, bias, gate, x, out, added, fresh, last, N,
    K: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PDL: tl.constexpr,
):
    """`x + gate * (w z + bias)`."""
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    k = tl.arange(0, BLOCK_K)
    tile = _tile(w, n, k, N, K)
    _wait(PDL)
    acc = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
    for start in range(0, K, BLOCK_K):
        at = start + k
        h = tl.load(z + at, mask=at < K, other=0.0).to(tl.float32)
        acc += tile.to(tl.float32) * h[None, :]
        if start + BLOCK_K < K:
            tile = _tile(w, n, at + BLOCK_K, N, K)
    _give_back(tl.sum(acc, axis=1), n, N, bias, gate, x, out, added, fresh, last)


@triton.jit
def _wkv4_state(state, n, here, A):
    """The sums and their scale, of channels `n` of one row's state (3, A)."""
    num = tl.load(state + n, mask=here, other=0.0)
    den = tl.load(state + A + n, mask=here, other=0.0)
    return num, den, tl.load(state + 2 * A + n, mask=here, other=0.0)


@triton.jit
def _wkv4_moved(key, value, w, u, num, den, top, state, n, here, A):
    """wkv of channels `n` of one row; its state (3, A), which was read, moves on."""
    high = tl.maximum(top, u + key)
    past, own = tl.exp(top - high), tl.exp(u + key - high)
    wkv = (past * num + own * value) / (past * den + own)
    high = tl.maximum(top + w, key)
    past, own = tl.exp(top + w - high), tl.exp(key - high)
    tl.store(state + n, past * num + own * value, mask=here)
    tl.store(state + A + n, past * den + own, mask=here)
    tl.store(state + 2 * A + n, high, mask=here)
    return wkv


@triton.jit
def time_mix4(
    x, gain, shift, last, fresh, wr, wk, wv, mr, mk, mv, decay, bonus, state, out, A, eps,
    K: tl.constexpr, WIDE: tl.constexpr,
    BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, PDL: tl.constexpr,
):
    """RWKV-4 from the residual to what enters the output projection; the state moves on."""
    pid = tl.program_id(0)
    n = pid * BLOCK_N + tl.arange(0, BLOCK_N)
    here = n < A
    k = tl.arange(0, BLOCK_K)
    r_tile, k_tile, v_tile = _tile(wr, n, k, A, K), _tile(wk, n, k, A, K), _tile(wv, n, k, A, K)
    _wait(PDL)
    mean, scale = _moments(x, eps, K, WIDE, 2)
    r_acc = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
    k_acc = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
    v_acc = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
    for start in range(0, K, BLOCK_K):
        at = start + k
        inside = at < K
        h = _normed(x, at, inside, mean, scale, gain, shift, 0.0, 2)
        if pid == 0:
            tl.store(fresh + at, h.to(fresh.dtype.element_ty), mask=inside)
        before = tl.load(last + at, mask=inside, other=0.0).to(tl.float32)
        r_acc += r_tile.to(tl.float32) * _mixed(h, before, mr, at, inside, 1)[None, :]
        k_acc += k_tile.to(tl.float32) * _mixed(h, before, mk, at, inside, 1)[None, :]
        v_acc += v_tile.to(tl.float32) * _mixed(h, before, mv, at, inside, 1)[None, :]
        if start + BLOCK_K < K:
            r_tile = _tile(wr, n, at + BLOCK_K, A, K)
            k_tile = _tile(wk, n, at + BLOCK_K, A, K)
            v_tile = _tile(wv, n, at + BLOCK_K, A, K)
    r = tl.sigmoid(tl.sum(r_acc, axis=1))
    key, value = tl.sum(k_acc, axis=1), tl.sum(v_acc, axis=1)
    w = -tl.exp(tl.load(decay + n, mask=here, other=0.0).to(tl.float32))
    u = tl.load(bonus + n, mask=here, other=0.0).to(tl.float32)
    num, den, top = _wkv4_state(state, n, here, A)
    wkv = _wkv4_moved(key, value, w, u, num, den, top, state, n, here, A)
    tl.store(out + n, (r * wkv).to(out.dtype.element_ty), mask=here)
# fmt: on
