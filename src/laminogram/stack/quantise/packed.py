"""A packed weight: the module that stands where a dense parameter stood.

Its codes are parameters that take no gradient, so whatever walks the parameters of a stack (hash,
state dict, devices) meets them. Moving a stack moves their bytes and never their dtype.

Axes: O outputs, I inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from laminogram.stack.kernels.matvec import fits, is_row, matvec
from laminogram.stack.quantise.activations import Activations, Rounded, wide
from laminogram.stack.quantise.base import Format
from laminogram.stack.quantise.int8 import Int8

_CHUNK = 1 << 22
"""Entries of a weight that are dense at one time: 16 MiB in fp32."""


class Packed(nn.Module):
    """A `PackedWeight` (O, I) in a format, and what happens to the inputs of its product.

    `dtype` is that in which activations meet it. The codes get no gradient; the input does, as that
    of the product with the decoded weight. `weight` is the dense one to encode.
    """

    takes_fp32 = True
    """Products are summed in fp32 and never overflow fp16: no scaling around them is needed."""

    def __init__(
        self,
        weight: Tensor,
        form: Format,
        activations: Activations | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.form, self.activations = form, activations
        self.shape, self.dtype = weight.shape, dtype or weight.dtype
        with torch.no_grad():
            codes = form.encode(weight.detach().float())
        for name, tensor in codes.items():
            self.register_parameter(name, nn.Parameter(tensor, requires_grad=False))

    def product(self, x: Tensor) -> Tensor:
        """`x (..., I) -> (..., O)` in the dtype of `x`."""
        if self.activations is None:
            return self._times(x)
        if self._counts(x):
            return self._whole_numbers(x).to(x.dtype)
        # In fp32: between numbers of few bits, 16-bit products would round what no kernel rounds.
        return self._times(self.activations(x)).to(x.dtype)

    def int8_rows(self) -> tuple[Tensor, Tensor] | None:
        """Codes int8 (O, I) and the steps of their outputs, fp32 (O,), where that and inputs as
        they are is all that the product is made of; else None."""
        plain = isinstance(self.form, Int8) and self.activations is None
        return self._int8_rows() if plain else None

    def _int8_rows(self) -> tuple[Tensor, Tensor]:
        table: dict[str, Any] = self._parameters  # each token asks: `get_parameter` takes longer
        scale = table["scale"].flatten()
        return table["codes"], scale.expand(self.shape[0]).contiguous()

    def dense(self) -> Tensor:
        """The decoded weight (O, I), in `dtype`."""
        return torch.cat([part.to(self.dtype) for part in self._parts()])

    def opened(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What the product multiplies: its inputs as they are rounded, and the weight, dense."""
        return x if self.activations is None else self.activations(x).to(x.dtype), self.dense()

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def nbytes(self) -> int:
        """The bytes that are stored."""
        return sum(code.numel() * code.element_size() for code in self.parameters())

    def numel(self) -> int:
        """How many entries the weight has."""
        return self.shape.numel()

    def extra_repr(self) -> str:
        return f"{tuple(self.shape)}, {self.form}{self.activations or ''}"

    def _times(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled() and x.requires_grad:
            out: Tensor = _Product.apply(x, self)
            return out
        return self._forward_product(x)

    def _forward_product(self, x: Tensor) -> Tensor:
        if isinstance(self.form, Int8) and is_row(x):
            codes, scale = self._int8_rows()
            if fits(codes):
                return matvec(x, codes, scale)
        parts = [F.linear(x, part.to(x.dtype)) for part in self._parts()]
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    def _backward_product(self, grad: Tensor) -> Tensor:
        """`grad (..., O)` times the weight: (..., I), summed in fp32 over the parts."""
        total = grad.new_zeros((*grad.shape[:-1], self.shape[1]), dtype=wide(grad).dtype)
        start = 0
        for part in self._parts():
            here = grad[..., start : start + len(part)]
            total += here @ part.to(grad.dtype)
            start += len(part)
        return total.to(grad.dtype)

    def _parts(self) -> Iterator[Tensor]:
        """The decoded weight in fp32, some rows at a time."""
        rows, columns = self.shape
        step = max(1, _CHUNK // columns)
        codes = dict(self.named_parameters(recurse=False))
        for start in range(0, rows, step):
            yield self.form.decode(codes, slice(start, min(start + step, rows)), columns)

    def _counts(self, x: Tensor) -> bool:
        """Whether the product is one of whole numbers: int8 by int8, and nobody asks for a
        gradient."""
        if not isinstance(self.form, Int8) or not isinstance(self.activations, Rounded):
            return False
        if torch.is_grad_enabled() and x.requires_grad:
            return False
        return hasattr(torch, "_int_mm") and (x.is_cpu or self._suits_a_gpu(x))

    def _suits_a_gpu(self, x: Tensor) -> bool:
        """cuBLAS takes more than 16 tokens, and sizes in eights."""
        rows, columns = self.shape
        tokens = x.numel() // columns
        return x.is_cuda and tokens > 16 and rows % 8 == 0 and columns % 8 == 0

    def _whole_numbers(self, x: Tensor) -> Tensor:
        assert isinstance(self.activations, Rounded)
        codes, scale = self.activations.codes(x.flatten(0, -2))
        sums = torch._int_mm(codes, self.get_parameter("codes").t())
        out = sums.to(scale.dtype) * scale * self.get_parameter("scale").view(1, -1)
        return out.view(*x.shape[:-1], self.shape[0])

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """What `to`, `cuda`, `half` and their kind do: they see bytes, which no dtype converts."""
        self.dtype = fn(torch.empty(0, dtype=self.dtype, device=self.device)).dtype
        return super()._apply(lambda code: fn(code.view(torch.uint8)).view(code.dtype), recurse)


class _Product(torch.autograd.Function):
    """The product with a packed weight; its backward decodes again instead of keeping it dense."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Packed) -> Tensor:
        ctx.weight = weight
        return weight._forward_product(x)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.weight._backward_product(grad), None
