"""RWKV-4: time mixing (a per-channel recurrence) and channel mixing.

Source: Peng et al., "RWKV: Reinventing RNNs for the Transformer Era" (arXiv 2305.13048), and the
formulas of the published implementation. Axes: B batch, T tokens, C channels, A width, F ffn width.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from laminogram.stack import kernels
from laminogram.stack.cache import StateSlot, state_dtype
from laminogram.stack.config import ChannelMix4Config, ChannelMix6Config, TimeMix4Config
from laminogram.stack.context import Context
from laminogram.stack.linear import Linear
from laminogram.stack.mixers.recurrence import token_by_token
from laminogram.stack.mixers.shift import mixed, previous, product_dtype
from laminogram.stack.norms import relu_squared_
from laminogram.stack.taps import Taps


class TimeMix4(nn.Module):
    """`attn_in (B, T, C) -> attn_out (B, T, C)`; sites r, k, v, state, pattern, wkv, z."""

    def __init__(self, config: TimeMix4Config, size: int) -> None:
        super().__init__()
        self.config = config
        width = config.attention_size
        self.mix_k, self.mix_v = nn.Parameter(torch.empty(size)), nn.Parameter(torch.empty(size))
        self.mix_r = nn.Parameter(torch.empty(size))
        self.decay = nn.Parameter(torch.empty(width))
        self.bonus = nn.Parameter(torch.empty(width))
        self.r, self.k = Linear(size, width), Linear(size, width)
        self.v, self.o = Linear(size, width), Linear(width, size)

    def new_slot(
        self, batch: int, capacity: int, device: torch.device, dtype: torch.dtype
    ) -> StateSlot:
        shift = torch.zeros(batch, self.k.weight.shape[1], device=device, dtype=dtype)
        return StateSlot(shift, self._empty_state(batch, device, state_dtype(dtype)))

    def _empty_state(self, batch: int, device: torch.device, dtype: torch.dtype) -> Tensor:
        width = self.config.attention_size
        return kernels.wkv4_empty_state(batch, width, device=device, dtype=dtype)

    def forward(self, h: Tensor, ctx: Context, slot: StateSlot | None, taps: Taps) -> Tensor:
        """`h (B, T, C) -> (B, T, C)`; the slot's shift and state move on by T tokens."""
        shifted = previous(h, None if slot is None else slot.shift)
        r = taps("r", torch.sigmoid(self.r(mixed(h, shifted, self.mix_r))))
        k = taps("k", self.k(mixed(h, shifted, self.mix_k)))
        v = taps("v", self.v(mixed(h, shifted, self.mix_v)))
        wide = state_dtype(h.dtype)
        w, u = -torch.exp(self.decay.to(wide)), self.bonus.to(wide)
        state = None if slot is None else slot.state
        if taps.wants("pattern"):
            taps("pattern", kernels.wkv4_pattern(k, w, u))
        if taps.wants("state"):
            start = self._empty_state(h.shape[0], h.device, wide) if state is None else state

            def step(at: slice, before: Tensor) -> tuple[Tensor, Tensor]:
                return kernels.wkv4(k[:, at], v[:, at], w, u, before)

            wkv, state = token_by_token(step, k.shape[1], start, ctx, taps)
        else:
            wkv, state = kernels.wkv4(k, v, w, u, state, ctx.lengths)
        if slot is not None:
            slot.store(ctx.last(h), state)
        wkv = taps("wkv", wkv)
        z = taps("z", (r * wkv).to(product_dtype(self.o.weight)))
        return self.o.wide(z)


class ChannelMix4(nn.Module):
    """`ffn_in (B, T, C) -> ffn_out (B, T, C)`: squared ReLU gated by a sigmoid receptance."""

    def __init__(self, config: ChannelMix4Config | ChannelMix6Config, size: int) -> None:
        super().__init__()
        self.mix_k = nn.Parameter(torch.empty(size))
        self.mix_r = nn.Parameter(torch.empty(size))
        self.up = Linear(size, config.intermediate_size)
        self.down = Linear(config.intermediate_size, size)
        self.r = Linear(size, size)

    def new_slot(
        self, batch: int, capacity: int, device: torch.device, dtype: torch.dtype
    ) -> StateSlot:
        return StateSlot(torch.zeros(batch, self.mix_k.shape[0], device=device, dtype=dtype))

    def _mixed(self, h: Tensor, shifted: Tensor, mix: Tensor) -> Tensor:
        return mixed(h, shifted, mix)

    def forward(self, h: Tensor, ctx: Context, slot: StateSlot | None, taps: Taps) -> Tensor:
        shifted = previous(h, None if slot is None else slot.shift)
        up = self.up(self._mixed(h, shifted, self.mix_k)).to(product_dtype(self.down.weight))
        gate = torch.sigmoid(self.r(self._mixed(h, shifted, self.mix_r)))
        if slot is not None:
            slot.store(ctx.last(h))  # last: for one token `shifted` is the slot's own memory
        act = taps("ffn_act", relu_squared_(up))
        return gate * self.down.wide(act)
