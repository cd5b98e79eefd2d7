"""RWKV-4's recurrence, one token at a time: the readable reference every faster path is held to.

Axes: B batch, T tokens, A attention width. The state is (B, 3, A): numerator, denominator and the
log of their common scale, so that the true sums are `num * exp(scale)` and `den * exp(scale)`.
Keeping the scale at the running maximum of the exponents is what keeps both sums finite.
"""

from __future__ import annotations

import torch
from torch import Tensor

LOG_ZERO = (
    -1e30
)  # the scale of an empty state: far below any exponent, and finite, so differences stay finite


def compute_dtype(x: Tensor) -> torch.dtype:
    """The dtype a recurrence runs in: float64 for float64 input, else float32 (a long sum in bf16
    or fp16 drifts).
    """
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def wkv4_empty_state(
    batch: int, width: int, *, device: torch.device | str | None, dtype: torch.dtype
) -> Tensor:
    """The state before the first token, (B, 3, A): both sums zero, scale `LOG_ZERO`."""
    state = torch.zeros(batch, 3, width, device=device, dtype=dtype)
    state[:, 2] = LOG_ZERO
    return state


def wkv4_step(k: Tensor, v: Tensor, w: Tensor, u: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """One token: k, v (B, A), state (B, 3, A) -> y (B, A) and the next state.

    The token first answers from the past with its own bonus `u`, and only then decays the past by
    `w` and joins it.
    """
    num, den, scale = state.unbind(1)
    top = torch.maximum(scale, u + k)
    past, own = torch.exp(scale - top), torch.exp(u + k - top)
    y = (past * num + own * v) / (past * den + own)

    top = torch.maximum(scale + w, k)
    past, own = torch.exp(scale + w - top), torch.exp(k - top)
    return y, torch.stack([past * num + own * v, past * den + own, top], dim=1)


def _run(
    k: Tensor, v: Tensor, w: Tensor, u: Tensor, state: Tensor, lengths: Tensor | None
) -> tuple[list[Tensor], list[Tensor]]:
    dtype = compute_dtype(k)
    k, v, w, u, state = (x.to(dtype) for x in (k, v, w, u, state))
    outputs: list[Tensor] = []
    states: list[Tensor] = []
    for t in range(k.shape[1]):
        y, after = wkv4_step(k[:, t], v[:, t], w, u, state)
        state = (
            after if lengths is None else torch.where((lengths > t)[:, None, None], after, state)
        )
        outputs.append(y)
        states.append(state)
    return outputs, states


def wkv4_naive(
    k: Tensor, v: Tensor, w: Tensor, u: Tensor, state: Tensor, lengths: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """RWKV-4's weighted sum over the past, token by token.

    Args:
        k, v: keys and values (B, T, A), any float dtype.
        w: log decay per token (A,), `-exp(time_decay)`, negative.
        u: bonus of the current token (A,), `time_first`.
        state: (B, 3, A), see `wkv4_empty_state`.
        lengths: real tokens of each row (B,), rows left-aligned; None means all are real. Pads
            leave the state as it is; their outputs are finite and mean nothing.

    Returns:
        y (B, T, A) and the state after each row's last real token (B, 3, A), both float32 (float64
        for float64 k).

    Source: the RWKV-4 recurrence with its running maximum; differentiable by autograd.
    """
    outputs, states = _run(k, v, w, u, state, lengths)
    if not outputs:
        dtype = compute_dtype(k)
        return torch.zeros_like(k, dtype=dtype), state.to(dtype)
    return torch.stack(outputs, dim=1), states[-1]


def wkv4_states(
    k: Tensor, v: Tensor, w: Tensor, u: Tensor, state: Tensor, lengths: Tensor | None = None
) -> Tensor:
    """The state after every token (B, T, 3, A), for inspection; a pad repeats the state before it.

    Arguments as in `wkv4_naive`.
    """
    _, states = _run(k, v, w, u, state, lengths)
    if not states:
        return state.new_zeros(state.shape[0], 0, 3, state.shape[2], dtype=compute_dtype(k))
    return torch.stack(states, dim=1)
