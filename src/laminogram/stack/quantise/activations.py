"""What enters a product, rounded as its kernels would: dynamic steps, found in the input itself.

A rounded input passes gradients as if it had not been rounded (straight-through). The numbers are
those of the format; what multiplies them is a product in fp32 over the same numbers, or for int8 by
int8 one of whole numbers where torch has it.

Axes: N tokens, I inputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from laminogram.stack.quantise.base import scale_for
from laminogram.stack.quantise.fp8 import largest, to_fp8
from laminogram.stack.quantise.int8 import to_int8


class Activations(Protocol):
    """A rule for what enters a product; prints as the ending of a precision's name."""

    @property
    def alone(self) -> bool:
        """Whether a token is rounded by itself. Where not, a text's numbers depend on what shares
        its forward: other rows, pads, and how a cache was filled."""
        ...

    def __call__(self, x: Tensor) -> Tensor:
        """`x (..., I)` as its rounded numbers, in fp32 or wider."""
        ...


@dataclass(frozen=True)
class Rounded:
    """int8 or fp8 (e4m3), with a step for each token or one for the whole input."""

    kind: Literal["int8", "fp8"]
    per: Literal["token", "tensor"] = "token"

    @property
    def alone(self) -> bool:
        return self.per == "token"

    def __str__(self) -> str:
        return "-a8" if self.alone else "-a8-per-tensor"

    def __call__(self, x: Tensor) -> Tensor:
        if self.kind == "int8":
            codes, scale = self.codes(x)
        else:
            scale = scale_for(self._absmax(x), largest("e4m3"))
            codes = to_fp8(wide(x) / scale, "e4m3")
        return straight_through(x, codes.to(scale.dtype) * scale)

    def codes(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The int8 codes of `x (..., I)` and their steps, (..., 1) or of one entry."""
        return to_int8(wide(x), self._absmax(x))

    def _absmax(self, x: Tensor) -> Tensor:
        size = wide(x.detach()).abs()
        return size.amax(-1, keepdim=True) if self.alone else size.amax()


@dataclass(frozen=True)
class KeptOutliers:
    """LLM.int8: what exceeds a threshold stays in fp16, all else is int8 with a step a token.

    The published rule (Dettmers et al., arXiv 2208.07339, section 3.2) keeps a whole input column
    where any token of the call reaches the threshold (`of` "call"); with `of` "token" each token
    keeps its own large entries, so that it never depends on others. Steps are those of what is not
    kept. The weights of kept columns are the int8 ones, not the original ones, as in bitsandbytes.
    A threshold of 0 keeps all, an infinite one nothing.
    """

    threshold: float = 6.0
    of: Literal["call", "token"] = "call"

    @property
    def alone(self) -> bool:
        return self.of == "token" or self.threshold in (0, float("inf"))

    def __str__(self) -> str:
        number = "" if self.threshold == 6.0 else f"-t{self.threshold:g}"
        return number + ("" if self.of == "call" else "-per-token")

    def __call__(self, x: Tensor) -> Tensor:
        full = wide(x)
        kept = full.detach().abs() >= self.threshold
        if self.of == "call":
            kept = kept.flatten(0, -2).any(0)
        rest = full.detach().masked_fill(kept, 0)
        codes, scale = to_int8(rest, rest.abs().amax(-1, keepdim=True))
        return straight_through(x, torch.where(kept, _fp16(full), codes.to(full.dtype) * scale))


def wide(x: Tensor) -> Tensor:
    """fp32 at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _fp16(x: Tensor) -> Tensor:
    """`x` rounded to fp16; what is beyond its range keeps its value."""
    rounded = x.half().to(x.dtype)
    return torch.where(rounded.isfinite(), rounded, x)


def straight_through(x: Tensor, rounded: Tensor) -> Tensor:
    """`rounded`, with the gradient going to `x` where one is wanted."""
    if not (torch.is_grad_enabled() and x.requires_grad):
        return rounded
    through: Tensor = _StraightThrough.apply(x, rounded.detach())
    return through


class _StraightThrough(torch.autograd.Function):
    """Forward the second input, backward to the first."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rounded: Tensor) -> Tensor:
        ctx.dtype = x.dtype
        return rounded.view_as(rounded)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad.to(ctx.dtype), None
