"""What decoders share that run one layer for one token of one row in one call of a compiled kernel
(`kernels/_rwkv4_numba.py`, `kernels/_attention_numba.py`), for weights in fp32, bf16 or int8.

Weights and memories are read where they lie, but for fp32 weights that are numbers of 16 bits, of
which a copy is read after some tokens (`kernels/shortened.py`). Vectors are copied in fp32. A write
to what is copied past autograd's eyes (`.data`, a numpy view) is seen by a new cache only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from laminogram.stack.context import Context
from laminogram.stack.kernels.matvec import fits, kind_of
from laminogram.stack.kernels.shortened import AFTER, shortened
from laminogram.stack.kernels.wkv4_decode import stamp
from laminogram.stack.taps import Taps

STREAMS = (torch.float32, torch.bfloat16)
"""What the residual stream and a memory may be held in."""
_SERVED = (*STREAMS, torch.float64)
Stored = tuple[Tensor, Tensor | None]
"""What is read of a weight: its numbers (O, I), and the steps (O,) of int8 ones."""


def is_one_row(x: Tensor, ctx: Context, taps: Taps) -> bool:
    """Whether `x` is one token of one row on a CPU, in fp32, fp64 or bf16, and nothing is tapped,
    differentiated or compiled."""
    return (
        x.numel() == x.shape[-1]
        and not taps.names
        and ctx.lengths is None
        and x.is_cpu
        and x.dtype in _SERVED
        and not torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
    )


def stored(
    products: Sequence[nn.Module], served: Callable[[Tensor], bool] = fits
) -> list[Stored] | None:
    """What a kernel reads of the weights of products; None where it does not take one of them, or
    one is too small to be worth it, which `served` says of its numbers."""
    found = []
    for product in products:
        one = _stored(product.weight)
        if one is None or not served(one[0]):
            return None
        found.append(one)
    return found


def _stored(weight: Any) -> Stored | None:
    """None for a weight that is not stored in rows."""
    if isinstance(weight, Tensor):
        return weight.detach(), None
    rows = getattr(weight, "int8_rows", None)
    found: Stored | None = None if rows is None else rows()
    return found


class Weights:
    """The weights of a decoder's products as its kernel takes them. `table` (weights, 5): kind,
    addresses of numbers and steps, shape. With `short` fp32 ones give way to their copies in bf16
    once `AFTER` tokens were counted.

    found: what `stored` says of the products, kept for as long as the kernel has the addresses. It
    is kept beside a copy, too: else other weights could come to lie at an address that is watched.
    """

    def __init__(self, products: Sequence[nn.Module], found: list[Stored], short: bool) -> None:
        self._products, self._found, self._short = products, found, short
        self._copies: list[Tensor | None] = []
        self._tokens = 0
        self.table = np.array([_row(*one) for one in found], np.int64)

    def count(self) -> None:
        """A token comes."""
        self._tokens += 1
        if self._short and self._tokens == AFTER + 1:
            self._shorten()

    def _shorten(self) -> None:
        weights: list[Any] = [product.weight for product in self._products]
        self._copies = [
            shortened(weight) if isinstance(weight, Tensor) else None for weight in weights
        ]
        for i, copy in enumerate(self._copies):
            if copy is not None:
                self.table[i] = _row(copy, None)


def _row(numbers: Tensor, scale: Tensor | None) -> tuple[int, ...]:
    steps = 0 if scale is None else scale.data_ptr()
    return (kind_of(numbers), numbers.data_ptr(), steps, *numbers.shape)


def vector(x: Tensor) -> np.ndarray:
    """A vector in fp32."""
    array: np.ndarray = x.detach().float().numpy()
    return array


class Watch:
    """What a decoder took for granted: modules, parameters, memories."""

    def __init__(self, layer: nn.Module, memories: tuple[Any, ...]) -> None:
        modules = [layer]
        for module in modules:  # grows; what `layer.modules()` gives, in a fifth of its time
            modules += [child for child in module._modules.values() if child is not None]
        self._modules = [module._modules for module in modules if module._modules]
        self._parts = [list(table.values()) for table in self._modules]
        self._tables = [module._parameters for module in modules if module._parameters]
        self._memories = memories
        self._stamps = self._now()

    def unchanged(self, layer: nn.Module, memories: tuple[Any, ...]) -> bool:
        """Whether all is as it was, and this the layer and these the memories."""
        return (
            layer._modules is self._modules[0]
            and all(a is b for a, b in zip(memories, self._memories))
            and [list(table.values()) for table in self._modules] == self._parts
            and self._now() == self._stamps
        )

    def _now(self) -> list[tuple[int, int] | None]:
        values = (x for table in self._tables for x in table.values())
        return [None if x is None else stamp(x) for x in values]
