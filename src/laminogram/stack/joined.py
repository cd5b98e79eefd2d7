"""Products that read the same input as one: q, k and v of an attention, gate and up of an MLP.

One wide product fills a GPU better than narrow ones. The weights are moved to slices of one tensor,
so that nothing is held twice; names, shapes and state dictionaries stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn

from laminogram.stack.hooks import is_hooked
from laminogram.stack.kernels.gated_triton import reads_tiles
from laminogram.stack.linear import Linear, linear


@dataclass(frozen=True)
class Joined:
    """The weights (out_1 + out_2 + ..., in) of several products, and their biases or None.

    tiled: whether the kernels of `gated_triton` can read the weight.
    """

    weight: Tensor
    bias: Tensor | None
    widths: tuple[int, ...]
    tiled: bool = False

    def __call__(self, h: Tensor) -> tuple[Tensor, ...]:
        """`h (..., in)` to each product's own `(..., out)`."""
        return linear(h, self.weight, self.bias).split(self.widths, -1)


class Joining(nn.Module):
    """A module some of whose products can be one: `joinable` names them.

    `joined` is no part of the module's state: a copy, a pickle and a module that is moved begin
    without it.
    """

    joinable: ClassVar[tuple[str, ...]] = ()

    def __init__(self) -> None:
        super().__init__()
        self.joined: Joined | None = None

    def products(self, h: Tensor) -> tuple[Tensor, ...]:
        """What each of the joinable products gives for `h (..., in)`: at once where they are
        joined, one by one for gradients."""
        if self.joined is None or torch.is_grad_enabled():
            return tuple(getattr(self, name)(h) for name in self.joinable)
        return self.joined(h)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"joined": None}

    def _apply(self, *args: Any, **options: Any) -> Joining:
        self.joined = None
        return super()._apply(*args, **options)


class JoinedProducts:
    """Every product of a model that can be joined, joined; with what must stay for that to hold."""

    def __init__(self, model: nn.Module) -> None:
        self._owners = [one for one in model.modules() if isinstance(one, Joining)]
        before = [weight.data_ptr() for weight in model.parameters()]
        for owner in self._owners:
            parts = [getattr(owner, name, None) for name in owner.joinable]
            owner.joined = join(cast(list[nn.Module], parts)) if parts and all(parts) else None
        modules = list(model.modules())
        self._modules = [
            (cast(dict[str, Any], owner._modules), name, module)
            for owner in modules
            for name, module in owner._modules.items()
        ]
        self._weights = [
            (cast(dict[str, Any], owner._parameters), name, parameter, parameter.data_ptr())
            for owner in modules
            for name, parameter in owner._parameters.items()
            if parameter is not None
        ]
        self.moved = before != [weight.data_ptr() for weight in model.parameters()]
        """Whether a weight lies elsewhere than before: whoever keeps addresses must know."""

    def stand(self) -> bool:
        """Whether every module and weight is where it was, and nobody's hook in any. Asked at every
        run, so it is cheap: entries of tables, and addresses."""
        return all(
            table.get(name) is module and not (module and is_hooked(module))
            for table, name, module in self._modules
        ) and all(
            table.get(name) is weight and weight.data_ptr() == address
            for table, name, weight, address in self._weights
        )

    def part(self) -> None:
        """Let every product be done by itself again."""
        for owner in self._owners:
            owner.joined = None


@contextmanager
def joining(model: nn.Module) -> Iterator[JoinedProducts]:
    """Products of one input joined while a graph is captured, which keeps their addresses; after it
    every product is what it was, so nobody has to ask whether the join still holds."""
    owners = [one for one in model.modules() if isinstance(one, Joining)]
    before = [one.joined for one in owners]
    try:
        yield JoinedProducts(model)
    finally:
        for owner, joined in zip(owners, before, strict=True):
            owner.joined = joined


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
        weight = _moved(weights)
        return Joined(weight, bias, tuple(len(x) for x in weights), reads_tiles(weight))


def _moved(parameters: Sequence[Tensor]) -> Tensor:
    """One tensor, of which the parameters are slices from now on, or have been before."""
    whole = _neighbours(parameters)
    if whole is not None:
        return whole
    whole = torch.cat([x.detach() for x in parameters])
    for parameter, part in zip(parameters, whole.split([len(x) for x in parameters]), strict=True):
        parameter.data = part
    return whole


def _neighbours(parameters: Sequence[Tensor]) -> Tensor | None:
    """The tensor of which the parameters are already slices, one after the other; None if not."""
    first, size = parameters[0].detach(), 0
    for one in parameters:
        apart = one.untyped_storage().data_ptr() != first.untyped_storage().data_ptr()
        if apart or one.storage_offset() != first.storage_offset() + size:
            return None
        if not one.is_contiguous():
            return None
        size += one.numel()
    return first.as_strided((size,), (1,)).view(-1, *first.shape[1:])
