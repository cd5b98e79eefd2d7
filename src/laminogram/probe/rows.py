"""New values of a whole row: what an edit writes that must see more than one entry.

A row is the last axis of a site at one token: its channels, or one head's or one expert's. Every
function is pure and differentiable, `(..., C) -> (..., C)`, and treats each row by itself; what may
vary comes as tensors, so that one compiled layer serves every value.
"""

from __future__ import annotations

import torch
from torch import Tensor


def clipped(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Between the bounds, each entry by itself: here for a clip that is dosed."""
    return torch.maximum(torch.minimum(x, high.to(x.dtype)), low.to(x.dtype))


def winsorised(x: Tensor, quantile: Tensor) -> Tensor:
    """No entry larger in size than that quantile of the row's |x|, linear between two entries.

    The gradient of an entry that is held back goes to those that set the bound.
    """
    ordered = x.abs().sort(dim=-1).values
    last = x.shape[-1] - 1
    place = (quantile * last).reshape(1)
    below = place.floor().long()
    share = (place - below).to(x.dtype)
    low = ordered.index_select(-1, below)
    high = ordered.index_select(-1, (below + 1).clamp(max=last))
    bound = torch.where(share > 0, low + share * (high - low), low)
    return torch.maximum(torch.minimum(x, bound), -bound)


def signed(x: Tensor, magnitude: Tensor) -> Tensor:
    """The sign of each entry (0 stays 0) times a magnitude. Straight-through: the gradient is that
    of leaving the entry as it is, because the sign's own is zero."""
    moved = x.sign() * magnitude.to(x.dtype)
    return moved.detach() + (x - x.detach()) if x.requires_grad else moved


def to_rms(x: Tensor, rms: Tensor) -> Tensor:
    """The row scaled to a root mean square; a row of zeros stays."""
    return to_length(x, rms * x.shape[-1] ** 0.5)


def to_length(x: Tensor, length: Tensor) -> Tensor:
    """The row scaled to a Euclidean length; a row of zeros stays."""
    wide = _wide(x)
    have = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    factor = length.to(wide.dtype) / have.clamp(min=torch.finfo(wide.dtype).tiny)
    return (wide * factor).to(x.dtype)


def rotated(x: Tensor, matrix: Tensor) -> Tensor:
    """The row times an orthogonal matrix (C, C): `x @ matrix`."""
    wide = _wide(x)
    return (wide @ matrix.to(wide.dtype)).to(x.dtype)


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
