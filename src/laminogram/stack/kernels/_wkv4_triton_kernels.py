"""The Triton kernels behind `wkv4_triton`, and what launches them. Import needs Triton.

One program handles one batch row and one block of channels and walks over the tokens in groups: it
loads a whole group first, so that the loads overlap, and then steps through it. Forward keeps the
state before each group (the marks); backward walks the groups from the last to the first, replays
each from its mark, and runs the adjoint back.

Channels of a row are contiguous, so neighbouring threads read neighbouring addresses.
"""

# Triton kernels take tensors of pointers and blocks, for which Python has no types to write.
# mypy: disallow_untyped_defs=False, disallow_incomplete_defs=False
from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

BLOCK = 32  # channels of a program: one warp, one channel per thread
GROUP = 4  # tokens loaded together; the two kernels write them out one by one


@triton.jit
def _answer(num, den, scale, k, v, u):
    """y of one token, and its denominator as (top, z), which stand for z * exp(top)."""
    top = tl.maximum(scale, u + k)
    past = tl.exp(scale - top)
    own = tl.exp(u + k - top)
    z = past * den + own
    return (past * num + own * v) / z, top, z


@triton.jit
def _advance(num, den, scale, k, v, w):
    """The state after one token."""
    top = tl.maximum(scale + w, k)
    past = tl.exp(scale + w - top)
    own = tl.exp(k - top)
    return past * num + own * v, past * den + own, top


# fmt: off
@triton.jit
def _load(at, t, tokens, inside, A):
    return tl.load(at + t * A, mask=inside & (t < tokens), other=0.0).to(tl.float32)


@triton.jit
def _store(at, x, t, tokens, inside, A):
    tl.store(at + t * A, x.to(at.dtype.element_ty), mask=inside & (t < tokens))


@triton.jit
def _load_state(at, inside, A):
    num = tl.load(at, mask=inside, other=0.0)
    den = tl.load(at + A, mask=inside, other=0.0)
    return num, den, tl.load(at + 2 * A, mask=inside, other=0.0)


@triton.jit
def _store_state(at, num, den, scale, inside, A):
    tl.store(at, num, mask=inside)
    tl.store(at + A, den, mask=inside)
    tl.store(at + 2 * A, scale, mask=inside)


@triton.jit
def _forward_token(
    t, num, den, scale, end_num, end_den, end_scale, k, v, w, u, y, tokens, length, inside, A
):
    """One token of the forward walk: stores y, steps the state, keeps it while tokens are real."""
    answer, _top, _z = _answer(num, den, scale, k, v, u)
    _store(y, answer, t, tokens, inside, A)
    num, den, scale = _advance(num, den, scale, k, v, w)
    real = t < length
    end_num = tl.where(real, num, end_num)
    end_den = tl.where(real, den, end_den)
    end_scale = tl.where(real, scale, end_scale)
    return num, den, scale, end_num, end_den, end_scale


