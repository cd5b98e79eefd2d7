"""The feed-forward network of Transformers, plain or gated."""

from __future__ import annotations

import torch
from torch import Tensor

from laminogram.stack.config import MLPConfig
from laminogram.stack.context import Context
from laminogram.stack.joined import Joining
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
        dtype = product_dtype(self.down.weight)
        if self.joined is not None and not torch.is_grad_enabled():
            gate, up = self.joined(h)
            return self.activation(gate.to(dtype)) * up.to(dtype)
        if self.config.gated:  # the gate first: its memory is free again when `up` asks for some
            return self.activation(self.gate(h).to(dtype)) * self.up(h).to(dtype)
        return self.activation(self.up(h).to(dtype))
