"""The layers of a parallel group as one: their weights stacked, their products batched.

Layers that read the same input and are built alike are one layer over more rows: row `m * B + b` is
what layer m does for row b. That saves the overhead of many small operations, so it is done where
the tokens are few; the result equals that of one layer after the other.

Axes: M layers, B rows, T tokens, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from laminogram.plans import Group, Plan
from laminogram.stack.cache import AttentionBlock, AttentionSlot, BlockSlot, StepSlot
from laminogram.stack.config import AttentionConfig, LayerConfig, MLPConfig, StackConfig
from laminogram.stack.layer import Layer
from laminogram.stack.linear import Linear, linear, linear_wide
from laminogram.stack.norms import Norm

if TYPE_CHECKING:
    from laminogram.stack.stack import Stack

MOST_TOKENS = {"cpu": 64, "cuda": 256}
"""Rows times tokens up to which a group runs together, by device: see docs/speed.md."""


def is_faster(x: Tensor) -> bool:
    """Whether a group reads so few tokens that it is faster together, and no gradient is wanted."""
    rows, tokens = x.shape[:2]
    return rows * tokens <= MOST_TOKENS.get(x.device.type, 0) and not torch.is_grad_enabled()


class Together:
    """The stacked layers of a stack, made when a group first asks for them.

    The parameters of the layers become slices of the stacked tensors, so that nothing is held
    twice; beside the model, one kind of weight of these layers exists a second time while they are
    stacked. Weights that were mapped from a file lie in memory afterwards. `allowed` switches it
    off: every layer of a group then runs by itself.
    """

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._kinds = _kinds(stack.config)
        self._packs: list[_Pack] = []
        self.allowed = True
        self.moves = 0  # how often weights have moved: whoever keeps addresses must ask

    def layers(self, group: Group) -> range | None:
        """The layers of a group whose weights can be stacked; None where they cannot.

        Neighbours in rising order with attention and a feed-forward network of one configuration.
        """
        if not self.allowed or not group.single:
            return None
        layers = [branch.items[0].layer for branch in group.branches]  # type: ignore[union-attr]
        first, end = layers[0], layers[0] + len(layers)
        if layers != list(range(first, end)) or len(set(self._kinds[first:end])) > 1:
            return None
        return None if self._kinds[first] is None else range(first, end)

    def layer(self, layers: range) -> Layer | None:
        """One layer that is all of these; None where they lie on different devices."""
        for pack in self._packs:
            if pack.covers(layers) and pack.holds(self._stack):
                return pack.layer(layers)
        if len({self._place(index) for index in layers}) > 1:
            return None
        # All that can be stacked with them: groups that overlap shall not take turns in moving
        # the weights.
        around = self._around(layers)
        pack = _Pack.of([self._stack.layer(index) for index in around], around)
        self._packs = [one for one in self._packs if not pack.overlaps(one)] + [pack]
        self.moves += 1
        return pack.layer(layers)

    def _around(self, layers: range) -> range:
        """The longest run of layers alike that holds these."""
        first, end = layers[0], layers[-1] + 1
        same = self._kinds[first], self._place(first)
        while first > 0 and (self._kinds[first - 1], self._place(first - 1)) == same:
            first -= 1
        while end < len(self._kinds) and (self._kinds[end], self._place(end)) == same:
            end += 1
        return range(first, end)

    def _place(self, index: int) -> tuple[torch.device, torch.dtype]:
        layer = self._stack.layer(index)
        return layer.device, layer.attn_norm.weight.dtype

    def join_slots(self, slots: list[StepSlot], plan: Plan) -> None:
        """Give the steps of each group whose layers are alike parts of one memory, in place."""
        for group, first in plan.placed_groups:
            end = first + len(group.branches)
            if self.layers(group) is None:
                continue
            own: list[AttentionSlot] = [slot.attn for slot in slots[first:end]]
            if len({slot.k.device for slot in own}) == 1:
                k, v = torch.cat([slot.k for slot in own]), torch.cat([slot.v for slot in own])
                block = AttentionBlock(k, v, len(own))
                slots[first:end] = [StepSlot(part) for part in block.slots()]


def joint_slot(slots: Sequence[StepSlot]) -> StepSlot | None:
    """The one memory of which these slots of a group are the parts; None where they are not."""
    first = slots[0].attn
    return StepSlot(first.block) if isinstance(first, BlockSlot) else None


def _kinds(config: StackConfig) -> list[int | None]:
    """Equal numbers for layers of equal configuration; None for those that cannot be stacked."""
    known: list[LayerConfig] = []
    kinds: list[int | None] = []
    for layer in config.layers:
        if not isinstance(layer.attn, AttentionConfig) or not isinstance(layer.ffn, MLPConfig):
            kinds.append(None)
            continue
        if layer not in known:
            known.append(layer)
        kinds.append(known.index(layer))
    return kinds


class _Pack:
    """Stacked parameters (M, ...) of neighbouring layers, by name."""

    def __init__(self, layers: range, stacked: dict[str, Tensor], like: Layer) -> None:
        self.layers, self.stacked, self.like = layers, stacked, like
        self._slices = [
            (place, name.split("."), x[place].data_ptr())
            for place in range(len(layers))
            for name, x in stacked.items()
        ]
        self._made: dict[range, Layer] = {}

    @classmethod
    def of(cls, members: Sequence[Layer], layers: range) -> _Pack:
        """Stack the parameters of the members, which become slices of what is made."""
        owned = [dict(member.named_parameters()) for member in members]
        stacked = {}
        for name in owned[0]:
            own = [parameters[name] for parameters in owned]
            stacked[name] = torch.stack([parameter.detach() for parameter in own])
            for parameter, part in zip(own, stacked[name], strict=True):
                parameter.data = part
        return cls(layers, stacked, members[0])

    def covers(self, layers: range) -> bool:
        return layers[0] in self.layers and layers[-1] in self.layers

    def overlaps(self, other: _Pack) -> bool:
        return not set(self.layers).isdisjoint(other.layers)

    def holds(self, stack: Stack) -> bool:
        """Whether the layers' parameters are still the slices that they were made."""
        layers = [stack.layer(index) for index in self.layers]
        return all(
            _parameter(layers[place], path).data_ptr() == address
            for place, path, address in self._slices
        )

    def layer(self, layers: range) -> Layer:
        """One layer out of the stacked parameters of these."""
        if layers not in self._made:
            first = layers[0] - self.layers[0]
            parts = {name: x[first : first + len(layers)] for name, x in self.stacked.items()}
            self._made[layers] = _stacked_layer(self.like, parts)
        return self._made[layers]


