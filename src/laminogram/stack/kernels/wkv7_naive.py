"""RWKV-7's recurrence, one token at a time: the readable reference of the chunked path.

Axes: B batch, T tokens, H heads, N head size. The state is (B, H, Nv, Nk), a matrix from keys to
values.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .wkv4_naive import compute_dtype


def wkv7_step(
    r: Tensor, w: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, state: Tensor
) -> tuple[Tensor, Tensor]:
    """One token: all (B, H, N), state (B, H, Nv, Nk) -> o (B, H, Nv) and the next state.

    The state decays per key channel, what it holds at key `-a` is moved along `b`, and the new pair
    joins it; the token reads the state that already contains it.
    """
    held = torch.einsum("bhvk,bhk->bhv", state, a)
    state = (
        state * w[:, :, None, :]
        + held[..., None] * b[:, :, None, :]
        + v[..., None] * k[:, :, None, :]
    )
    return torch.einsum("bhvk,bhk->bhv", state, r), state


def _run(
    r: Tensor,
    w: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    state: Tensor,
    lengths: Tensor | None,
) -> tuple[list[Tensor], list[Tensor]]:
    dtype = compute_dtype(r)
    r, w, k, v, a, b, state = (x.to(dtype) for x in (r, w, k, v, a, b, state))
    outputs: list[Tensor] = []
    states: list[Tensor] = []
    for t in range(r.shape[1]):
        o, after = wkv7_step(r[:, t], w[:, t], k[:, t], v[:, t], a[:, t], b[:, t], state)
        state = (
            after
            if lengths is None
            else torch.where((lengths > t)[:, None, None, None], after, state)
        )
        outputs.append(o)
        states.append(state)
    return outputs, states


def wkv7_naive(
    r: Tensor,
    w: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    state: Tensor,
    lengths: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """RWKV-7's generalised delta rule, token by token: `S = S diag(w) + (S a) b^T + v k^T`, `o = S
    r`.

    Args:
        r, k, v: receptance, key, value (B, T, H, N), any float dtype.
        w: decay per key channel in (0, 1) (B, T, H, N).
        a, b: what is removed and where it goes (B, T, H, N); in the model `a = -kk`, `b = kk *
            a_gate`.
        state: (B, H, Nv, Nk), zeros at the start.
        lengths: real tokens of each row (B,), rows left-aligned; None means all are real. Pads
            leave the state as it is; their outputs are finite and mean nothing.

    Returns:
        o (B, T, H, Nv) and the state after each row's last real token, both float32 (float64 for
        float64 r).

    Source: the RWKV-7 ("Goose") recurrence; differentiable by autograd.
    """
    outputs, states = _run(r, w, k, v, a, b, state, lengths)
    if not outputs:
        dtype = compute_dtype(r)
        return torch.zeros_like(v, dtype=dtype), state.to(dtype)
    return torch.stack(outputs, dim=1), states[-1]


def wkv7_states(
    r: Tensor,
    w: Tensor,
    k: Tensor,
    v: Tensor,
    a: Tensor,
    b: Tensor,
    state: Tensor,
    lengths: Tensor | None = None,
) -> Tensor:
    """The state after every token (B, T, H, Nv, Nk), for inspection; a pad repeats the state before
    it.

    Arguments as in `wkv7_naive`.
    """
    _, states = _run(r, w, k, v, a, b, state, lengths)
    if not states:
        return state.new_zeros(state.shape[0], 0, *state.shape[1:], dtype=compute_dtype(r))
    return torch.stack(states, dim=1)
