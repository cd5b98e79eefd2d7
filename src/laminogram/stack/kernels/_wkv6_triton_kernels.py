"""The Triton kernels behind `wkv6_triton`, and what launches them. Import needs Triton.

A sequence is cut into chunks. One program of `_added_kernel` finds what a chunk adds to the state
and what it keeps of it; `_scan_kernel` walks over the chunks, a block of the state's rows in each
program; and one program of `_answer_kernel` makes a chunk's answers from its own tokens and the
state before it. Only the walk is sequential, and nothing but a product and a sum for each number.
Backward the same walk goes from the last chunk to the first, and in `_gradient_kernel` every chunk
works out the gradients of its own tokens.

Inside a chunk blocks of 1, 2, 4, ... tokens are joined two by two, as `wkv6` explains: a token
finds what its neighbouring block keeps in the row whose number differs in one bit. Backward the
blocks are taken apart again in the opposite order. Decays are multiplied only, never divided by or
taken the logarithm of, so the gradient of a decay of 0 is as good as any.

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

ROWS = 4  # of the state, in a program of the walk
CHANNELS = 16  # of the keys, in a program of `_gradient_kernel`, which holds much of them


# fmt: off
@triton.jit
def _neighbours(x, level: tl.constexpr, N: tl.constexpr, L: tl.constexpr):
    """Every row of x (L, N) from its place in the neighbouring block of 2^level rows."""
    at = tl.arange(0, L)[:, None] ^ (1 << level)
    return tl.gather(x, tl.broadcast_to(at, (L, N)), 0)


@triton.jit
def _is_second(level: tl.constexpr, L: tl.constexpr):
    """Which rows (L, 1) lie in the second of two neighbouring blocks."""
    return ((tl.arange(0, L)[:, None] >> level) & 1) == 1


@triton.jit
def _across(pairs, level: tl.constexpr, L: tl.constexpr):
    """Of pairs (L, L) those of a reader in the second block and a key in the first beside it."""
    row, column = tl.arange(0, L)[:, None] >> level, tl.arange(0, L)[None, :] >> level
    return tl.where(((row ^ column) == 1) & (row > column), pairs, 0.0)


@triton.jit
def _joined(readers, keys, beside, level: tl.constexpr, L: tl.constexpr):
    """Readers brought back to the start of two joined blocks, and keys on to their end."""
    second = _is_second(level, L)
    return tl.where(second, readers * beside, readers), tl.where(second, keys, keys * beside)


@triton.jit
def _own(x, L: tl.constexpr):
    """x (L,) on the diagonal of (L, L)."""
    same = tl.arange(0, L)[:, None] == tl.arange(0, L)[None, :]
    return tl.where(same, x[:, None], 0.0)


@triton.jit
def _decays(
    w_ptr, first, real, by_row, by_token, by_head,
    BLOCKS: tl.constexpr, K: tl.constexpr, L: tl.constexpr,
):
    """Decays (L, K), 1 where no token is real; w may be broadcast, so it has strides of its own."""
    head, n = tl.program_id(1) // BLOCKS, first + tl.arange(0, K)[None, :]
    token = (tl.program_id(0) * L + tl.arange(0, L)[:, None]).to(tl.int64)
    start = tl.program_id(2).to(tl.int64) * by_row + head * by_head
    return _load(w_ptr + start + token * by_token + n, real, 1.0)


@triton.jit
def _place(head, chunks, H):
    """Which of all chunks of all heads a program has: where its matrices lie, one after another."""
    return (tl.program_id(2).to(tl.int64) * H + head) * chunks + tl.program_id(0)


@triton.jit
def _added_kernel(
    x_ptr, y_ptr, w_ptr, length_ptr, added_ptr, kept_ptr, by_row, by_token, by_head,
    tokens, chunks, H, HAS_LENGTHS: tl.constexpr, BACKWARD: tl.constexpr,
    N: tl.constexpr, L: tl.constexpr, LEVELS: tl.constexpr, PRECISION: tl.constexpr,
):
    """What a chunk keeps of the state, and what it adds: x is v and y the keys.

    Backward what it adds to the gradient of the state: x is that of the answers, y the readers.
    """
    head, n = tl.program_id(1), tl.arange(0, N)
    at, there, real = _tokens(head, tokens, length_ptr, H, HAS_LENGTHS, N, L)
    kept = _decays(w_ptr, 0, real, by_row, by_token, by_head, 1, N, L)
    y = _load(y_ptr + at, there if BACKWARD else real, 0.0)
    for level in tl.static_range(LEVELS):
        beside = _neighbours(kept, level, N, L)
        readers, keys = _joined(y, y, beside, level, L)
        y = readers if BACKWARD else keys
        kept *= beside
    x = _load(x_ptr + at, there, 0.0)
    place, added = _place(head, chunks, H), _dot(tl.trans(x), y, PRECISION)
    tl.store(added_ptr + place * N * N + n[:, None] * N + n[None, :], added)
    row = tl.arange(0, L)[:, None]
    tl.store(kept_ptr + place * N + row * 0 + n[None, :], kept, mask=row == 0)


@triton.jit
def _scan_kernel(
    state_ptr, kept_ptr, added_ptr, before_ptr, after_ptr, chunks, BACKWARD: tl.constexpr,
    N: tl.constexpr, ROWS_V: tl.constexpr, AHEAD: tl.constexpr,
):
    """`S = S kept + added` chunk by chunk, backward from the last.

    `before` keeps what each chunk starts from, on its way.
    """
    place = tl.program_id(0).to(tl.int64)
    n = tl.arange(0, N)
    rows = (tl.program_id(1) * ROWS_V + tl.arange(0, ROWS_V))[:, None] * N + n[None, :]
    state = tl.load(state_ptr + place * N * N + rows)
    for step in tl.range(0, chunks, num_stages=AHEAD):
        chunk = place * chunks + (chunks - 1 - step if BACKWARD else step)
        kept = tl.load(kept_ptr + chunk * N + n)
        added = tl.load(added_ptr + chunk * N * N + rows)
        tl.store(before_ptr + chunk * N * N + rows, state)
        state = state * kept[None, :] + added
    tl.store(after_ptr + place * N * N + rows, state)


@triton.jit
def _answer_kernel(
    x_ptr, r_ptr, k_ptr, u_ptr, w_ptr, length_ptr, before_ptr, o_ptr,
    by_row, by_token, by_head, tokens, chunks, H,
    HAS_LENGTHS: tl.constexpr, BACKWARD: tl.constexpr,
    N: tl.constexpr, L: tl.constexpr, LEVELS: tl.constexpr, PRECISION: tl.constexpr,
):
    """A chunk's answers, from its own values, which are x, and from the state before it.

    Backward the gradient of the values, from that of the answers, x, and of the state after it.
    """
    head, n = tl.program_id(1), tl.arange(0, N)
    at, there, real = _tokens(head, tokens, length_ptr, H, HAS_LENGTHS, N, L)
    kept = _decays(w_ptr, 0, real, by_row, by_token, by_head, 1, N, L)
    readers, keys = _load(r_ptr + at, there, 0.0), _load(k_ptr + at, real, 0.0)
    local = _own(tl.sum(readers * tl.load(u_ptr + head * N + n)[None, :] * keys, axis=1), L)
    for level in tl.static_range(LEVELS):
        local += _across(_dot(readers, tl.trans(keys), PRECISION), level, L)
        beside = _neighbours(kept, level, N, L)
        readers, keys = _joined(readers, keys, beside, level, L)
        kept *= beside
    state = tl.load(before_ptr + _place(head, chunks, H) * N * N + n[:, None] * N + n[None, :])
    x = _load(x_ptr + at, there, 0.0)
    if BACKWARD:
        local, readers = tl.trans(local), keys
    own = _dot(local, x, PRECISION)
    o = tl.dot(readers, tl.trans(state), acc=own, input_precision=PRECISION)
    _store(o_ptr + at, o, there)


@triton.jit
def _gradient_kernel(
    r_ptr, k_ptr, v_ptr, u_ptr, w_ptr, length_ptr, before_ptr, go_ptr, gstate_ptr,
    gr_ptr, gk_ptr, gu_ptr, gw_ptr, by_row, by_token, by_head,
    tokens, chunks, H, HAS_LENGTHS: tl.constexpr, BLOCKS: tl.constexpr,
    N: tl.constexpr, L: tl.constexpr, LEVELS: tl.constexpr, PRECISION: tl.constexpr,
):
    """Gradients of a chunk's readers, keys, decays and of the bonus, for one block of channels.

    They follow from the state before the chunk and the gradient of the one after it. The gradient
    of what a block of tokens keeps is the sum over its rows of `gkept`. Where two blocks part, each
    is due what the other's rows made of it, and of what both kept together.
    """
    K: tl.constexpr = N // BLOCKS
    head, first = tl.program_id(1) // BLOCKS, tl.program_id(1) % BLOCKS * K
    place, n = _place(head, chunks, H), first + tl.arange(0, K)
    columns = place * N * N + tl.arange(0, N)[:, None] * N + n[None, :]
    at, there, _real = _tokens(head, tokens, length_ptr, H, HAS_LENGTHS, N, L)
    v, go = _load(v_ptr + at, there, 0.0), _load(go_ptr + at, there, 0.0)
    state, gstate = tl.load(before_ptr + columns), tl.load(gstate_ptr + columns)
    greaders, gkeys = _dot(go, state, PRECISION), _dot(v, gstate, PRECISION)
    top = tl.arange(0, L)[:, None] == 0
    gkept = tl.where(top, tl.sum(state * gstate, axis=0)[None, :], 0.0)
    glocal, by_own = _dot(go, tl.trans(v), PRECISION), tl.sum(go * v, axis=1)[:, None]

    # the blocks of channels lie like heads of their own
    at, there, real = _tokens(
        tl.program_id(1), tokens, length_ptr, H * BLOCKS, HAS_LENGTHS, K, L
    )
    r, k = _load(r_ptr + at, there, 0.0), _load(k_ptr + at, real, 0.0)
    kept = _decays(w_ptr, first, real, by_row, by_token, by_head, BLOCKS, K, L)
    besides = ()
    for level in tl.static_range(LEVELS):
        besides += (_neighbours(kept, level, K, L),)  # type: ignore[assignment]
        kept *= besides[level]
    for level in tl.static_range(LEVELS - 1, -1, -1):
        beside = besides[level]  # type: ignore[var-annotated]
        readers, keys = r, k
        for below in tl.static_range(level):
            readers, keys = _joined(readers, keys, besides[below], below, L)
        made = tl.where(_is_second(level, L), greaders * readers, gkeys * keys)
        gkept = beside * (gkept + _neighbours(gkept, level, K, L)) + _neighbours(made, level, K, L)
        pairs = _across(glocal, level, L)
        greaders, gkeys = _joined(greaders, gkeys, beside, level, L)
        greaders += _dot(pairs, keys, PRECISION)
        gkeys += _dot(tl.trans(pairs), readers, PRECISION)
    u = tl.load(u_ptr + head * N + n)[None, :]
    _store(gr_ptr + at, greaders + by_own * u * k, there)
    _store(gk_ptr + at, gkeys + by_own * u * r, real)
    _store(gw_ptr + at, gkept, real)
    tl.store(gu_ptr + place * N + n, tl.sum(by_own * r * k, axis=0))
# fmt: on


def _scan(plan: ChunkPlan, state: Tensor, kept: Tensor, added: Tensor, backward: bool) -> Any:
    """The states that the chunks start from on the walk, and the last one (B, H, N, N)."""
    before, after = torch.empty_like(added), torch.empty_like(state)
    grid: Any = (plan.batch * plan.heads, plan.size // ROWS)
    _scan_kernel[grid](
        state, kept, added, before, after, plan.chunks,
        BACKWARD=backward, N=plan.size, ROWS_V=ROWS, AHEAD=4, num_warps=1,
    )  # fmt: skip
    return before, after


def _walk(
    plan: ChunkPlan, x: Tensor, y: Tensor, w: Tensor, ends: Tensor, state: Tensor, **flags: Any
) -> tuple[Tensor, Tensor]:
    """The states before each chunk (B, H, n, N, N), and the one after all of them.

    Backward their gradients, in the opposite order. x, y: as in `_added_kernel`.
    """
    added = plan.squares(x)
    kept = added.new_empty(added.shape[:-1])
    _added_kernel[plan.grid](
        x,
        y,
        w,
        ends,
        added,
        kept,
        *w.stride()[:3],
        *plan.sizes,
        **flags,
        **plan.flags,
        **plan.chunk,
    )
    before: Tensor
    after: Tensor
    before, after = _scan(plan, state, kept, added, flags["BACKWARD"])
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

    inputs: r, w, k, v (B, T, H, N) with at least one token and u (H, N), all contiguous but w.
    """
    r, w, k, v, u = inputs
    plan = ChunkPlan(r, chunk, precision)
    ends = r.new_empty(0) if lengths is None else lengths.contiguous()  # one is always asked for
    ragged: Any = {"HAS_LENGTHS": lengths is not None}
    before, after = _walk(plan, v, k, w, ends, state, BACKWARD=False, **ragged)
    o = torch.empty(r.shape, device=r.device, dtype=torch.float32)
    _answer_kernel[plan.grid](
        v, r, k, u, w, ends, before, o, *w.stride()[:3], *plan.sizes,
        BACKWARD=False, **ragged, **plan.flags, **plan.chunk,
    )  # fmt: skip
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
    """Gradients of r, w, k, v (B, T, H, N), u (H, N) and of the state given, in that order.

    before: as `forward` gave it with the same chunk; grad_after (B, H, N, N) in float32.
    """
    r, w, k, v, u = inputs
    plan = ChunkPlan(r, chunk, precision)
    ends = r.new_empty(0) if lengths is None else lengths.contiguous()
    ragged: Any = {"HAS_LENGTHS": lengths is not None}
    grad_states, grad_state = _walk(plan, grad_o, r, w, ends, grad_after, BACKWARD=True, **ragged)
    # a pad's decay and key have no part, and no store
    make = torch.empty if lengths is None else torch.zeros
    gr, gw, gk, gv = (make(x.shape, device=x.device, dtype=x.dtype) for x in (r, w, k, v))
    gu = before.new_empty(before.shape[:-1])  # of each chunk
    _answer_kernel[plan.grid](
        grad_o, r, k, u, w, ends, grad_states, gv, *w.stride()[:3], *plan.sizes,
        BACKWARD=True, **ragged, **plan.flags, **plan.chunk,
    )  # fmt: skip
    blocks = plan.size // CHANNELS
    grid: Any = (plan.chunks, plan.heads * blocks, plan.batch)
    each = plan.chunk | {"num_warps": chunk // 16}  # more would hold the same rows twice
    _gradient_kernel[grid](
        r, k, v, u, w, ends, before, grad_o, grad_states, gr, gk, gu, gw,
        *w.stride()[:3], *plan.sizes, BLOCKS=blocks, **ragged, **plan.flags, **each,
    )  # fmt: skip
    return gr, gw, gk, gv, gu.sum((0, 2)), grad_state
