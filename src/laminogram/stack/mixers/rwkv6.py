"""RWKV-6 "Finch": RWKV-5's time mixing with a decay and a token shift that depend on the input, and
its channel mixing.

Source: Peng et al., "Eagle and Finch: RWKV with Matrix-Valued States and Dynamic Recurrence" (arXiv
2404.05892), and the formulas of the published implementation. Axes: B batch, T tokens, C channels,
H heads, D head, R rank.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from laminogram.stack.config import TimeMix6Config
from laminogram.stack.linear import linear
from laminogram.stack.mixers.rwkv4 import ChannelMix4
from laminogram.stack.mixers.rwkv5 import EagleMix, Inputs
from laminogram.stack.mixers.shift import moved
from laminogram.stack.taps import Taps

ORDER = "wkvrg"  # in which the low-rank products of the token shifts lie in their tensors


class TimeMix6(EagleMix):
    """RWKV-6's time mixing; one site more, w."""

    def __init__(self, config: TimeMix6Config, size: int) -> None:
        super().__init__(config, size, gate=True)
        for name in ("x", *ORDER):
            self.register_parameter(f"mix_{name}", nn.Parameter(torch.empty(size)))
        rank, width = config.mix_rank, self.heads * self.head_dim
        self.mix1 = nn.Parameter(torch.empty(size, len(ORDER) * rank))
        self.mix2 = nn.Parameter(torch.empty(len(ORDER), rank, size))
        self.w0 = nn.Parameter(torch.empty(width))
        self.w1 = nn.Parameter(torch.empty(size, config.decay_rank))
        self.w2 = nn.Parameter(torch.empty(config.decay_rank, width))
        self.bonus = nn.Parameter(torch.empty(self.heads, self.head_dim))

    def _inputs(self, h: Tensor, shifted: Tensor) -> Inputs:
        """A first shift is read for how far the token shifts of the products should go."""
        first = moved(h, shifted, self.get_parameter("mix_x"))
        inner = torch.tanh(linear(first, self.mix1.t())).chunk(len(ORDER), -1)
        inputs = {}
        for name, low, high in zip(ORDER, inner, self.mix2.unbind(0), strict=True):
            share = self.get_parameter(f"mix_{name}") + linear(low, high.t())
            inputs[name] = moved(h, shifted, share)
        return inputs

    def _decay(self, inputs: Inputs, dtype: torch.dtype, taps: Taps) -> Tensor:
        raw = linear(torch.tanh(linear(inputs["w"], self.w1.t())), self.w2.t())
        decay = torch.exp(-torch.exp(self.w0.to(dtype) + raw.to(dtype)))
        return taps("w", self._heads(decay))

    def _bonus(self, dtype: torch.dtype) -> Tensor:
        return self.bonus.to(dtype)


class ChannelMix6(ChannelMix4):
    """RWKV-4's channel mixing with shares of the previous token instead of the present one."""

    def _mixed(self, h: Tensor, shifted: Tensor, mix: Tensor) -> Tensor:
        return moved(h, shifted, mix)
