"""The recurrence of RWKV-5 and RWKV-6, one token at a time: the readable reference of the chunked
path.

Both versions keep a matrix from keys to values for each head; RWKV-5 is the case of a decay that is
the same for every token. Axes: B batch, T tokens, H heads, N head size. The state is (B, H, Nv,
Nk), as RWKV-7's is and as the published files hold a tuned one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .wkv4_naive import compute_dtype


def wkv6_step(
    r: Tensor, w: Tensor, k: Tensor, v: Tensor, u: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """One token: r, w, k, v (B, H, N), u (H, N) or (H, 1), state (B, H, Nv, Nk) -> o (B, H, Nv) and
    the next state.

    The token reads the state before it and itself with the bonus `u`; then the state decays per key
    channel and the new pair joins it.
    """
    pair = v[..., None] * k[:, :, None, :]
    o = torch.einsum("bhvk,bhk->bhv", state + pair * u[:, None, :], r)
    return o, state * w[:, :, None, :] + pair


def wkv6_naive(
    r: Tensor,
    w: Tensor,
    k: Tensor,
    v: Tensor,
    u: Tensor,
    state: Tensor,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """RWKV-5's and 6's recurrence, token by token: `o = (S + v (u * k)^T) r`, `S = S diag(w) + v
    k^T`.

    Args:
        r, k, v: receptance, key, value (B, T, H, N), any float dtype.
        w: decay per key channel in [0, 1], broadcast to (B, T, H, N).
        u: bonus of the current token per key channel, (H, N), or (H, 1) where a head has one.
        state: (B, H, Nv, Nk), zeros at the start unless it was tuned.
        lengths: real tokens of each row (B,), rows left-aligned; None means all are real. Pads
            leave the state as it is; their outputs are finite and mean nothing.

    Returns:
        o (B, T, H, Nv) and the state after each row's last real token, both float32 (float64 for
        float64 r).

    Source: Peng et al., "Eagle and Finch" (arXiv 2404.05892); differentiable by autograd.
    """
    dtype = compute_dtype(r)
    r, w, k, v, u, state = (x.to(dtype) for x in (r, w, k, v, u, state))
    w = w.expand(k.shape)
    outputs = [v.new_zeros(v.shape[0], 0, *v.shape[2:])]
    for t in range(r.shape[1]):
        o, after = wkv6_step(r[:, t], w[:, t], k[:, t], v[:, t], u, state)
        if lengths is not None:
            after = torch.where((lengths > t)[:, None, None, None], after, state)
        state = after
        outputs.append(o[:, None])
    return torch.cat(outputs, dim=1), state
