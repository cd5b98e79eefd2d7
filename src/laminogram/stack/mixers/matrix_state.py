"""What the mixers with a matrix state for each head (RWKV-5, 6 and 7) have in common.

Axes: B batch, T tokens, H heads, D head. The state is (B, H, D values, D keys) in all of them; the
`rwkv` package holds that of versions 5 and 6 transposed.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class GroupNormParameters(nn.Module):
    """The norm of each head's answer: `(B, T, H, D)` over D, with weight and bias (H * D,)."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(size))
        self.bias = nn.Parameter(torch.empty(size))

    def forward(self, x: Tensor, eps: float) -> Tensor:
        normed = F.layer_norm(x, x.shape[-1:], eps=eps)
        weight = self.weight.to(x.dtype).view(x.shape[-2:])
        return normed * weight + self.bias.to(x.dtype).view(x.shape[-2:])


def initial_state(present: bool, heads: int, size: int) -> nn.Parameter | None:
    """The parameter (H, D values, D keys) of a tuned state; None for a state that starts empty."""
    return nn.Parameter(torch.empty(heads, size, size)) if present else None


def first_state(
    tuned: Tensor | None,
    shape: tuple[int, int, int],
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> Tensor:
    """The state before any token, (B, H, D, D): zeros, or the tuned one for every row.

    shape: (B, H, D). The tuned one gets its gradient through it.
    """
    batch, heads, size = shape
    if tuned is None:
        return torch.zeros(batch, heads, size, size, device=device, dtype=dtype)
    return tuned.to(dtype).expand(batch, -1, -1, -1)
