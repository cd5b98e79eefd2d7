"""The one product. Every matrix product with a weight goes through `linear`.

A weight is a dense tensor (out, in) or a packed one: an object with `product(x)` and the same
shape, such as int8 rows or int4 groups. Callers never ask which.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from laminogram.stack.kernels.matvec import fits, is_row, matvec
from laminogram.stack.kernels.rows_product_triton import are_few_rows, product_of_few_rows
from laminogram.stack.kernels.shortened import Reader


@runtime_checkable
class PackedWeight(Protocol):
    """A weight that is not stored dense: it knows how to multiply itself.

    One whose products cannot overflow says `takes_fp32`: its `product` takes fp32 above fp16, too.
    """

    shape: torch.Size

    def product(self, x: Tensor) -> Tensor:
        """`x (..., in) -> (..., out)` in the dtype of `x`."""
        ...


@runtime_checkable
class OpenedWeight(PackedWeight, Protocol):
    """A packed weight that also shows what its product multiplies."""

    def opened(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The inputs `x (..., in)` as they enter the product, and the dense weight (out, in)."""
        ...


Weight = Tensor | PackedWeight
_HEADROOM = 6


def linear(
    x: Tensor, weight: Weight, bias: Tensor | None = None, reader: Reader | None = None
) -> Tensor:
    """`x (..., in)` times `weight (out, in)` transposed, plus `bias (out,)`: `(..., out)`.

    reader: of a run, where one row may be multiplied with a copy of the weight.
    """
    if not isinstance(weight, Tensor):
        out = weight.product(x)
        return out if bias is None else out + bias
    if is_row(x) and x.dtype is weight.dtype and fits(weight):
        out = matvec(x, weight) if reader is None else reader.product(x, weight)
        return out if bias is None else out + bias
    if x.is_cuda and are_few_rows(x, weight):
        return product_of_few_rows(x, weight, bias)
    return F.linear(x, weight, bias)


def linear_wide(x: Tensor, weight: Weight, bias: Tensor | None = None) -> Tensor:
    """A product that may exceed the range of fp16: exact scaling around it, result in fp32.

    Used where a mixer writes to the residual. For fp16 weights each token is brought by a power of
    two to a largest entry of about 2^-6, and the product multiplied by it again: exact, and room
    for `in * max|weight|` up to four million. `x` may come in fp32. Else this is `linear`.
    """
    if weight_dtype(weight) is not torch.float16:
        return linear(x, weight, bias)
    wide = x.float()
    if getattr(weight, "takes_fp32", False):
        return linear(wide, weight, bias)
    _, exponent = torch.frexp(wide.abs().amax(-1, keepdim=True))
    scale = torch.exp2((exponent + _HEADROOM).float())
    out = linear((wide / scale).half(), weight).float() * scale
    return out if bias is None else out + bias.float()


def opened(x: Tensor, weight: Weight) -> tuple[Tensor, Tensor]:
    """What `linear` multiplies, for paths that need the terms of its sum one by one."""
    if isinstance(weight, Tensor):
        return x, weight
    if isinstance(weight, OpenedWeight):
        return weight.opened(x)
    raise TypeError(f"a {type(weight).__name__} does not show the terms of its product")


def weight_dtype(weight: Weight) -> torch.dtype:
    """The dtype that activations meet the weight in."""
    return weight.dtype if isinstance(weight, Tensor) else getattr(weight, "dtype", torch.float32)


def kept_dtype(stack: nn.Module, path: str, dtype: torch.dtype) -> torch.dtype:
    """The dtype of a parameter where the weights are `dtype`: fp32 at least for those that their
    module names in `in_fp32`."""
    owner, _, name = path.rpartition(".")
    wide = name in getattr(stack.get_submodule(owner), "in_fp32", ())
    return torch.promote_types(dtype, torch.float32) if wide else dtype


class Linear(nn.Module):
    """Parameters of one product: `weight (out, in)`, `bias (out,)` or None.

    It is called as a plain function (module hooks do not fire; the layer around it has them).
    """

    bias: nn.Parameter | None

    def __init__(self, inputs: int, outputs: int, *, bias: bool = False) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(outputs, inputs))
        if bias:
            self.bias = nn.Parameter(torch.empty(outputs))
        else:
            self.register_parameter("bias", None)

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)

    # Without a GPU the call machinery of modules takes a third as long as a small product.
    __call__ = forward

    def wide(self, x: Tensor) -> Tensor:
        """The product with an fp32 result where fp16 could overflow (`linear_wide`)."""
        return linear_wide(x, self.weight, self.bias)
