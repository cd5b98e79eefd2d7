"""RWKV-4's recurrence read as attention: the weight of every earlier token in every token's answer.

Axes: B batch, T tokens (first the reading token t, then the token i that is read), A attention
width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from .wkv4_naive import compute_dtype

PATTERN_ELEMENTS = 1 << 24  # B * T * (T + 1) * channels held at once: 64 MiB per float32 temporary


def wkv4_pattern_channels(k: Tensor, w: Tensor, u: Tensor, state: Tensor | None = None) -> Tensor:
    """The normalised weight of token i in `y[t]`, channel by channel: (B, T, T, A), lower
    triangular.

    With no state (or an empty one) every row sums to 1 over i and `sum_i pattern[t, i] v[i] =
    y[t]`. With a state, what a row lacks to 1 is the share of everything before the first token.

    Args: k (B, T, A), w and u (A,), state (B, 3, A) or None, as in `wkv4_naive`. Memory is B T^2 A:
    for small cases.
    """
    dtype = compute_dtype(k)
    k, w, u = k.to(dtype), w.to(dtype), u.to(dtype)
    tokens = k.shape[1]
    at = torch.arange(tokens, device=k.device)
    between = (at[:, None] - at[None, :] - 1)[..., None]  # tokens that decay i before t reads it
    exponent = k[:, None] + between.clamp(min=0).to(dtype) * w
    exponent = torch.where(between < 0, k[:, None] + u, exponent)
    exponent = exponent.masked_fill(between < -1, -torch.inf)
    if state is None:
        return exponent.softmax(dim=2)
    state = state.to(dtype)
    past = state[:, 2, None] + state[:, 1, None].log() + at[:, None].to(dtype) * w
    return torch.cat([exponent, past[:, :, None]], dim=2).softmax(dim=2)[:, :, :tokens]


def wkv4_pattern(k: Tensor, w: Tensor, u: Tensor, state: Tensor | None = None) -> Tensor:
    """The mean of `wkv4_pattern_channels` over the channels: (B, 1, T, T), as if RWKV-4 had one
    head.

    Channels are taken a few at a time, so memory is bounded by `PATTERN_ELEMENTS` and not by A.
    """
    batch, tokens, width = k.shape
    few = max(1, PATTERN_ELEMENTS // max(1, batch * tokens * (tokens + 1)))
    total = torch.zeros(batch, tokens, tokens, device=k.device, dtype=compute_dtype(k))
    for start in range(0, width, few):
        some = slice(start, start + few)
        part = None if state is None else state[..., some]
        total = total + wkv4_pattern_channels(k[..., some], w[some], u[some], part).sum(dim=-1)
    return (total / width)[:, None]
