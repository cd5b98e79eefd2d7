"""RWKV's token shift: a mix of each token's input with the previous token's."""

from __future__ import annotations

import torch
from torch import Tensor


def previous(h: Tensor, last: Tensor | None) -> Tensor:
    """`h (B, T, C)` one column later; the first column is `last` (B, C), or zero at the start."""
    first = torch.zeros_like(h[:, :1]) if last is None else last[:, None]
    return first if h.shape[1] == 1 else torch.cat((first, h[:, :-1]), 1)


def mixed(h: Tensor, shifted: Tensor, mix: Tensor) -> Tensor:
    """`h * mix + shifted * (1 - mix)`, mix (C,)."""
    return torch.lerp(shifted, h, mix)


def moved(h: Tensor, shifted: Tensor, share: Tensor) -> Tensor:
    """`h + (shifted - h) * share`, share (C,): the later versions' way of writing the same mix."""
    return torch.lerp(h, shifted, share)


def product_dtype(weight: Tensor) -> torch.dtype:
    """The dtype in which a mixer hands its result to the output projection.

    fp32 above fp16 weights, whose range a squared ReLU exceeds (`linear_wide` then scales it).
    """
    return torch.float32 if weight.dtype == torch.float16 else weight.dtype
