"""The Triton kernels behind `wkv4_triton`, and what launches them. Import needs Triton.

One program handles one batch row, one block of channels and one chunk of tokens, and walks over the
tokens in groups: it loads a whole group first, so that the loads overlap, and then steps through
it. Forward keeps the state before each group (the marks); backward walks the groups from the last
to the first, replays each from its mark, and runs the adjoint back.

Where rows and channels are too few to fill the card the sequence is cut into chunks. A first launch
walks each of them from an empty state; the second one adds up what all earlier chunks (backward:
all later ones) have left, each decayed by the tokens between, and starts from that.

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
GROUP = 4  # tokens loaded together; the kernels write them out one by one
WARPS = 2048  # as many programs as a large card keeps in flight
MOST_CHUNKS = 32  # what a thread can hold of the others' sums
SHORTEST = 32  # tokens of a chunk: below that its two walks cost more than they save
EMPTY = tl.constexpr(-1e30)  # the scale of sums over nothing


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
def _joined(
    num, den, scale, summary_ptr, chunk, length, w, inside, channel, A,
    CHUNKS: tl.constexpr, BACKWARD: tl.constexpr,
):
    """What a chunk starts from: the sums given, and all that the chunks before it have left.

    Backward: the chunks after it. The sums given are as far away as the first of them.
    """
    other = tl.arange(0, CHUNKS)[:, None]
    at = summary_ptr + other * 3 * A + channel[None, :]
    if BACKWARD:
        between, past = other - chunk - 1, other > chunk
    else:
        between, past = chunk - 1 - other, other < chunk
    past = past & (other < tl.num_programs(1)) & inside[None, :]
    nums, dens = tl.load(at, mask=past, other=0.0), tl.load(at + A, mask=past, other=0.0)
    scales = tl.load(at + 2 * A, mask=past, other=EMPTY)
    scales += tl.where(past, (between * length).to(tl.float32) * w[None, :], 0.0)
    if not BACKWARD:
        scale += (chunk * length).to(tl.float32) * w
    top = tl.maximum(scale, tl.max(scales, axis=0))
    share, shares = tl.exp(scale - top), tl.exp(scales - top[None, :])
    num = share * num + tl.sum(shares * nums, axis=0)
    return num, share * den + tl.sum(shares * dens, axis=0), top


@triton.jit
def _summary_kernel(
    k_ptr, v_ptr, w_ptr, summary_ptr, tokens, span, A, BLOCK_A: tl.constexpr
):
    """The sums over each chunk alone: a walk from the empty state, without answers."""
    row, chunk = tl.program_id(2).to(tl.int64), tl.program_id(1)
    channel = tl.program_id(0) * BLOCK_A + tl.arange(0, BLOCK_A)
    inside = channel < A
    w = tl.load(w_ptr + channel, mask=inside, other=0.0)
    at = row * tokens * A + channel
    k, v = k_ptr + at, v_ptr + at
    zero = tl.zeros([BLOCK_A], dtype=tl.float32)
    n, d, s = zero, zero, zero + EMPTY
    for t in range(chunk * span, (chunk + 1) * span, 4):
        k0, v0 = _load(k, t, tokens, inside, A), _load(v, t, tokens, inside, A)
        k1, v1 = _load(k, t + 1, tokens, inside, A), _load(v, t + 1, tokens, inside, A)
        k2, v2 = _load(k, t + 2, tokens, inside, A), _load(v, t + 2, tokens, inside, A)
        k3, v3 = _load(k, t + 3, tokens, inside, A), _load(v, t + 3, tokens, inside, A)
        n, d, s = _advance(n, d, s, k0, v0, w)
        n, d, s = _advance(n, d, s, k1, v1, w)
        n, d, s = _advance(n, d, s, k2, v2, w)
        n, d, s = _advance(n, d, s, k3, v3, w)
    chunks = tl.num_programs(1) + 1  # the last one leaves nothing to anybody
    _store_state(summary_ptr + (row * chunks + chunk) * 3 * A + channel, n, d, s, inside, A)


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
    summary_ptr, tokens, span, A, SAVE: tl.constexpr, CHUNKS: tl.constexpr,
    BLOCK_A: tl.constexpr,
):
    row, chunk = tl.program_id(2).to(tl.int64), tl.program_id(1)
    channel = tl.program_id(0) * BLOCK_A + tl.arange(0, BLOCK_A)
    inside = channel < A
    w = tl.load(w_ptr + channel, mask=inside, other=0.0)
    u = tl.load(u_ptr + channel, mask=inside, other=0.0)
    zero = tl.zeros([BLOCK_A], dtype=tl.float32)
    n, d, s = zero, zero, zero + EMPTY
    if state_ptr is not None:
        n, d, s = _load_state(state_ptr + row * 3 * A + channel, inside, A)
    if CHUNKS > 1:
        earlier = summary_ptr + row * tl.num_programs(1) * 3 * A
        n, d, s = _joined(n, d, s, earlier, chunk, span, w, inside, channel, A, CHUNKS, False)
    en, ed, es = n, d, s
    length = tokens
    if length_ptr is not None:
        length = tl.load(length_ptr + row).to(tl.int32)
    at = row * tokens * A + channel
    k, v, y = k_ptr + at, v_ptr + at, y_ptr + at
    mark = mark_ptr + row * tl.cdiv(tokens, 4) * 3 * A + channel
    for t in range(chunk * span, tl.minimum((chunk + 1) * span, tokens), 4):
        k0, v0 = _load(k, t, tokens, inside, A), _load(v, t, tokens, inside, A)
        k1, v1 = _load(k, t + 1, tokens, inside, A), _load(v, t + 1, tokens, inside, A)
        k2, v2 = _load(k, t + 2, tokens, inside, A), _load(v, t + 2, tokens, inside, A)
        k3, v3 = _load(k, t + 3, tokens, inside, A), _load(v, t + 3, tokens, inside, A)
        if SAVE:
            _store_state(mark + t // 4 * 3 * A, n, d, s, inside, A)
        n, d, s, en, ed, es = _forward_token(
            t, n, d, s, en, ed, es, k0, v0, w, u, y, tokens, length, inside, A)
        n, d, s, en, ed, es = _forward_token(
            t + 1, n, d, s, en, ed, es, k1, v1, w, u, y, tokens, length, inside, A)
        n, d, s, en, ed, es = _forward_token(
            t + 2, n, d, s, en, ed, es, k2, v2, w, u, y, tokens, length, inside, A)
        n, d, s, en, ed, es = _forward_token(
            t + 3, n, d, s, en, ed, es, k3, v3, w, u, y, tokens, length, inside, A)
    ends_here = chunk == tl.maximum(tl.cdiv(length, span) - 1, 0)
    _store_state(after_ptr + row * 3 * A + channel, en, ed, es, inside & ends_here, A)


@triton.jit
def _backward_token(
    t, adj_num, adj_den, reach, grad_w, grad_u, num, den, scale, k, v, g, w, u, gk, gv,
    tokens, inside, A, SUMMARY: tl.constexpr,
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
    if not SUMMARY:
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
    summary_ptr, tokens, span, A, SUMMARY: tl.constexpr, CHUNKS: tl.constexpr,
    BLOCK_A: tl.constexpr,
):
    """Gradients of a chunk's tokens, or (SUMMARY) only the adjoint that it hands on."""
    row, chunk = tl.program_id(2).to(tl.int64), tl.program_id(1)
    channel = tl.program_id(0) * BLOCK_A + tl.arange(0, BLOCK_A)
    inside = channel < A
    w = tl.load(w_ptr + channel, mask=inside, other=0.0)
    u = tl.load(u_ptr + channel, mask=inside, other=0.0)
    at = row * tokens * A + channel
    k, v, g, gk, gv = k_ptr + at, v_ptr + at, g_ptr + at, gk_ptr + at, gv_ptr + at
    mark = mark_ptr + row * tl.cdiv(tokens, 4) * 3 * A + channel
    place = row * tl.num_programs(1) + chunk
    zero = tl.zeros([BLOCK_A], dtype=tl.float32)
    an, ad, reach, gw, gu = zero, zero, zero + EMPTY, zero, zero
    if CHUNKS > 1 and not SUMMARY:
        later = summary_ptr + row * tl.num_programs(1) * 3 * A
        an, ad, reach = _joined(
            an, ad, reach, later, chunk, span, w, inside, channel, A, CHUNKS, True)
    first, groups = chunk * span, tl.cdiv(tl.minimum(span, tokens - chunk * span), 4)
    for back in range(groups):
        t = first + (groups - 1 - back) * 4
        k0, v0 = _load(k, t, tokens, inside, A), _load(v, t, tokens, inside, A)
        k1, v1 = _load(k, t + 1, tokens, inside, A), _load(v, t + 1, tokens, inside, A)
        k2, v2 = _load(k, t + 2, tokens, inside, A), _load(v, t + 2, tokens, inside, A)
        k3, v3 = _load(k, t + 3, tokens, inside, A), _load(v, t + 3, tokens, inside, A)
        g0, g1 = _load(g, t, tokens, inside, A), _load(g, t + 1, tokens, inside, A)
        g2, g3 = _load(g, t + 2, tokens, inside, A), _load(g, t + 3, tokens, inside, A)
        n0, d0, s0 = _load_state(mark + t // 4 * 3 * A, inside, A)
        n1, d1, s1 = _advance(n0, d0, s0, k0, v0, w)
        n2, d2, s2 = _advance(n1, d1, s1, k1, v1, w)
        n3, d3, s3 = _advance(n2, d2, s2, k2, v2, w)
        an, ad, reach, gw, gu = _backward_token(
            t + 3, an, ad, reach, gw, gu, n3, d3, s3, k3, v3, g3, w, u, gk, gv,
            tokens, inside, A, SUMMARY)
        an, ad, reach, gw, gu = _backward_token(
            t + 2, an, ad, reach, gw, gu, n2, d2, s2, k2, v2, g2, w, u, gk, gv,
            tokens, inside, A, SUMMARY)
        an, ad, reach, gw, gu = _backward_token(
            t + 1, an, ad, reach, gw, gu, n1, d1, s1, k1, v1, g1, w, u, gk, gv,
            tokens, inside, A, SUMMARY)
        an, ad, reach, gw, gu = _backward_token(
            t, an, ad, reach, gw, gu, n0, d0, s0, k0, v0, g0, w, u, gk, gv,
            tokens, inside, A, SUMMARY)
    if SUMMARY:
        _store_state(summary_ptr + place * 3 * A + channel, an, ad, reach, inside, A)
    else:
        tl.store(gw_ptr + place * A + channel, gw, mask=inside)
        tl.store(gu_ptr + place * A + channel, gu, mask=inside)
# fmt: on


class _Cut:
    """How (B, T, A) is cut into programs: `chunks` chunks of `span` tokens."""

    def __init__(self, k: Tensor) -> None:
        self.batch, self.tokens, self.width = k.shape
        blocks = triton.cdiv(self.width, BLOCK)
        wanted = min(MOST_CHUNKS, triton.cdiv(WARPS, blocks * self.batch))
        self.span = triton.cdiv(max(SHORTEST, triton.cdiv(self.tokens, wanted)), GROUP) * GROUP
        self.chunks = triton.cdiv(self.tokens, self.span)
        self.grid: Any = (blocks, self.chunks, self.batch)
        self.sizes = (self.tokens, self.span, self.width)
        self.flags: Any = {"BLOCK_A": BLOCK, "num_warps": 1}
        self.others: Any = {"CHUNKS": triton.next_power_of_2(self.chunks)}

    def per_chunk(self, like: Tensor, *shape: int) -> Tensor:
        """Room for some numbers of every chunk and channel, (B, n, *shape, A)."""
        full = (self.batch, self.chunks, *shape, self.width)
        return like.new_empty(full, dtype=torch.float32)


def forward(
    k: Tensor,
    v: Tensor,
    w: Tensor,
    u: Tensor,
    state: Tensor | None,
    lengths: Tensor | None,
    out_dtype: torch.dtype,
    save: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """y (B, T, A), the state after (B, 3, A) and the marks (B, ceil(T / GROUP), 3, A).

    The marks are empty unless `save`.
    """
    batch, tokens, width = k.shape
    y = torch.empty_like(k, dtype=out_dtype)
    after = w.new_empty(batch, 3, width)
    marks = w.new_empty(batch, triton.cdiv(tokens, GROUP) if save else 0, 3, width)
    if k.numel() == 0:
        return y, _kept(after, state), marks
    cut, summary = _Cut(k), marks
    if cut.chunks > 1:
        summary = cut.per_chunk(k, 3)
        grid: Any = (cut.grid[0], cut.chunks - 1, cut.batch)
        _summary_kernel[grid](k, v, w, summary, *cut.sizes, **cut.flags)
    _forward_kernel[cut.grid](
        k, v, w, u, state, lengths, y, after, marks, summary, *cut.sizes, SAVE=save,
        **cut.others, **cut.flags,
    )  # fmt: skip
    return y, after, marks


def _kept(after: Tensor, state: Tensor | None) -> Tensor:
    """The state after no token."""
    if state is not None:
        return after.copy_(state)
    after[:, :2], after[:, 2] = 0.0, EMPTY.value
    return after


def backward(
    k: Tensor, v: Tensor, w: Tensor, u: Tensor, marks: Tensor, grad_y: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of k and v, and those of w and u (2, A), which torch sums over rows and chunks, in
    a fixed order."""
    grad_k, grad_v = torch.empty_like(k), torch.empty_like(v)
    if k.numel() == 0:
        return grad_k, grad_v, w.new_zeros(2, len(w))
    cut = _Cut(k)
    of_both = k.new_empty(2, cut.batch, cut.chunks, cut.width, dtype=torch.float32)
    summary = cut.per_chunk(k, 3) if cut.chunks > 1 else marks
    results = (grad_k, grad_v, *of_both, summary)
    for only_sums in (True, False) if cut.chunks > 1 else (False,):
        _backward_kernel[cut.grid](
            k, v, w, u, marks, grad_y, *results, *cut.sizes,
            SUMMARY=only_sums, **cut.others, **cut.flags,
        )  # fmt: skip
    return grad_k, grad_v, of_both.sum(dim=(1, 2))
