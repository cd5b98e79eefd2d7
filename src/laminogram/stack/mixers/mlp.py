"""The feed-forward network of Transformers, plain or gated."""

from __future__ import annotations

import torch
from torch import Tensor

from laminogram.stack.config import MLPConfig
from laminogram.stack.context import Context
from laminogram.stack.joined import Joined, Joining
from laminogram.stack.kernels.gated_triton import gated_product, pays
from laminogram.stack.kernels.row_triton import can_activate
from laminogram.stack.linear import Linear
from laminogram.stack.mixers.shift import product_dtype
from laminogram.stack.norms import activation
from laminogram.stack.taps import Taps


class MLP(Joining):
    """`ffn_in (B, T, C) -> ffn_out (B, T, C)`; site ffn_act is what enters the down projection."""

    joinable = ("gate", "up")

    def __init__(self, config: MLPConfig, size: int) -> None:
        super().__init__()
        self.config = config
        self.activation = activation(config.activation)
        self.up = Linear(size, config.intermediate_size, bias=config.bias)
        if config.gated:
            self.gate = Linear(size, config.intermediate_size, bias=config.bias)
        self.down = Linear(config.intermediate_size, size, bias=config.bias)

    def new_slot(self, *_: object) -> None:
        """A feed-forward network remembers nothing."""

    def forward(self, h: Tensor, ctx: Context, slot: None, taps: Taps) -> Tensor:
        return self.down.wide(taps("ffn_act", self.activated(h)))

    def activated(self, h: Tensor) -> Tensor:
        """What enters the down projection: `h (..., C) -> (..., F)`."""
        dtype, joined = product_dtype(self.down.weight), self.joined
        if joined is not None and not torch.is_grad_enabled():
            if dtype is h.dtype and can_activate(self.config.activation) and _in_tiles(joined, h):
                return gated_product(h, joined.weight, self.config.activation)
            gate, up = joined(h)
            return self.activation(gate.to(dtype)) * up.to(dtype)
        if self.config.gated:  # the gate first: its memory is free again when `up` asks for some
            return self.activation(self.gate(h).to(dtype)) * self.up(h).to(dtype)
        return self.activation(self.up(h).to(dtype))


def _in_tiles(joined: Joined, h: Tensor) -> bool:
    """Whether the kernels of `gated_triton` multiply `h (..., C)` here, and pay."""
    dtype = joined.weight.dtype
    return joined.tiled and joined.bias is None and h.dtype is dtype and pays(h, joined.widths[0])
