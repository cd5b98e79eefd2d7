"""What may happen to the form of a single tensor between a checkpoint and a stack: reversible data.

An operation has `forward` (theirs to ours) and `inverse`. New operations are written beside these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

from laminogram.stack.config import AttentionConfig, LayerConfig, StackConfig


@dataclass(frozen=True)
class Binding:
    """What a rule may look at besides its tensors: the model, its layer, the options."""

    config: StackConfig
    index: Mapping[str, int] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def layer(self) -> LayerConfig:
        """The configuration of the layer that `{i}` stands for."""
        return self.config.layers[self.index["i"]]


class Operation(Protocol):
    """A reversible change of one tensor's form."""

    def forward(self, tensor: Tensor, binding: Binding) -> Tensor:
        """From the checkpoint's form to ours."""
        ...

    def inverse(self, tensor: Tensor, binding: Binding) -> Tensor:
        """From our form to the checkpoint's."""
        ...


@dataclass(frozen=True)
class Transpose:
    """(a, b) <-> (b, a)."""

    def forward(self, tensor: Tensor, binding: Binding) -> Tensor:
        """The transposed view."""
        return tensor.t() if tensor.dim() == 2 else tensor

    inverse = forward


@dataclass(frozen=True)
class Squeeze:
    """(1, ..., 1, C) <-> (C,). `leading` axes of size one are written; any number is read."""

    leading: int = 2

    def forward(self, tensor: Tensor, binding: Binding) -> Tensor:
        """Without its axes of size one; a tensor with another axis is left for the shape check."""
        return tensor.reshape(-1) if tensor.numel() == tensor.shape[-1:].numel() else tensor

    def inverse(self, tensor: Tensor, binding: Binding) -> Tensor:
        """With `leading` axes of size one before it."""
        return tensor.reshape(*[1] * self.leading, *tensor.shape)


@dataclass(frozen=True)
class Halved:
    """Weights of layer i that were stored divided by 2 ** (i // every) against fp16 overflow.

    `every` is the value of the named option; absent or 0, nothing was divided.
    """

    option: str

    def forward(self, tensor: Tensor, binding: Binding) -> Tensor:
        """The true weights; exact but for what the division lost to fp16 subnormals."""
        power = self._power(binding)
        return tensor if power == 0 or tensor.is_meta else tensor * 2.0**power

    def inverse(self, tensor: Tensor, binding: Binding) -> Tensor:
        """The divided weights."""
        power = self._power(binding)
        return tensor if power == 0 or tensor.is_meta else tensor / 2.0**power

    def _power(self, binding: Binding) -> int:
        every = int(binding.options.get(self.option) or 0)
        return binding.index["i"] // every if every > 0 else 0


@dataclass(frozen=True)
class NegativeExponential:
    """Theirs is -exp(ours), in fp32: a decay that was stored ready for use."""

    def forward(self, tensor: Tensor, binding: Binding) -> Tensor:
        """log(-theirs)."""
        return tensor if tensor.is_meta else (-tensor.float()).log()

    def inverse(self, tensor: Tensor, binding: Binding) -> Tensor:
        """-exp(ours)."""
        return tensor if tensor.is_meta else -tensor.float().exp()


@dataclass(frozen=True)
class Deinterleave:
    """Rows of heads whose turned pairs are neighbours (2j, 2j + 1) <-> halves (j, j + R / 2).

    `head` gives, for a layer, the rows of a head, where its turned rows begin, and their number R;
    by default those of its attention, from the first row on.
    """

    head: Callable[[Binding], tuple[int, int, int]] | None = None

    def forward(self, tensor: Tensor, binding: Binding) -> Tensor:
        """Pairs apart: first all even rows of the turned part, then all odd ones."""
        return self._ordered(tensor, binding, apart=True)

    def inverse(self, tensor: Tensor, binding: Binding) -> Tensor:
        """Pairs side by side."""
        return self._ordered(tensor, binding, apart=False)

    def _ordered(self, tensor: Tensor, binding: Binding, *, apart: bool) -> Tensor:
        size, start, turned = (self.head or _turned_rows)(binding)
        if tensor.dim() == 0 or tensor.shape[0] % size:
            return tensor  # the shape check names it
        pairs = torch.arange(turned).view((-1, 2) if apart else (2, -1)).t().reshape(-1)
        order = torch.arange(size)
        order[start : start + turned] = start + pairs
        rows = tensor.reshape(-1, size, *tensor.shape[1:])
        return rows[:, order.to(tensor.device)].reshape(tensor.shape)


def _turned_rows(binding: Binding) -> tuple[int, int, int]:
    attention = binding.layer.attn
    assert isinstance(attention, AttentionConfig)
    assert attention.rope is not None
    return attention.head_dim, 0, attention.rope.rotary_dims


def read_through(operations: tuple[Operation, ...], tensor: Tensor, binding: Binding) -> Tensor:
    """Theirs through the operations, to ours."""
    for operation in operations:
        tensor = operation.forward(tensor, binding)
    return tensor


def write_through(operations: tuple[Operation, ...], tensor: Tensor, binding: Binding) -> Tensor:
    """Ours through the operations' inverses, to theirs."""
    for operation in reversed(operations):
        tensor = operation.inverse(tensor, binding)
    return tensor
