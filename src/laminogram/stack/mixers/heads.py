"""What each head adds to the residual: the output projection with its sum over heads undone."""

from __future__ import annotations

import torch
from torch import Tensor

from laminogram.stack.linear import Linear, opened
from laminogram.stack.taps import Taps


def add_heads(z: Tensor, output: Linear, taps: Taps) -> Tensor:
    """`z (B, T, H, D) -> (B, T, C)` through the site `head_out` (B, T, H, C), in fp32 for fp16.

    The bias of the projection belongs to no head and is added after the sum.
    """
    flat, dense = opened(z.flatten(2), output.weight)
    z, weight = flat.view(z.shape), dense.unflatten(1, z.shape[2:])  # (C, H, D)
    if weight.dtype == torch.float16:
        z, weight = z.float(), weight.float()
    parts = taps("head_out", torch.einsum("bthd,chd->bthc", z, weight))
    out = parts.sum(2)
    return out if output.bias is None else out + output.bias