@triton.jit
def _forward_kernel(
    k_ptr, v_ptr, w_ptr, u_ptr, state_ptr, length_ptr, y_ptr, after_ptr, mark_ptr,
    tokens, groups, A, HAS_LENGTHS: tl.constexpr, SAVE: tl.constexpr, BLOCK_A: tl.constexpr,
):
    row = tl.program_id(1).to(tl.int64)
    channel = tl.program_id(0) * BLOCK_A + tl.arange(0, BLOCK_A)
    inside = channel < A
    w = tl.load(w_ptr + channel, mask=inside, other=0.0)
    u = tl.load(u_ptr + channel, mask=inside, other=0.0)
    n, d, s = _load_state(state_ptr + row * 3 * A + channel, inside, A)
    en, ed, es = n, d, s
    length = tokens
    if HAS_LENGTHS:
        length = tl.load(length_ptr + row).to(tl.int32)
    at = row * tokens * A + channel
    k, v, y = k_ptr + at, v_ptr + at, y_ptr + at
    mark = mark_ptr + row * groups * 3 * A + channel
    for group in range(groups):
        t = group * 4
        k0, v0 = _load(k, t, tokens, inside, A), _load(v, t, tokens, inside, A)
        k1, v1 = _load(k, t + 1, tokens, inside, A), _load(v, t + 1, tokens, inside, A)
        k2, v2 = _load(k, t + 2, tokens, inside, A), _load(v, t + 2, tokens, inside, A)
        k3, v3 = _load(k, t + 3, tokens, inside, A), _load(v, t + 3, tokens, inside, A)
        if SAVE:
            _store_state(mark + group * 3 * A, n, d, s, inside, A)
        n, d, s, en, ed, es = _forward_token(
            t, n, d, s, en, ed, es, k0, v0, w, u, y, tokens, length, inside, A)
        n, d, s, en, ed, es = _forward_token(
            t + 1, n, d, s, en, ed, es, k1, v1, w, u, y, tokens, length, inside, A)
        n, d, s, en, ed, es = _forward_token(
            t + 2, n, d, s, en, ed, es, k2, v2, w, u, y, tokens, length, inside, A)
        n, d, s, en, ed, es = _forward_token(
            t + 3, n, d, s, en, ed, es, k3, v3, w, u, y, tokens, length, inside, A)
    _store_state(after_ptr + row * 3 * A + channel, en, ed, es, inside, A)


@triton.jit
def _backward_token(
    t, adj_num, adj_den, reach, grad_w, grad_u, num, den, scale, k, v, g, w, u, gk, gv,
    tokens, inside, A,
):
    """One token of the walk back, from the state before it.

    (adj_num, adj_den) * exp(reach) are the derivatives of the loss by the true sums after the
    token. `reach` is the running maximum of minus the logs of the later denominators, so every
    product of a weight and an adjoint is at most 1.
    """
    y, top, z = _answer(num, den, scale, k, v, u)
    by_num = g / z
    by_den = -by_num * y
    own = tl.exp(u + k - top)
    later = tl.exp(k + reach)
    by_own = own * (by_num * v + by_den)
    _store(gk, by_own + later * (adj_num * v + adj_den), t, tokens, inside, A)
    _store(gv, own * by_num + later * adj_num, t, tokens, inside, A)
    grad_u += by_own
    grad_w += tl.exp(scale + w + reach) * (adj_num * num + adj_den * den)

    next_reach = tl.maximum(-top, reach + w)
    here = tl.exp(-top - next_reach)
    kept = tl.exp(reach + w - next_reach)
    adj_num = here * by_num + kept * adj_num
    adj_den = here * by_den + kept * adj_den
    return adj_num, adj_den, next_reach, grad_w, grad_u


