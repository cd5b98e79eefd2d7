"""What the kernel of `gated_triton` computes, in plain torch: the reference it is held to."""

from __future__ import annotations

from torch import Tensor

from .row_naive import _ACTIVATIONS


def gated_product_naive(h: Tensor, weight: Tensor, activation: str) -> Tensor:
    """`act(gate h) * (up h)` for `h (..., C)` and weight (2 F, C), gate above up: fp32 (..., F)."""
    gate, up = (h.float() @ half.float().T for half in weight.chunk(2))
    out: Tensor = _ACTIVATIONS[activation](gate) * up
    return out
