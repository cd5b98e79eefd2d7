"""The Triton kernels behind `wkv7_triton`, and what launches them. Import needs Triton.

A sequence is cut into chunks. One program of `_prepare_kernel` writes down what one chunk of one
head does to values and state (the four matrices of `wkv7`); `_scan_kernel` walks over the chunks
with the state in registers, a block of its rows in each program, since no row reads another; and
`_answer_kernel` adds what every chunk reads of the state before it. Only the walk is sequential,
one product a chunk. Backward is the same walk from the last chunk to the first with the transposed
matrices, and one kernel more, in which every chunk works out the gradients of its own tokens.

Inside a program: L tokens of a chunk, N head size. The state is (Nv, Nk).
"""

# Triton kernels take tensors of pointers and blocks, for which Python has no types to write.
# mypy: disallow_untyped_defs=False, disallow_incomplete_defs=False
from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ._chunk_triton_kernels import ChunkPlan, _dot, _load, _store, _tokens

ROWS = 16  # of the state, in a program of the walk


# fmt: off
@triton.jit
def _below(x, L: tl.constexpr, DIAGONAL: tl.constexpr):
    """The lower triangle of x (L, L)."""
    row, column = tl.arange(0, L)[:, None], tl.arange(0, L)[None, :]
    kept = row >= column if DIAGONAL else row > column
    return tl.where(kept, x, 0.0)


