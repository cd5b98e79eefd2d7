"""The layers of a parallel group as one: their weights stacked, their products batched.

Layers that read the same input and are built alike are one layer over more rows: row `m * B + b` is
what layer m does for row b. That saves the overhead of many small operations, so it is done where
the tokens are few; the result equals that of one layer after the other.

Axes: M layers, B rows, T tokens, C channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from laminogram.plans import Group, Plan
from laminogram.stack.cache import AttentionBlock, AttentionSlot, BlockSlot, StepSlot
from laminogram.stack.config import AttentionConfig, LayerConfig, MLPConfig, StackConfig
from laminogram.stack.hooks import is_hooked
from laminogram.stack.layer import Layer
from laminogram.stack.linear import Linear, linear, linear_wide
from laminogram.stack.mixers.attention import Attention
from laminogram.stack.mixers.mlp import MLP
from laminogram.stack.norms import Norm

if TYPE_CHECKING:
    from laminogram.stack.stack import Stack

MOST_TOKENS = {"cpu": 64, "cuda": 1024}
"""Rows times tokens up to which a group runs together, by device: see docs/speed.md."""


def is_faster(x: Tensor) -> bool:
    """Whether a group reads so few tokens that it is faster together, and no gradient is wanted."""
    rows, tokens = x.shape[:2]
    return rows * tokens <= MOST_TOKENS.get(x.device.type, 0) and not torch.is_grad_enabled()


class Together:
    """The stacked layers of a stack, made when a group first asks for them.

    The parameters of the group's layers become slices of the stacked tensors, so that nothing is
    held twice; one kind of weight of these layers exists a second time while they are stacked.
    Weights that were mapped from a file lie in memory afterwards, and slices share a storage, as
    whoever saves or pickles single ones will see. `allowed` switches it off: every layer of a group
    then runs by itself, as does one with other people's hooks or modules in it.
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
        """One layer that is all of these; None where one of them is not as it was built, or where
        they lie on different devices."""
        for pack in self._packs:
            if pack.covers(layers):
                made = pack.layer(layers)
                if pack.holds(layers, self._stack):
                    return made
        # What overlaps is stacked anew as one: groups shall not take turns in moving weights.
        wide = self._with_overlapping(layers)
        members = [self._stack.layer(index) for index in wide]
        if not all(map(_is_plain, members)) or len({_kept_at(member) for member in members}) > 1:
            return None
        # An inference tensor could never be trained again.
        with torch.inference_mode(False), torch.no_grad():
            pack = _Pack.of(members, wide)
        self._packs = [one for one in self._packs if not pack.overlaps(one)] + [pack]
        self.moves += 1
        made = pack.layer(layers)
        return made if pack.holds(layers, self._stack) else None

    def _with_overlapping(self, layers: range) -> range:
        """The layers, and those of every pack that shares one with them."""
        for pack in self._packs:
            if not set(layers).isdisjoint(pack.layers):
                first, last = min(layers[0], pack.layers[0]), max(layers[-1], pack.layers[-1])
                layers = range(first, last + 1)
        return layers

    def forget(self) -> None:
        """Let go of what was stacked: the weights are about to be moved."""
        self._packs = []

    def __getstate__(self) -> dict[str, Any]:
        """A copy of a stack stacks its own layers."""
        return self.__dict__ | {"_packs": []}

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


_PLAIN = (Layer, Attention, MLP, Linear, Norm)


def _is_plain(layer: Layer) -> bool:
    """Whether a layer is made of the modules it was built of, and no hook waits in it."""
    return all(type(module) in _PLAIN and not is_hooked(module) for module in layer.modules())


def _kept_at(layer: Layer) -> tuple[torch.device, torch.dtype]:
    return layer.device, layer.attn_norm.weight.dtype


def _settings(layer: Layer) -> tuple[object, ...]:
    """What a layer computes with beside its parameters."""
    attn, ffn = cast(Attention, layer.attn), cast(MLP, layer.ffn)
    norms = (part.eps for part in layer.modules() if isinstance(part, Norm | _Norm))
    return attn.scale, attn.rope_index, ffn.activation, *norms


class _Pack:
    """Stacked parameters (M, ...) of neighbouring layers, by name."""

    def __init__(self, layers: range, stacked: dict[str, Tensor], members: Sequence[Layer]) -> None:
        self.layers, self.stacked, self.like = layers, stacked, members[0]
        self._parts = [
            _Parts(member, {name: x[place].data_ptr() for name, x in stacked.items()})
            for place, member in enumerate(members)
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
        return cls(layers, stacked, members)

    def covers(self, layers: range) -> bool:
        return layers[0] in self.layers and layers[-1] in self.layers

    def overlaps(self, other: _Pack) -> bool:
        return not set(self.layers).isdisjoint(other.layers)

    def holds(self, layers: range, stack: Stack) -> bool:
        """Whether these layers are still as they were when they were stacked."""
        settings = _settings(self._made[layers])
        return all(
            self._parts[index - self.layers[0]].stand(stack.layer(index), settings)
            for index in layers
        )

    def layer(self, layers: range) -> Layer:
        """One layer out of the stacked parameters of these."""
        if layers not in self._made:
            first = layers[0] - self.layers[0]
            parts = {name: x[first : first + len(layers)] for name, x in self.stacked.items()}
            self._made[layers] = _stacked_layer(self.like, parts)
        return self._made[layers]


class _Parts:
    """The modules and parameters of one layer as they were when it was stacked. Kept as entries of
    their owners' tables: looking is cheap, and it is done at every run."""

    def __init__(self, layer: Layer, addresses: dict[str, int]) -> None:
        self._layer = layer
        self._modules = [
            (owner._modules, name, module)
            for owner in layer.modules()
            for name, module in owner._modules.items()
        ]
        self._weights = [
            (layer.get_submodule(path.rpartition(".")[0])._parameters, path.split(".")[-1], address)
            for path, address in addresses.items()
        ]

    def stand(self, layer: Layer, settings: tuple[object, ...]) -> bool:
        """Whether the layer is that one still, with these settings and nobody's hook in it."""
        return (
            layer is self._layer
            and not is_hooked(layer)
            and _settings(layer) == settings
            and all(
                table.get(name) is module and not (module and is_hooked(module))
                for table, name, module in self._modules
            )
            and all(
                name in table and cast(Tensor, table[name]).data_ptr() == address
                for table, name, address in self._weights
            )
        )


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
        self.offset = like.offset
        self.weight, self.bias = weight[:, None], None if bias is None else bias[:, None]

    def forward(self, x: Tensor) -> Tensor:
        plain = F.layer_norm if self.kind == "layer" else F.rms_norm
        # In fp32 and rounded once, as `Norm` does inside its one product.
        wide = x if x.dtype == torch.float64 else x.float()
        out = plain(wide, (self.size,), eps=self.eps)
        weight = self.weight.to(wide.dtype)
        weight = weight + self.offset if self.offset else weight
        out = out.view(self.weight.shape[0], -1, self.size) * weight
        if self.bias is not None:
            out = out + self.bias.to(wide.dtype)
        return out.view(x.shape).to(self.weight.dtype)

    __call__ = forward
