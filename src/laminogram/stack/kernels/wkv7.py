"""RWKV-7's recurrence by chunks of tokens: matrix products inside a chunk, a loop over chunks
only.

Within a chunk let `c_t` be the product of the decays up to t, and write every vector in units that
do not decay: `a_t c_{t-1}`, `r_t c_t`, `b_t / c_t`, `k_t / c_t`. What each token finds at its key,
`u_t = S_{t-1} a_t`, then solves one unit lower triangular system, and four matrices say all that a
chunk does to values and state:

    o = local v + read S^T          S' = S carry + v^T write

None of them contains v or S, so they are computed for all chunks at once. The decays of the model
are above exp(-exp(-1/2)) = 0.5452, so `c` stays above 6e-5 over 16 tokens and 1e-17 over 64, and
`1 / c` is safe in float32. A GPU takes chunks of 64: fewer steps of the loop, less memory for the
matrices between them. Products are never taken below float32, whatever autocast says outside.

Axes: B batch, T tokens, H heads, N head size; inside, n chunks of L positions. State (B, H, Nv,
Nk). Source: the WY representation of products of diagonal-plus-rank-one matrices, applied to the
RWKV-7 recurrence.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .chunking import chunked
from .wkv4_naive import compute_dtype

CHUNK = 16
CHUNK_GPU = 64


class _Chunks(NamedTuple):
    """What every chunk does, see the equations above."""

    local: Tensor  # (n, B, H, L, L)
    read: Tensor  # (n, B, H, L, Nk)
    carry: Tensor  # (n, B, H, Nk, Nk)
    write: Tensor  # (n, B, H, L, Nk)


def wkv7(
    r: Tensor,
    w: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    state: Tensor,
    lengths: Tensor | None = None,
    *,
    chunk: int | None = None,
) -> tuple[Tensor, Tensor]:
    """RWKV-7's generalised delta rule; arguments, result and dtypes as in `wkv7_naive`.

    Differentiable by autograd. `chunk` is the length of a chunk, by default 16, and 64 on a GPU.
    Decays w must stay above 0.005 (0.27 for 64), where `1 / c` leaves the range of float32 (the
    model's are above 0.5452). No host synchronisation and no branch on values; one token (T = 1)
    takes a short path of its own.
    """
    device = r.device.type
    if device in ("cpu", "cuda") and torch.is_autocast_enabled(device):
        with torch.autocast(device, enabled=False):
            return wkv7(r, w, k, v, a, b, state, lengths, chunk=chunk)
    dtype = compute_dtype(r)
    r, w, k, v, a, b, state = (x.to(dtype) for x in (r, w, k, v, a, b, state))
    tokens = r.shape[1]
    if tokens == 0:
        return torch.zeros_like(v), state
    if lengths is not None:
        w, k, a, b = _without_pads(w, k, a, b, lengths)
    if tokens == 1:
        return _single(r, w, k, v, a, b, state)
    length = min(chunk or (CHUNK_GPU if r.is_cuda else CHUNK), tokens)
    chunks = _prepare(r, w, k, a, b, length)
    values = chunked(v, length)
    added = (values.mT @ chunks.write).flatten(1, 2)
    held = state.flatten(0, 1)
    before = []
    for carry, new in zip(chunks.carry.flatten(1, 2).unbind(0), added.unbind(0), strict=True):
        before.append(held)
        held = torch.baddbmm(new, held, carry)
    incoming = torch.stack(before).unflatten(1, state.shape[:2])
    o = chunks.local @ values + chunks.read @ incoming.mT
    return o.permute(1, 0, 3, 2, 4).flatten(1, 2)[:, :tokens], held.unflatten(0, state.shape[:2])


def wkv7_pattern(r: Tensor, w: Tensor, k: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """The effective attention A (B, H, T, T) of `wkv7` from an empty state: `o_t = sum_i A[t, i]
    v_i` exactly.

    Lower triangular, signed and not normalised. Arguments (B, T, H, N) as in `wkv7_naive`.
    """
    dtype = compute_dtype(r)
    r, w, k, a, b = (x.to(dtype) for x in (r, w, k, a, b))
    tokens = r.shape[1]
    if tokens == 0:
        return r.new_zeros(r.shape[0], r.shape[2], 0, 0)
    chunks = _prepare(r, w, k, a, b, min(CHUNK, tokens))
    padded = chunks.local.shape[0] * chunks.local.shape[3]
    held = chunks.write[
        0, :, :, :0
    ]  # (B, H, i, Nk): what is left in the state of each earlier token's key
    rows = []
    for local, read, carry, write in zip(*(part.unbind(0) for part in chunks), strict=True):
        row = torch.cat([read @ held.mT, local], dim=-1)
        rows.append(F.pad(row, (0, padded - row.shape[-1])))
        held = torch.cat([held @ carry, write], dim=2)
    return torch.cat(rows, dim=2)[:, :, :tokens, :tokens]


def _without_pads(
    w: Tensor, k: Tensor, a: Tensor, b: Tensor, lengths: Tensor
) -> tuple[Tensor, ...]:
    """Makes every pad the identity: nothing decays, nothing is moved, nothing joins."""
    pad = (torch.arange(w.shape[1], device=w.device) >= lengths[:, None])[..., None, None]
    return w.masked_fill(pad, 1.0), *(x.masked_fill(pad, 0.0) for x in (k, a, b))


def _single(
    r: Tensor, w: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """One token, with few operations; rows and columns are views of the (B, 1, H, N) arguments."""
    w, k, b = (x.transpose(1, 2) for x in (w, k, b))  # rows (B, H, 1, N)
    r, v, a = (x.squeeze(1).unsqueeze(-1) for x in (r, v, a))  # columns (B, H, N, 1)
    state = torch.addcmul(torch.addcmul(state * w, state @ a, b), v, k)
    return (state @ r).transpose(2, 3).transpose(1, 2), state


def _prepare(r: Tensor, w: Tensor, k: Tensor, a: Tensor, b: Tensor, length: int) -> _Chunks:
    """The four matrices of every chunk of `length` tokens."""
    r, k, a, b = (chunked(x, length) for x in (r, k, a, b))
    logs = chunked(w, length, fill=1.0).log()
    total = logs.cumsum(dim=3)
    end = total[..., -1:, :]
    grown = torch.exp(-total)
    k_in, b_in = k * grown, b * grown
    k_end, b_end = k * torch.exp(end - total), b * torch.exp(end - total)
    a_in, r_in = a * torch.exp(total - logs), r * total.exp()

    moved = (a_in @ b_in.mT).tril(-1)  # what u_s puts in the way of u_t
    found = (a_in @ k_in.mT).tril(-1)  # what k_s puts in the way of u_t
    solved = _solve_unit_lower(moved, torch.cat([a_in, found], dim=-1))
    from_state, from_values = solved.split([a_in.shape[-1], length], dim=-1)
    reread = (r_in @ b_in.mT).tril()
    return _Chunks(
        local=(r_in @ k_in.mT).tril() + reread @ from_values,
        read=r_in + reread @ from_state,
        carry=torch.diag_embed(end.squeeze(-2).exp()) + from_state.mT @ b_end,
        write=k_end + from_values.mT @ b_end,
    )


def _solve_unit_lower(below: Tensor, right: Tensor) -> Tensor:
    """Solves `(I - below) x = right`, below strictly lower triangular."""
    system = torch.eye(below.shape[-1], device=below.device, dtype=below.dtype) - below
    return torch.linalg.solve_triangular(system, right, upper=False, unitriangular=True)