@triton.jit
def _inverse(moved, L: tl.constexpr, LEVELS: tl.constexpr, PRECISION: tl.constexpr):
    """`(I - moved)^-1`, moved (L, L) strictly lower triangular.

    The inverses of blocks on the diagonal are joined two by two: nothing is added up that could
    cancel, as it would in a power series.
    """
    row, column = tl.arange(0, L)[:, None], tl.arange(0, L)[None, :]
    neighbours = (row // 2 == column // 2) & (row > column)
    found = tl.where(row == column, 1.0, tl.where(neighbours, moved, 0.0))
    for level in tl.static_range(1, LEVELS):
        size = 1 << level
        beside = (row // (2 * size) == column // (2 * size)) & (row // size > column // size)
        between = tl.where(beside, moved, 0.0)
        found += _dot(_dot(found, between, PRECISION), found, PRECISION)
    return found


@triton.jit
def _scaled(r_ptr, w_ptr, k_ptr, a_ptr, b_ptr, at, there, real):
    """The vectors of a chunk in units that do not decay (see `wkv7`), and the logs of the decays.

    `end` (N,) brings the units of the chunk's keys back to those of the state after it.
    """
    logs = tl.log(_load(w_ptr + at, real, 1.0))
    total = tl.cumsum(logs, axis=0)
    end = tl.exp(tl.sum(logs, axis=0))
    grown = tl.exp(-total)
    k, b = _load(k_ptr + at, real, 0.0) * grown, _load(b_ptr + at, real, 0.0) * grown
    a = _load(a_ptr + at, real, 0.0) * tl.exp(total - logs)
    r = _load(r_ptr + at, there, 0.0) * tl.exp(total)
    return r, k, a, b, total, end


@triton.jit
def _prepare_kernel(
    r_ptr, w_ptr, k_ptr, a_ptr, b_ptr, x_ptr, length_ptr, o_ptr, read_ptr, carry_ptr, added_ptr,
    tokens, chunks, H, HAS_LENGTHS: tl.constexpr, BACKWARD: tl.constexpr,
    N: tl.constexpr, L: tl.constexpr, LEVELS: tl.constexpr, PRECISION: tl.constexpr,
):
    """What a chunk does. Forward x is v: its own answers, `read`, and what it adds to the state.

    Backward x is the gradient of the answers: what it adds to the gradient of the state.
    """
    at, there, real = _tokens(tl.program_id(1), tokens, length_ptr, H, HAS_LENGTHS, N, L)
    place = (tl.program_id(2).to(tl.int64) * H + tl.program_id(1)) * chunks + tl.program_id(0)
    n = tl.arange(0, N)
    square = place * N * N + n[:, None] * N + n[None, :]
    r, k, a, b, _total, end = _scaled(r_ptr, w_ptr, k_ptr, a_ptr, b_ptr, at, there, real)
    moved = _below(_dot(a, tl.trans(b), PRECISION), L, False)
    inverse = _inverse(moved, L, LEVELS, PRECISION)
    from_state = _dot(inverse, a, PRECISION)
    carry = _dot(tl.trans(from_state), b, PRECISION)
    carry = tl.where(n[:, None] == n[None, :], carry + 1.0, carry) * end[None, :]
    tl.store(carry_ptr + square, carry)
    reread = _below(_dot(r, tl.trans(b), PRECISION), L, True)
    read = r + _dot(reread, from_state, PRECISION)
    x = _load(x_ptr + at, there, 0.0)
    if BACKWARD:
        tl.store(added_ptr + square, _dot(tl.trans(x), read, PRECISION))
    else:
        tl.store(read_ptr + at, read, mask=there)
        found = _below(_dot(a, tl.trans(k), PRECISION), L, False)
        from_values = _dot(inverse, found, PRECISION)
        write = k + _dot(tl.trans(from_values), b, PRECISION)
        tl.store(added_ptr + square, _dot(tl.trans(x), write, PRECISION) * end[None, :])
        local = _below(_dot(r, tl.trans(k), PRECISION), L, True)
        local += _dot(reread, from_values, PRECISION)
        tl.store(o_ptr + at, _dot(local, x, PRECISION), mask=there)


@triton.jit
def _scan_kernel(
    state_ptr, carry_ptr, added_ptr, before_ptr, after_ptr, chunks, BACKWARD: tl.constexpr,
    N: tl.constexpr, ROWS_V: tl.constexpr, PRECISION: tl.constexpr,
):
    """`S = S carry + added` chunk by chunk, or backward with `carry` transposed.

    `before` keeps what each chunk starts from, on its way.
    """
    place = tl.program_id(0).to(tl.int64)
    v = tl.program_id(1) * ROWS_V + tl.arange(0, ROWS_V)
    n = tl.arange(0, N)
    rows = v[:, None] * N + n[None, :]
    square = n[:, None] * N + n[None, :]
    state = tl.load(state_ptr + place * N * N + rows)
    for step in range(chunks):
        chunk = chunks - 1 - step if BACKWARD else step
        here = (place * chunks + chunk) * N * N
        carry = tl.load(carry_ptr + here + square)
        added = tl.load(added_ptr + here + rows)
        tl.store(before_ptr + here + rows, state)
        if BACKWARD:
            carry = tl.trans(carry)
        state = tl.dot(state, carry, acc=added, input_precision=PRECISION)
    tl.store(after_ptr + place * N * N + rows, state)


@triton.jit
def _answer_kernel(
    o_ptr, read_ptr, before_ptr, tokens, chunks, H,
    N: tl.constexpr, L: tl.constexpr, PRECISION: tl.constexpr,
):
    """Adds `read S^T` to the answers that a chunk has from its own tokens."""
    at, there, _real = _tokens(tl.program_id(1), tokens, o_ptr, H, False, N, L)
    place = (tl.program_id(2).to(tl.int64) * H + tl.program_id(1)) * chunks + tl.program_id(0)
    n = tl.arange(0, N)
    state = tl.load(before_ptr + place * N * N + n[:, None] * N + n[None, :])
    read = tl.load(read_ptr + at, mask=there, other=0.0)
    own = tl.load(o_ptr + at, mask=there, other=0.0)
    o = tl.dot(read, tl.trans(state), acc=own, input_precision=PRECISION)
    tl.store(o_ptr + at, o, mask=there)


@triton.jit
def _gradient_kernel(
    r_ptr, w_ptr, k_ptr, v_ptr, a_ptr, b_ptr, length_ptr, before_ptr, go_ptr, gstate_ptr,
    gr_ptr, gw_ptr, gk_ptr, gv_ptr, ga_ptr, gb_ptr, tokens, chunks, H, HAS_LENGTHS: tl.constexpr,
    N: tl.constexpr, L: tl.constexpr, LEVELS: tl.constexpr, PRECISION: tl.constexpr,
):
    """Gradients of a chunk's tokens, from the state before it and the gradient of the one after.

    With `u = (I - moved)^-1 (a S^T + found v)`, what each token finds at its key, the chunk is
    `o = r S^T + (r k^T) v + (r b^T) u` and `S' = (S + u^T b + v^T k) end`; `back` is the gradient
    of what the inverse is applied to.
    """
    at, there, real = _tokens(tl.program_id(1), tokens, length_ptr, H, HAS_LENGTHS, N, L)
    place = (tl.program_id(2).to(tl.int64) * H + tl.program_id(1)) * chunks + tl.program_id(0)
    n = tl.arange(0, N)
    square = place * N * N + n[:, None] * N + n[None, :]
    r, k, a, b, total, end = _scaled(r_ptr, w_ptr, k_ptr, a_ptr, b_ptr, at, there, real)
    v, go = _load(v_ptr + at, there, 0.0), _load(go_ptr + at, there, 0.0)
    state = tl.load(before_ptr + square)
    gstate = tl.load(gstate_ptr + square) * end[None, :]
    by_end = tl.sum(state * gstate, axis=0)

    found = _below(_dot(a, tl.trans(k), PRECISION), L, False)
    moved = _below(_dot(a, tl.trans(b), PRECISION), L, False)
    inverse = _inverse(moved, L, LEVELS, PRECISION)
    given = _dot(a, tl.trans(state), PRECISION) + _dot(found, v, PRECISION)
    u = _dot(inverse, given, PRECISION)
    reread = _below(_dot(r, tl.trans(b), PRECISION), L, True)
    gu = _dot(tl.trans(reread), go, PRECISION) + _dot(b, tl.trans(gstate), PRECISION)
    back = _dot(tl.trans(inverse), gu, PRECISION)

    direct = _below(_dot(r, tl.trans(k), PRECISION), L, True)
    gv = _dot(tl.trans(direct), go, PRECISION) + _dot(k, tl.trans(gstate), PRECISION)
    _store(gv_ptr + at, gv + _dot(tl.trans(found), back, PRECISION), there)

    by_v = _below(_dot(go, tl.trans(v), PRECISION), L, True)
    back_v = _below(_dot(back, tl.trans(v), PRECISION), L, False)
    end_k = _dot(v, gstate, PRECISION)
    gk = _dot(tl.trans(by_v), r, PRECISION) + _dot(tl.trans(back_v), a, PRECISION) + end_k
    by_total = -gk * k
    by_end += tl.sum(end_k * k, axis=0)
    _store(gk_ptr + at, gk * tl.exp(-total), real)

    by_u = _below(_dot(go, tl.trans(u), PRECISION), L, True)
    back_u = _below(_dot(back, tl.trans(u), PRECISION), L, False)
    end_b = _dot(u, gstate, PRECISION)
    gb = _dot(tl.trans(by_u), r, PRECISION) + _dot(tl.trans(back_u), a, PRECISION) + end_b
    by_total -= gb * b
    by_end += tl.sum(end_b * b, axis=0)
    _store(gb_ptr + at, gb * tl.exp(-total), real)

    gr = _dot(go, state, PRECISION) + _dot(by_v, k, PRECISION) + _dot(by_u, b, PRECISION)
    by_total += gr * r
    _store(gr_ptr + at, gr * tl.exp(total), there)
    ga = _dot(back, state, PRECISION)
    ga += _dot(back_u, b, PRECISION) + _dot(back_v, k, PRECISION)
    by_before = ga * a
    w = _load(w_ptr + at, real, 1.0)
    _store(ga_ptr + at, ga * tl.exp(total) / w, real)
    by_logs = tl.cumsum(by_total + by_before, axis=0, reverse=True) - by_before + by_end[None, :]
    _store(gw_ptr + at, by_logs / w, real)
# fmt: on


def _scan(plan: ChunkPlan, state: Tensor, carry: Tensor, added: Tensor, backward: bool) -> Any:
    """The states that the chunks start from on the walk, and the last one (B, H, N, N)."""
    before, after = torch.empty_like(added), torch.empty_like(state)
    grid: Any = (plan.batch * plan.heads, plan.size // ROWS)
    _scan_kernel[grid](
        state, carry, added, before, after, plan.chunks,
        BACKWARD=backward, ROWS_V=ROWS, **plan.flags, num_warps=4, num_stages=3,
    )  # fmt: skip
    return before, after


def forward(
    inputs: tuple[Tensor, ...],
    state: Tensor,
    lengths: Tensor | None,
    *,
    chunk: int,
    precision: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """o (B, T, H, N), the state after (B, H, N, N) and those before each chunk (B, H, n, N, N).

    inputs: r, w, k, v, a, b, each (B, T, H, N) and contiguous, at least one token.
    """
    r, w, k, v, a, b = inputs
    plan = ChunkPlan(r, chunk, precision)
    o = torch.empty(r.shape, device=r.device, dtype=torch.float32)
    read, carry, added = torch.empty_like(o), plan.squares(r), plan.squares(r)
    ends = r.new_empty(0) if lengths is None else lengths.contiguous()  # one is always asked for
    _prepare_kernel[plan.grid](
        r, w, k, a, b, v, ends, o, read, carry, added, *plan.sizes,
        HAS_LENGTHS=lengths is not None, BACKWARD=False, **plan.flags, **plan.chunk,
    )  # fmt: skip
    before, after = _scan(plan, state, carry, added, False)
    _answer_kernel[plan.grid](o, read, before, *plan.sizes, L=chunk, **plan.flags, num_warps=4)
    return o, after, before


def backward(
    inputs: tuple[Tensor, ...],
    lengths: Tensor | None,
    before: Tensor,
    grad_o: Tensor,
    grad_after: Tensor,
    *,
    chunk: int,
    precision: str,
) -> tuple[Tensor, ...]:
    """Gradients of r, w, k, v, a, b and of the state given, in that order.

    before: as `forward` gave it with the same chunk; grad_after (B, H, N, N) in float32.
    """
    r, w, k, v, a, b = inputs
    plan = ChunkPlan(r, chunk, precision)
    carry, added = plan.squares(r), plan.squares(r)
    flags = plan.flags | plan.chunk | {"HAS_LENGTHS": lengths is not None}
    unused = r.new_empty(0)  # pointers are asked for that are not always followed
    ends = unused if lengths is None else lengths.contiguous()
    _prepare_kernel[plan.grid](
        r, w, k, a, b, grad_o, ends, unused, unused, carry, added, *plan.sizes,
        BACKWARD=True, **flags,
    )  # fmt: skip
    grad_states, grad_state = _scan(plan, grad_after, carry, added, True)
    # a pad's decay, key and two removals have no part, and no store
    grads = tuple(torch.empty_like(x) if lengths is None else torch.zeros_like(x) for x in inputs)
    gr, gw, gk, gv, ga, gb = grads
    _gradient_kernel[plan.grid](
        r, w, k, v, a, b, ends, before, grad_o, grad_states,
        gr, gw, gk, gv, ga, gb, *plan.sizes, **flags,
    )  # fmt: skip
    return (*grads, grad_state)