@triton.jit
def _backward_kernel(
    k_ptr, v_ptr, w_ptr, u_ptr, mark_ptr, g_ptr, gk_ptr, gv_ptr, gw_ptr, gu_ptr,
    tokens, groups, A, BLOCK_A: tl.constexpr,
):
    row = tl.program_id(1).to(tl.int64)
    channel = tl.program_id(0) * BLOCK_A + tl.arange(0, BLOCK_A)
    inside = channel < A
    w = tl.load(w_ptr + channel, mask=inside, other=0.0)
    u = tl.load(u_ptr + channel, mask=inside, other=0.0)
    at = row * tokens * A + channel
    k, v, g, gk, gv = k_ptr + at, v_ptr + at, g_ptr + at, gk_ptr + at, gv_ptr + at
    mark = mark_ptr + row * groups * 3 * A + channel
    zero = tl.zeros([BLOCK_A], dtype=tl.float32)
    an, ad, reach, gw, gu = zero, zero, zero - 1e30, zero, zero
    for back in range(groups):
        group = groups - 1 - back
        t = group * 4
        k0, v0 = _load(k, t, tokens, inside, A), _load(v, t, tokens, inside, A)
        k1, v1 = _load(k, t + 1, tokens, inside, A), _load(v, t + 1, tokens, inside, A)
        k2, v2 = _load(k, t + 2, tokens, inside, A), _load(v, t + 2, tokens, inside, A)
        k3, v3 = _load(k, t + 3, tokens, inside, A), _load(v, t + 3, tokens, inside, A)
        g0, g1 = _load(g, t, tokens, inside, A), _load(g, t + 1, tokens, inside, A)
        g2, g3 = _load(g, t + 2, tokens, inside, A), _load(g, t + 3, tokens, inside, A)
        n0, d0, s0 = _load_state(mark + group * 3 * A, inside, A)
        n1, d1, s1 = _advance(n0, d0, s0, k0, v0, w)
        n2, d2, s2 = _advance(n1, d1, s1, k1, v1, w)
        n3, d3, s3 = _advance(n2, d2, s2, k2, v2, w)
        an, ad, reach, gw, gu = _backward_token(
            t + 3, an, ad, reach, gw, gu, n3, d3, s3, k3, v3, g3, w, u, gk, gv, tokens, inside, A)
        an, ad, reach, gw, gu = _backward_token(
            t + 2, an, ad, reach, gw, gu, n2, d2, s2, k2, v2, g2, w, u, gk, gv, tokens, inside, A)
        an, ad, reach, gw, gu = _backward_token(
            t + 1, an, ad, reach, gw, gu, n1, d1, s1, k1, v1, g1, w, u, gk, gv, tokens, inside, A)
        an, ad, reach, gw, gu = _backward_token(
            t, an, ad, reach, gw, gu, n0, d0, s0, k0, v0, g0, w, u, gk, gv, tokens, inside, A)
    tl.store(gw_ptr + row * A + channel, gw, mask=inside)
    tl.store(gu_ptr + row * A + channel, gu, mask=inside)
# fmt: on


def _groups(tokens: int) -> int:
    return -(-tokens // GROUP)


def forward(
    k: Tensor,
    v: Tensor,
    w: Tensor,
    u: Tensor,
    state: Tensor,
    lengths: Tensor | None,
    out_dtype: torch.dtype,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """y (B, T, A), the state after (B, 3, A) and the marks (B, ceil(T / GROUP), 3, A).

    The marks are empty unless `save`.
    """
    batch, tokens, width = k.shape
    groups = _groups(tokens)
    y = torch.empty_like(k, dtype=out_dtype)
    after = torch.empty_like(state)
    marks = state.new_empty(batch, groups if save else 0, 3, width)
    if k.numel() == 0:
        return y, after.copy_(state), marks
    ends = state if lengths is None else lengths.contiguous()  # a pointer is asked for either way
    arguments = (k, v, w, u, state, ends, y, after, marks, tokens, groups, width)
    grid: Any = (triton.cdiv(width, BLOCK), batch)
    flags: Any = {"HAS_LENGTHS": lengths is not None, "SAVE": save, "BLOCK_A": BLOCK}
    _forward_kernel[grid](*arguments, **flags, num_warps=1)
    return y, after, marks


def backward(
    k: Tensor, v: Tensor, w: Tensor, u: Tensor, marks: Tensor, grad_y: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of k, v, w and u; torch sums those of w and u over the rows, in a fixed order."""
    batch, tokens, width = k.shape
    grad_k, grad_v = torch.empty_like(k), torch.empty_like(v)
    partial = torch.zeros(2, batch, width, device=k.device, dtype=torch.float32)
    if k.numel():
        grads = (grad_k, grad_v, partial[0], partial[1])
        arguments = (k, v, w, u, marks, grad_y, *grads, tokens, _groups(tokens), width)
        grid: Any = (triton.cdiv(width, BLOCK), batch)
        _backward_kernel[grid](*arguments, BLOCK_A=BLOCK, num_warps=1)
    total = partial.sum(dim=1)
    return grad_k, grad_v, total[0], total[1]
