"""Products that read the same input as one: q, k and v of an attention, gate and up of an MLP.

One wide product fills a GPU better than narrow ones. The weights are moved to slices of one tensor,
so that nothing is held twice; names, shapes and state dictionaries stay as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn

from laminogram.stack.linear import Linear, linear


@dataclass(frozen=True)
class Joined:
    """The weights (out_1 + out_2 + ..., in) of several products, and their biases or None."""

    weight: Tensor
    bias: Tensor | None
    widths: tuple[int, ...]

    def __call__(self, h: Tensor) -> tuple[Tensor, ...]:
        """`h (..., in)` to each product's own `(..., out)`."""
        return linear(h, self.weight, self.bias).split(self.widths, -1)


def join(parts: Sequence[nn.Module]) -> Joined | None:
    """Join products of one input, whose weights become slices of one tensor; None where they are no
    plain products, or differ in dtype or device."""
    if any(type(part) is not Linear or not isinstance(part.weight, Tensor) for part in parts):
        return None
    products = cast(Sequence[Linear], parts)
    weights = [one.weight for one in products]
    biases = [one.bias for one in products if one.bias is not None]
    if len({(x.dtype, x.device) for x in weights}) > 1 or weights[0].is_meta:
        return None
    if len(biases) not in (0, len(weights)):
        return None
    # An inference tensor could never be trained again.
    with torch.inference_mode(False), torch.no_grad():
        bias = _moved(biases) if biases else None
        return Joined(_moved(weights), bias, tuple(len(x) for x in weights))


def _moved(parameters: Sequence[Tensor]) -> Tensor:
    """One tensor, of which the parameters are slices from now on."""
    whole = torch.cat([x.detach() for x in parameters])
    for parameter, part in zip(parameters, whole.split([len(x) for x in parameters]), strict=True):
        parameter.data = part
    return whole
