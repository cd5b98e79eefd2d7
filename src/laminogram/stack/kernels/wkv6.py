"""The recurrence of RWKV-5 and RWKV-6 by chunks of tokens: matrix products inside a chunk, a loop
over chunks only.

What token s leaves in what token t > s reads is its key, decayed by every token between them. The
decays come as close to 0 as they like (exp(-exp(x)), and x is what a network answers), so a key is
never divided by the decays before it, as RWKV-7's bounded ones allow: over 16 tokens that leaves
float32. Instead a pair of tokens meets at a point m between them,

    (r_t * decay from m to t) @ (k_s * decay from s to m),      s <= m < t,

where both factors are at most 1 and what underflows was too small to be seen. Blocks of one token
are joined two by two: the second reads the first at the border between them, and then every reader
of the second is carried back to the start of the joined block, every key of the first on to its
end. What is left after the last joining is what a chunk reads of the state before it and writes to
the state after it. Nothing but products of decays is ever taken, so nothing can overflow, a decay
may be 0, and a slow decay after a fast one keeps its digits.

Axes: B batch, T tokens, H heads, N head size; inside, n chunks of L positions. State (B, H, Nv,
Nk). Products are never taken below float32, whatever autocast says outside.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .chunking import chunked
from .wkv4_naive import compute_dtype

CHUNK = 32
CHUNK_GPU = 64


class _Chunks(NamedTuple):
    """What every chunk does: `o = local v + read S^T`, `S' = S diag(kept) + v^T write`."""

    local: Tensor  # (n, B, H, L, L)
    read: Tensor  # (n, B, H, L, Nk)
    write: Tensor  # (n, B, H, L, Nk)
    kept: Tensor  # (n, B, H, 1, Nk)


def wkv6(
    r: Tensor,
    w: Tensor,
    k: Tensor,
    v: Tensor,
    u: Tensor,
    state: Tensor,
    lengths: Tensor | None = None,
    *,
    chunk: int | None = None,
) -> tuple[Tensor, Tensor]:
    """RWKV-5's and 6's recurrence; arguments, result and dtypes as in `wkv6_naive`.

    Differentiable by autograd. `chunk` is the length of a chunk, a power of two, by default 32, and
    64 on a GPU. No host synchronisation and no branch on values; one token (T = 1) takes a short
    path of its own.
    """
    device = r.device.type
    if device in ("cpu", "cuda") and torch.is_autocast_enabled(device):
        with torch.autocast(device, enabled=False):
            return wkv6(r, w, k, v, u, state, lengths, chunk=chunk)
    dtype = compute_dtype(r)
    r, w, k, v, u, state = (x.to(dtype) for x in (r, w, k, v, u, state))
    tokens = r.shape[1]
    if tokens == 0:
        return torch.zeros_like(v), state
    w = w.expand(k.shape)
    if lengths is not None:
        pad = (torch.arange(tokens, device=r.device) >= lengths[:, None])[..., None, None]
        w, k = w.masked_fill(pad, 1.0), k.masked_fill(pad, 0.0)  # a pad changes nothing
    if tokens == 1:
        return _single(r, w, k, v, u, state)
    length = chunk or (CHUNK_GPU if r.is_cuda else CHUNK)
    chunks, values = _prepare(r, w, k, u, length), chunked(v, length)
    added = (values.mT @ chunks.write).flatten(1, 2)
    kept = chunks.kept.flatten(1, 2)
    held = state.flatten(0, 1)
    before = []
    for decay, new in zip(kept.unbind(0), added.unbind(0), strict=True):
        before.append(held)
        held = torch.addcmul(new, held, decay)
    incoming = torch.stack(before).unflatten(1, state.shape[:2])
    o = chunks.local @ values + chunks.read @ incoming.mT
    return o.permute(1, 0, 3, 2, 4).flatten(1, 2)[:, :tokens], held.unflatten(0, state.shape[:2])


def wkv6_pattern(r: Tensor, w: Tensor, k: Tensor, u: Tensor) -> Tensor:
    """The effective attention A (B, H, T, T) of `wkv6` from an empty state: `o_t = sum_i A[t, i]
    v_i` exactly.

    Lower triangular, signed and not normalised. Arguments as in `wkv6_naive`.
    """
    dtype = compute_dtype(r)
    r, w, k, u = (x.to(dtype) for x in (r, w, k, u))
    tokens, length = r.shape[1], 1
    if tokens == 0:
        return r.new_zeros(r.shape[0], r.shape[2], 0, 0)
    while length < tokens:
        length *= 2
    weights = _prepare(r, w.expand(k.shape), k, u, length).local
    return weights[0, :, :, :tokens, :tokens]


def _single(
    r: Tensor, w: Tensor, k: Tensor, v: Tensor, u: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """One token, with few operations; rows and columns are views of the (B, 1, H, N) arguments."""
    own = (r * u * k).sum(-1, keepdim=True) * v
    w, k = (x.transpose(1, 2) for x in (w, k))  # rows (B, H, 1, N)
    read, v = (x.squeeze(1).unsqueeze(-1) for x in (r, v))  # columns (B, H, N, 1)
    past = (state @ read).transpose(2, 3).transpose(1, 2)
    return past + own, torch.addcmul(state * w, v, k)


def _prepare(r: Tensor, w: Tensor, k: Tensor, u: Tensor, length: int) -> _Chunks:
    """The matrices of every chunk of `length` tokens, a power of two.

    Everything below is (..., blocks, size, ...), and each turn of the loop has half as many blocks
    of twice the size.
    """
    readers, keys = chunked(r, length), chunked(k, length)
    local = (readers * u[:, None] * keys).sum(-1)[..., None, None]
    kept = chunked(w, length, fill=1.0)[..., None, :]
    readers, keys = readers[..., None, :], keys[..., None, :]
    size = 1
    while size < length:
        (local_a, local_b), (readers_a, readers_b), (keys_a, keys_b), (kept_a, kept_b) = (
            x.unflatten(-3, (-1, 2)).unbind(-3) for x in (local, readers, keys, kept)
        )
        below = torch.cat([readers_b @ keys_a.mT, local_b], dim=-1)
        local = torch.cat([F.pad(local_a, (0, size)), below], dim=-2)
        readers = torch.cat([readers_a, readers_b * kept_a], dim=-2)
        keys = torch.cat([keys_a * kept_b, keys_b], dim=-2)
        kept = kept_a * kept_b
        size *= 2
    return _Chunks(*(x.squeeze(-3) for x in (local, readers, keys, kept)))
