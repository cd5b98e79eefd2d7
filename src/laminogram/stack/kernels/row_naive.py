"""What the kernels of `row_triton` compute, in plain torch: the reference they are held to.

All work on one token of one row, whatever its leading axes: `x (..., C)` with one entry before C.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_ACTIVATIONS = {
    "none": lambda y: y,
    "silu": F.silu,
    "swish": F.silu,
    "gelu": F.gelu,
    "gelu_new": lambda y: F.gelu(y, approximate="tanh"),
    "gelu_fast": lambda y: F.gelu(y, approximate="tanh"),
    "gelu_pytorch_tanh": lambda y: F.gelu(y, approximate="tanh"),
    "relu": F.relu,
    "relu2": lambda y: F.relu(y).square(),
    "sigmoid": torch.sigmoid,
}


class RowNorm(NamedTuple):
    """A norm of the residual: its kind (`rms`, `layer`), weight, bias, eps, and what is added to
    the weight."""

    kind: str
    weight: Tensor
    bias: Tensor | None
    eps: float
    offset: float = 0.0

    @classmethod
    def of(cls, norm: Any) -> RowNorm:
        """That of a `Norm`."""
        return cls(norm.kind, norm.weight, norm.bias, norm.eps, norm.offset)


class RowShift(NamedTuple):
    """A token shift: the token before (C,), where to put this one (C,) for `add_back` to move on,
    and whether the shares weigh this token (`lerp`, RWKV-4) or the one before (`moved`)."""

    last: Tensor
    fresh: Tensor
    kind: str


class RowProduct(NamedTuple):
    """One product of the normalised token: weight (N, C), bias (N,), the shares of its token shift
    (C,), and the activation of the result."""

    weight: Tensor
    bias: Tensor | None = None
    mix: Tensor | None = None
    activation: str = "none"


def normed_naive(x: Tensor, norm: RowNorm | None) -> Tensor:
    """The normalised token (C,), fp32."""
    h = x.reshape(-1).float()
    if norm is None:
        return h
    weight = norm.weight.float() + norm.offset
    if norm.kind == "layer":
        h = F.layer_norm(h, h.shape, weight, None, norm.eps)
    else:
        h = F.rms_norm(h, h.shape, weight, norm.eps)
    return h if norm.bias is None else h + norm.bias.float()


def mixed_naive(h: Tensor, shift: RowShift | None, mix: Tensor | None) -> Tensor:
    """The token shift of `h (C,)`."""
    if shift is None or mix is None:
        return h
    before = shift.last.reshape(-1).float()
    ends = (before, h) if shift.kind == "lerp" else (h, before)
    return torch.lerp(*ends, mix.float())


def project_naive(
    x: Tensor, products: list[RowProduct], norm: RowNorm | None, shift: RowShift | None
) -> list[Tensor]:
    """Each product of the normalised, shifted token, activated: fp32 (N,)."""
    h = normed_naive(x, norm)
    if shift is not None:
        shift.fresh.copy_(h)
    out = []
    for one in products:
        y = one.weight.float() @ mixed_naive(h, shift, one.mix)
        out.append(_ACTIVATIONS[one.activation](y if one.bias is None else y + one.bias.float()))
    return out


def gated_naive(x: Tensor, gate: RowProduct, up: RowProduct, norm: RowNorm | None) -> Tensor:
    """`act(gate h) * (up h)`: fp32 (N,)."""
    one, other = project_naive(x, [gate, up], norm, None)
    return one * other


def add_back_naive(
    z: Tensor,
    product: RowProduct,
    x: Tensor,
    gate: Tensor | None = None,
    shift: RowShift | None = None,
) -> tuple[Tensor, Tensor]:
    """`x + gate * (weight z + bias)` in the dtype of x, and what was added (fp32)."""
    (y,) = project_naive(z, [product], None, None)
    added = y if gate is None else y * gate.reshape(-1).float()
    if shift is not None:
        shift.last.copy_(shift.fresh.view(shift.last.shape))
    return (x.float() + added.view(x.shape)).to(x.dtype), added.view(x.shape)
