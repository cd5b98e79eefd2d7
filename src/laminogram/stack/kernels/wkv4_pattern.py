"""RWKV-4's recurrence read as attention: the weight of every earlier token in every token's answer.

Axes: B batch, T tokens (first the reading token t, then the token i that is read), A attention
width.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .wkv4_naive import compute_dtype, wkv4_empty_state
from .wkv4_scan import bounded_exp, scan_rows

BLOCK = 16  # tokens whose weights in one another are taken channel by channel


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
    """The mean of `wkv4_pattern_channels` over the channels: (B, 1, T, T), as if of one head.

    A channel's weight too small to change a sum is given as one that just could not: 4e-18 in
    float32. Memory is B T (T + A): the channels are summed by a product of two factors, what a
    token gives to the state after its block and what a later token takes of that state. Both are
    at most 1, for the running maximum of the scan lies between them.
    """
    dtype = compute_dtype(k)
    k, w, u = k.to(dtype), w.to(dtype), u.to(dtype)
    batch, tokens, width = k.shape
    if tokens == 0:
        return k.new_zeros(batch, 1, 0, 0)
    if state is None:
        state = wkv4_empty_state(batch, width, device=k.device, dtype=dtype)
    _, den, scale = scan_rows(k, torch.zeros_like(k), w, state.to(dtype))
    total = torch.logaddexp(scale[:, :tokens] + den[:, :tokens].log(), k + u)
    blocks = []
    for start in range(0, tokens, BLOCK):
        end = min(start + BLOCK, tokens)
        near = _near(k[:, start:end], w, total[:, start:end])
        far = _far(k[:, start:end], w, scale[:, end : end + 1], total[:, end:])
        blocks.append(F.pad(torch.cat([near, far], dim=1), (0, 0, start, 0)))
    own = bounded_exp(k + u - total).sum(dim=-1)
    return ((torch.cat(blocks, dim=2) + torch.diag_embed(own)) / width)[:, None]


def _near(k: Tensor, w: Tensor, total: Tensor) -> Tensor:
    """Weights of a block's tokens in one another, own bonus excepted: (B, L, L)."""
    at = torch.arange(k.shape[1], device=k.device)
    between = (at[:, None] - at[None, :] - 1).clamp(min=0)[..., None].to(k.dtype)
    return bounded_exp(k[:, None] + between * w - total[:, :, None]).sum(dim=-1).tril(-1)


def _far(k: Tensor, w: Tensor, scale: Tensor, total: Tensor) -> Tensor:
    """Weights of a block's tokens in all later tokens: (B, later, L), from the scale after it."""
    length, later = k.shape[1], total.shape[1]
    back = torch.arange(length - 1, -1, -1, device=k.device, dtype=k.dtype)[:, None]
    ahead = torch.arange(later, device=k.device, dtype=k.dtype)[:, None]
    given = bounded_exp(k + back * w - scale)
    taken = bounded_exp(ahead * w + scale - total)
    return taken @ given.mT