def _parameter(module: nn.Module, path: Sequence[str]) -> Tensor:
    """A parameter by its path, without the cost of a module's attributes."""
    for name in path[:-1]:
        module = module._modules[name]  # type: ignore[assignment]
    return module._parameters[path[-1]]  # type: ignore[return-value]


def _stacked_layer(like: Layer, parts: dict[str, Tensor]) -> Layer:
    """A layer built like another one, its products and norms made of stacked parameters."""
    layer = like.shell()
    for path, module in list(layer.named_modules()):
        if not isinstance(module, Linear | Norm):
            continue
        weight, bias = parts[f"{path}.weight"], parts.get(f"{path}.bias")
        made: nn.Module
        if isinstance(module, Norm):
            made = _Norm(module, weight, bias)
        else:
            made = _Linear(weight, bias)
        owner, _, name = path.rpartition(".")
        setattr(layer.get_submodule(owner), name, made)
    return layer


class StackedWeight:
    """M weights (M, out, in) as one: `product` takes (M, N, in) to (M, N, out)."""

    def __init__(self, stacked: Tensor) -> None:
        self.shape, self.dtype = stacked.shape, stacked.dtype
        self.transposed = stacked.transpose(1, 2)

    def product(self, x: Tensor) -> Tensor:
        return torch.bmm(x, self.transposed)


class _Linear(nn.Module):
    """`Linear` for rows (M * B, T, in) of M layers."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight, self.bias = StackedWeight(weight), None if bias is None else bias[:, None]

    def forward(self, x: Tensor) -> Tensor:
        out = self._product(self._by_layer(x))
        return out.view(*x.shape[:-1], out.shape[-1])

    __call__ = forward

    def wide(self, x: Tensor) -> Tensor:
        """The product with an fp32 result where fp16 could overflow."""
        rows = self._by_layer(x)
        fp16 = self.weight.dtype == torch.float16
        out = linear_wide(rows, self.weight, self.bias) if fp16 else self._product(rows)
        return out.view(*x.shape[:-1], out.shape[-1])

    def _product(self, rows: Tensor) -> Tensor:
        if self.bias is None:
            return linear(rows, self.weight)
        return torch.baddbmm(self.bias, rows, self.weight.transposed)  # rounded once

    def _by_layer(self, x: Tensor) -> Tensor:
        return x.reshape(self.weight.shape[0], -1, x.shape[-1])


class _Norm(nn.Module):
    """`Norm` for rows (M * B, T, C) of M layers."""

    def __init__(self, like: Norm, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.kind, self.eps, self.size = like.kind, like.eps, like.size
        self.weight, self.bias = weight[:, None], None if bias is None else bias[:, None]

    def forward(self, x: Tensor) -> Tensor:
        plain = F.layer_norm if self.kind == "layer" else F.rms_norm
        # In fp32 and rounded once, as `Norm` does inside its one product.
        wide = x if x.dtype == torch.float64 else x.float()
        out = plain(wide, (self.size,), eps=self.eps)
        out = out.view(self.weight.shape[0], -1, self.size) * self.weight.to(wide.dtype)
        if self.bias is not None:
            out = out + self.bias.to(wide.dtype)
        return out.view(x.shape).to(self.weight.dtype)

    __call__ = forward
